# SPDX-License-Identifier: Apache-2.0
"""The `compress` command: `run` does everything, every stage has a verb of its own, `doctor` comes first.

Exit codes are the interface: 0 ok or promote, 1 hold, 2 error, 130 interrupted. People read stdout, programs ask for
--json; progress goes to stderr. Handlers import what they need, so that --help needs nothing but the standard library.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

from compress.reference import commands as reference
from compress.verbs import bench, convert, data, doctor, gate, import_, keygen, report, run, seal, trust, verify
from compress.verbs.answer import ERROR, INTERRUPTED, OK, Answer

EPILOG = """start with:
  compress doctor                      is everything here?
  compress run recipes/quick.yaml      from the built-in policy to a sealed artifact

exit codes: 0 ok or promote, 1 hold, 2 error, 130 interrupted (the same command resumes)"""


def parser() -> argparse.ArgumentParser:
    """All verbs and their options."""
    top = argparse.ArgumentParser(
        prog="compress",
        description="Make a Vision-Language-Action policy smaller, and prove in simulation that it still works.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--debug", action="store_true", help="show the traceback of an error")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    run.add_parsers(verbs)
    convert.add_parser(verbs)
    import_.add_parser(verbs)
    gate.add_parser(verbs)
    bench.add_parser(verbs)
    verify.add_parser(verbs)
    keygen.add_parser(verbs)
    seal.add_parser(verbs)
    trust.add_parsers(verbs)
    report.add_parser(verbs)
    doctor.add_parser(verbs)
    data.add_parser(verbs)
    reference.add_parser(verbs)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser().parse_args(given)
    as_json = bool(getattr(options, "json", False))
    try:
        with _terminable(), _stdout_is_ours(as_json):
            answer = options.handler(options)
    except KeyboardInterrupt as interrupt:
        answer = _interrupted(options, given, *interrupt.args)
    except Exception as error:  # the outermost place: one sentence, or the traceback where it was asked for
        if options.debug:
            traceback.print_exc()
        answer = Answer(ERROR, {"error": sentence(error)}, [])
        print(f"compress {options.verb}: {sentence(error)}", file=sys.stderr)
    if not isinstance(answer, Answer):
        return int(answer)
    _print(answer, options.verb, as_json)
    return answer.exit_code


def sentence(error: BaseException) -> str:
    """What to tell a person: our own errors speak for themselves, others are named."""
    text = " ".join(str(error).split()) or "no details"
    if isinstance(error, ModuleNotFoundError):
        return f"{text}. Next: compress doctor (it lists what is missing and how to install it)"
    ours = type(error).__module__.split(".")[0] in ("compress", "runtime")
    if ours or isinstance(error, OSError):
        return text
    return f"{type(error).__name__}: {text}. Next: the same command with --debug shows where"


def _interrupted(options: argparse.Namespace, given: Sequence[str], code: int = INTERRUPTED) -> Answer:
    folder = getattr(options, "resume_folder", None)
    again = "compress " + shlex.join(_without_force(given, takes_value=options.verb == "run"))
    kept = f"finished work is kept in {folder}" if folder is not None else "nothing was written"
    print(f"\ninterrupted: {kept}. Resume with: {again}", file=sys.stderr)
    return Answer(code, {"error": "interrupted", "kept": str(folder) if folder else None, "resume": again}, [])


def _without_force(given: Sequence[str], takes_value: bool) -> list[str]:
    """A resumption goes on; it does not start over once more."""
    kept, skip = [], False
    for argument in given:
        if skip:
            skip = False
        elif argument == "--force":
            skip = takes_value
        elif not argument.startswith("--force="):
            kept.append(argument)
    return kept


def _print(answer: Answer, verb: str, as_json: bool) -> None:
    if as_json:
        data = {"verb": verb, "ok": answer.exit_code == OK, "exit_code": answer.exit_code, **answer.data}
        print(json.dumps(data, indent=2, sort_keys=True))
    elif answer.lines:
        print("\n".join(answer.lines))


@contextlib.contextmanager
def _stdout_is_ours(as_json: bool) -> Iterator[None]:
    """With --json, whatever libraries and child processes print to stdout goes to stderr."""
    if not as_json:
        yield
        return
    sys.stdout.flush()
    try:
        kept = os.dup(1)
    except OSError:  # no descriptor 1: somebody else already owns stdout
        yield
        return
    try:
        os.dup2(2, 1)
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends a run the way Ctrl-C does: what is finished is kept, locks and children are released."""

    def stop(number: int, _frame: Any) -> None:
        raise KeyboardInterrupt(128 + number)

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
