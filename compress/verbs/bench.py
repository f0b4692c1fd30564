# SPDX-License-Identifier: Apache-2.0
"""`compress bench ARTIFACT [ARTIFACT...]`: latency, memory and distance from the floor, in turns, on this machine."""

from __future__ import annotations

import argparse
from pathlib import Path

from compress.verbs.answer import OK, Answer, Verbs, add_verb

FILE = "bench"


def add_parser(verbs: Verbs) -> None:
    """`bench`."""
    parser = add_verb(
        verbs,
        "bench",
        _bench,
        "time artifacts side by side as the robot runs them, and compare with the machine's floor",
    )
    parser.add_argument(
        "artifact", type=Path, nargs="+", metavar="ARTIFACT", help="artifact directories; the first is the reference"
    )
    parser.add_argument("--rounds", type=int, default=100, help="timed calls of each (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of the engine (default: %(default)s)")
    parser.add_argument("--backend", default="onnxruntime", help="engine (default: %(default)s)")
    parser.add_argument("--provider", help="execution provider (default: the manifest's first)")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help=f"write {FILE}.json, {FILE}.svg and {FILE}.png there"
    )


def _bench(options: argparse.Namespace) -> Answer:
    from compress.atomic import write_json
    from compress.export.bench_artifacts import bench_artifacts, table

    found = bench_artifacts(options.artifact, options.rounds, options.backend, options.threads, options.provider)
    data, lines = found.to_json(), table(found)
    if options.output is None:
        return Answer(OK, data, lines)
    from compress.report.bench_plot import plot

    options.output.mkdir(parents=True, exist_ok=True)
    write_json(options.output / f"{FILE}.json", data)
    written = [options.output / f"{FILE}.json", *plot(data, options.output / FILE)]
    return Answer(OK, data, [*lines, *(f"wrote {path}" for path in written)])
