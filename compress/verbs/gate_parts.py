# SPDX-License-Identifier: Apache-2.0
"""`compress gate serve | run | merge | replay`: a gate in parts, on one machine or several."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.verbs.answer import ERROR, HOLD, OK, Answer, progress

if TYPE_CHECKING:
    from compress.gate.engine import EngineFactory
    from compress.gate.spec import GateSpec

ABOUT = """parts of a gate, for several processes or machines (each has its own --help):
  compress gate serve    answer simulators from one process that holds both policies
  compress gate run      run the shard I/N of a gate
  compress gate merge    the verdict of all shards: exit 0 promote, 1 hold, 2 error
  compress gate replay   run logged episodes again and say whether they reproduce"""
Handler = Callable[[argparse.Namespace], Answer]
SpecOf = Callable[[argparse.Namespace], "GateSpec"]


def add_parts(
    gate: argparse.ArgumentParser, add_question: Callable[[argparse.ArgumentParser], None], spec_of: SpecOf
) -> None:
    """`add_question` gives a parser the options that say what is asked; `spec_of` reads them."""
    gate.epilog, gate.formatter_class = ABOUT, argparse.RawDescriptionHelpFormatter
    gate.add_argument(
        "--engine",
        default="local",
        choices=("local", "served", "ray"),
        help="who runs the episodes: processes that load the policies, processes that ask one server, a Ray cluster",
    )
    parts = {
        "serve": _part(gate, "serve", _serve),
        "run": _part(gate, "run", _run),
        "merge": _part(gate, "merge", _merge),
        "replay": _part(gate, "replay", _replay),
    }
    _add_artifacts(parts["serve"], required=True)
    parts["serve"].add_argument("--socket", type=Path, required=True, metavar="DIR", help="folder of the two sockets")
    parts["serve"].add_argument(
        "--batch", type=int, default=1, metavar="N", help="questions at a time, for a look only (default: one by one)"
    )
    run = parts["run"]
    _add_artifacts(run, required=True)
    run.add_argument("--shard", default="1/1", metavar="I/N", help="which share of the plan (default: all)")
    run.add_argument("--output", type=Path, required=True, metavar="DIR", help="the gate's folder, the same for all")
    run.add_argument("--server", type=Path, metavar="DIR", help="ask the `compress gate serve` with this --socket")
    run.set_defaults(spec_of=spec_of)
    add_question(run)
    parts["merge"].add_argument("folder", type=Path, metavar="DIR", help="the gate's folder")
    again = parts["replay"]
    again.add_argument("folder", type=Path, metavar="DIR", help="a gate's folder")
    again.add_argument("--episodes", type=int, default=8, metavar="N", help="how many (default: %(default)s)")
    again.add_argument("--workers", type=int, default=1, metavar="N", help="simulator processes")
    _add_artifacts(again, required=False)
    _dispatch(gate, parts)


def engine_of(options: argparse.Namespace) -> EngineFactory:
    """The engine that --engine names."""
    from compress.gate.engines import engine_named

    return engine_named(options.engine)


def _part(gate: argparse.ArgumentParser, name: str, handler: Handler) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"{gate.prog} {name}")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout; progress stays on stderr")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="the traceback of an error")
    parser.set_defaults(handler=handler)
    return parser


def _add_artifacts(parser: argparse.ArgumentParser, required: bool) -> None:
    for arm in ("candidate", "baseline"):
        parser.add_argument(f"--{arm}", type=Path, required=required, metavar="DIR", help=f"artifact of the {arm}")


def _dispatch(gate: argparse.ArgumentParser, parts: dict[str, argparse.ArgumentParser]) -> None:
    """`gate RECIPE` has an optional positional, which argparse cannot tell from the name of a part."""
    plain = gate.parse_known_args

    def parse(args: Any = None, namespace: Any = None) -> Any:
        if args and args[0] in parts:
            return parts[args[0]].parse_known_args(args[1:], namespace)
        return plain(args, namespace)

    gate.parse_known_args = parse  # type: ignore[method-assign]


def _serve(options: argparse.Namespace) -> Answer:
    from compress.gate.policy_server import PolicyServer

    artifacts = {"candidate": str(options.candidate), "baseline": str(options.baseline)}
    server = PolicyServer(options.socket, artifacts, options.batch)
    print(f"serving in {options.socket}; end with Ctrl-C", file=sys.stderr, flush=True)
    server.forever()
    return Answer(OK, {"socket": str(options.socket)}, [])


def _run(options: argparse.Namespace) -> Answer:
    from compress.gate.engine import local_engine
    from compress.gate.made_with import ONE_BY_ONE
    from compress.gate.run_shard import run_artifacts
    from compress.gate.served_engine import served_by
    from compress.gate.served_policy import batch_of
    from compress.gate.shard import Shard
    from compress.stages.gate import tally

    shard, spec = Shard.parse(options.shard), options.spec_of(options)
    engine, batch = local_engine, ONE_BY_ONE
    if options.server:
        engine, batch = partial(served_by, options.server), batch_of(options.server)
    options.resume_folder = options.output
    with progress(options).bar(f"shard {options.shard}", 0) as bar:
        done = run_artifacts(
            options.candidate, options.baseline, spec, options.output, shard, tally(bar), engine, batch
        )
    data = {"shard": options.shard, "folder": str(done.folder), "episodes": done.episodes, "settled": done.settled}
    said = "all rows together decide" if done.settled else "the other shards are still needed"
    return Answer(OK, data, [f"shard {options.shard}: {done.episodes} episodes in {done.folder}; {said}"])


def _merge(options: argparse.Namespace) -> Answer:
    from compress.gate.merge import merge

    report = merge(options.folder)
    verdict = report.verdict.value
    data = {"verdict": verdict, "reason": report.reason, "folder": str(options.folder), "gate": dict(report.data)}
    code = {"promote": OK, "hold": HOLD}.get(verdict, ERROR)
    return Answer(code, data, [f"{verdict}: {report.reason}", f"evidence: {options.folder}"])


def _replay(options: argparse.Namespace) -> Answer:
    from compress.gate.replay import replay

    given = {arm: getattr(options, arm) for arm in ("candidate", "baseline") if getattr(options, arm) is not None}
    found = replay(options.folder, options.episodes, given, options.workers)
    lines = [found.sentence(), *(f"changed since: {line}" for line in found.changed)]
    lines += [f"  {flip.to_json()}" for flip in (*found.flips, *found.longer)]
    return Answer(OK if found.reproduces else HOLD, found.to_json(), lines)
