# SPDX-License-Identifier: Apache-2.0
"""`ros2 run dropgate_sim regress ARTIFACT`: the simulation regression that a robot asks for before it moves.

Exit codes: 0 pass, 1 fail, 2 error, 130 interrupted (the same command goes on where it stopped).
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

ERROR, INTERRUPTED = 2, 130


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(
        prog="regress",
        description="Run an artifact's policy through the whole ROS stack on a simulated arm, and compare it with "
        "what the same policy did in process on the same scenes.",
        epilog="exit codes: 0 pass, 1 fail, 2 error, 130 interrupted (the same command goes on)",
    )
    made.add_argument("artifact", type=Path, metavar="ARTIFACT", help="a sealed artifact directory")
    made.add_argument("--states", type=int, default=40, metavar="N", help="scenes: the first N of the gate's order")
    made.add_argument("--seed", type=int, metavar="N", help="another order (default: that of the artifact's gate)")
    made.add_argument("--suite", help="another suite (default: that of the artifact's gate)")
    made.add_argument("--robot", default="libero_panda", help="robot file, by name or path (default: libero_panda)")
    made.add_argument("--libero-assets", type=Path, metavar="DIR", help="LIBERO's assets, for its own suites")
    made.add_argument("--out", type=Path, metavar="FOLDER", help="evidence (default: ARTIFACT.regression)")
    made.add_argument("--force", action="store_true", help="start over")
    made.add_argument("--json", action="store_true", help="one JSON object on stdout; progress stays on stderr")
    made.add_argument("--quiet", action="store_true", help="no progress")
    made.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the regression; returns the exit code."""
    options = parser().parse_args(arguments)
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        return _regress(options)
    except KeyboardInterrupt:
        print("\ninterrupted: finished episodes are kept; the same command goes on", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:  # the outermost place: one sentence, or the traceback where it was asked for
        if options.debug:
            traceback.print_exc()
        why = f"{type(error).__name__}: {error}"
        if isinstance(error, ModuleNotFoundError):
            why += ". Next: make install-ros ros-build, or source a ROS 2 installation and the workspace"
        _say(options, {"verdict": "fail", "reason": why, "exit_code": ERROR}, [])
        print(f"regress: {why}", file=sys.stderr)
        return ERROR
    finally:
        signal.signal(signal.SIGTERM, before)


def _regress(options: argparse.Namespace) -> int:
    from compress.progress import choose
    from dropgate_sim.regression import Wish, exit_code, regress, summary
    from dropgate_sim.regression_report import lines

    wish = Wish(
        options.artifact, options.states, options.seed, options.suite, options.robot, options.libero_assets,
        options.out, options.force,
    )  # fmt: skip
    evidence = regress(wish, choose(quiet=options.quiet))
    _say(options, dict(summary(evidence)), lines(evidence))
    return exit_code(evidence)


def _interrupt(*_: object) -> None:
    """Being terminated is being interrupted: the robot's processes are ended first."""
    raise KeyboardInterrupt


def _say(options: argparse.Namespace, data: dict[str, object], text: Sequence[str]) -> None:
    if options.json:
        print(json.dumps(data, indent=2, sort_keys=True))
    elif text:
        print("\n".join(text))


if __name__ == "__main__":
    sys.exit(main())
