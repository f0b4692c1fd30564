# SPDX-License-Identifier: Apache-2.0
"""`compress report RUN`: the HTML report of a run folder or of a sealed artifact."""

from __future__ import annotations

import argparse
from pathlib import Path

from compress.verbs.answer import OK, Answer, Verbs, add_verb


def add_parser(verbs: Verbs) -> None:
    """`report`."""
    parser = add_verb(
        verbs, "report", _report, "write the self-contained HTML report of a run folder, an artifact or a gate folder"
    )
    parser.add_argument(
        "folder",
        type=Path,
        metavar="RUN_OR_ARTIFACT",
        help="a run folder, an artifact directory, or the folder of a gate",
    )
    parser.add_argument(
        "--out", "--output", type=Path, metavar="FILE", help="default: report.html in the current folder"
    )
    parser.add_argument(
        "--trust", type=Path, metavar="DIR", help="a station's trust store: check and show who built and released it"
    )
    parser.add_argument(
        "--bench",
        type=Path,
        metavar="FILE",
        help="bench.json of `compress bench --output DIR`: latency beside the floor",
    )


def _report(options: argparse.Namespace) -> Answer:
    from compress.report import build

    out = build(options.folder, (options.out or Path("report.html")).absolute(), options.bench, options.trust)
    return Answer(OK, {"report": str(out)}, [f"report: {out}"])
