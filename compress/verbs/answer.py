# SPDX-License-Identifier: Apache-2.0
"""What a verb answers: an exit code, data for programs, lines for people. And the options that several verbs share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compress.progress import Progress

OK, HOLD, ERROR, INTERRUPTED = 0, 1, 2, 130
Verbs = argparse._SubParsersAction


@dataclass(frozen=True)
class Answer:
    """Exit code (0 ok or promote, 1 hold, 2 error), JSON-ready data, lines of text."""

    exit_code: int
    data: Mapping[str, Any] = field(default_factory=dict)
    lines: Sequence[str] = ()


def add_verb(
    verbs: Verbs, name: str, handler: Callable[[argparse.Namespace], Answer], about: str
) -> argparse.ArgumentParser:
    """A verb with the options that all of them have."""
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=about, description=about[0].upper() + about[1:] + ".")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout; progress stays on stderr")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error"
    )
    parser.set_defaults(handler=handler)
    return parser


def add_recipe(parser: argparse.ArgumentParser, optional: bool = False) -> None:
    """RECIPE and --output."""
    parser.add_argument(
        "recipe",
        type=Path,
        metavar="RECIPE",
        nargs="?" if optional else None,
        help="a recipe, such as recipes/quick.yaml",
    )
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="the run folder (default: the recipe's, or runs/NAME)"
    )


def progress(options: argparse.Namespace) -> Progress:
    """Where this call reports to."""
    from compress.progress import choose

    return choose(quiet=options.quiet)
