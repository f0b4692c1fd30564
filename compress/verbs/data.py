# SPDX-License-Identifier: Apache-2.0
"""`compress data inspect PATH`: what a data set holds, and the recipe lines to start from."""

from __future__ import annotations

import argparse
from pathlib import Path

from compress.verbs.answer import OK, Answer, Verbs, add_verb


def add_parser(verbs: Verbs) -> None:
    """`data` with its one verb."""
    about = "look at demonstration data"
    inner = verbs.add_parser("data", help=about, description=about).add_subparsers(
        dest="data_verb", required=True, metavar="VERB"
    )
    parser = add_verb(
        inner, "inspect", _inspect, "show format, episodes, rate, cameras, vectors and sentences of a data set"
    )
    parser.add_argument("path", type=Path, metavar="PATH", help="a data set: LeRobot, RLDS, robomimic or LIBERO")


def _inspect(options: argparse.Namespace) -> Answer:
    from compress.data.formats import detect, open_reader

    contents = open_reader(detect(options.path), options.path).contents()
    return Answer(OK, contents.to_json(), contents.lines())
