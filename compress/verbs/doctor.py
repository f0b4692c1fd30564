# SPDX-License-Identifier: Apache-2.0
"""`compress doctor`: what this machine can do, and how to mend what it cannot."""

from __future__ import annotations

import argparse
from pathlib import Path

from compress.verbs.answer import HOLD, OK, Answer, Verbs, add_verb


def add_parser(verbs: Verbs) -> None:
    """`doctor`."""
    parser = add_verb(
        verbs,
        "doctor",
        _doctor,
        "check this machine for everything a run needs, each with its fix; exit 0 if nothing is missing, else 1",
    )
    parser.add_argument(
        "--folder", type=Path, default=Path(), metavar="DIR", help="where runs will be written (default: here)"
    )


def _doctor(options: argparse.Namespace) -> Answer:
    from dataclasses import asdict

    from compress.doctor import examine, table

    checks = examine(options.folder)
    bad = [check.name for check in checks if check.state == "bad"]
    data = {"ok": not bad, "checks": [asdict(check) for check in checks]}
    return Answer(HOLD if bad else OK, data, table(checks))
