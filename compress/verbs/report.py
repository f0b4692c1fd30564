# SPDX-License-Identifier: Apache-2.0
"""`compress report RUN`: the HTML report of a run folder or of a sealed artifact."""

from __future__ import annotations

import argparse
from pathlib import Path

from compress.verbs.answer import OK, Answer, Verbs, add_verb


def add_parser(verbs: Verbs) -> None:
    """`report`."""
    parser = add_verb(verbs, "report", _report, "write the self-contained HTML report of a run folder or an artifact")
    parser.add_argument("folder", type=Path, metavar="RUN_OR_ARTIFACT")
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: report.html in the current folder")


def _report(options: argparse.Namespace) -> Answer:
    from compress.stages.report import build_from

    out = build_from(options.folder, (options.out or Path("report.html")).absolute())
    return Answer(OK, {"report": str(out)}, [f"report: {out}"])
