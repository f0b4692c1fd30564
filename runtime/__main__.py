# SPDX-License-Identifier: Apache-2.0
"""`python -m runtime verify | inspect | build ARTIFACT`, `bench ARTIFACT [ARTIFACT...]`, `check-robot FILE`, and
`worker` for controllers.

Exit 0 = fine, 1 = refused with one sentence, 2 = usage.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from runtime.errors import DropGateRuntimeError

Answer = tuple[bool, dict[str, Any]]
TEXT = "text"  # an answer for people that is lines already


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], Answer] = options.run
    try:
        ok, answer = command(options)
    except (DropGateRuntimeError, OSError) as error:
        print(f"runtime {options.command}: {error}", file=sys.stderr)
        return 1
    print(json.dumps(answer, indent=2, sort_keys=True) if options.json else "\n".join(_lines(answer)))
    return 0 if ok else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m runtime", description="Check, read and time a DropGate artifact directory."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    verify = commands.add_parser(
        "verify", help="compare the directory with its manifest; --run also compares golden outputs"
    )
    verify.add_argument(
        "--run", dest="golden", action="store_true", help="run the policy on its golden inputs (needs onnxruntime)"
    )
    verify.add_argument("--provider", default=None, help="execution provider (default: the manifest's first)")
    inspect = commands.add_parser("inspect", help="verify, then say what the artifact is and what it needs")
    bench = commands.add_parser(
        "bench", help="latency, memory and distance from the floor of one artifact or several in turns; drafts allowed"
    )
    bench.add_argument("--runs", type=int, default=100, help="timed calls of each (default: %(default)s)")
    bench.add_argument("--provider", default=None, help="execution provider (default: the manifest's first)")
    build = commands.add_parser("build", help="build and prove a TensorRT engine for this machine's GPU, and keep it")
    _add_build(build)
    for command, run in ((verify, _verify), (inspect, _inspect), (bench, _bench), (build, _build)):
        command.add_argument("--json", action="store_true", help="print JSON for programs")
        command.set_defaults(run=run)
    robot = commands.add_parser("check-robot", help="is a robot's parameter file complete and without contradiction")
    robot.add_argument("file", type=Path, metavar="FILE", help="launch/config/<robot>.yaml")
    robot.add_argument(
        "--template", action="store_true", help="lines marked CELL may be open: nobody runs this cell yet"
    )
    robot.add_argument("--json", action="store_true", help="print JSON for programs")
    robot.set_defaults(run=_check_robot)
    worker = commands.add_parser("worker", help="answer one controller over an inherited socket; not started by hand")
    _add_worker(worker)
    for command in (verify, inspect, bench, build, worker):
        several: dict[str, Any] = {"nargs": "+"} if command is bench else {}
        command.add_argument(
            "artifact", type=Path, metavar="ARTIFACT", help="artifact directory (holds manifest.json)", **several
        )
    for command in (verify, bench, worker):
        command.add_argument(
            "--backend", default="onnxruntime", help="engine, with options after a colon (default: %(default)s)"
        )
        command.add_argument("--threads", type=int, default=None, help="engine threads (default: all cores but one)")
    return parser


def _add_build(build: argparse.ArgumentParser) -> None:
    build.add_argument("--cache", type=Path, default=None, help="engine cache (default: ~/.cache/dropgate/engines)")
    build.add_argument("--level", type=int, default=3, help="optimisation level 0 to 5 (default: %(default)s)")
    build.add_argument("--workspace-mib", type=int, default=0, help="scratch memory (default: all of the device)")
    build.add_argument("--tf32", action="store_true", help="multiply float32 with 10 bits of mantissa")
    build.add_argument("--no-timing-cache", action="store_true", help="time every kernel again")
    build.add_argument("--any-version", action="store_true", help="accept a TensorRT that the version table lacks")


def _add_worker(worker: argparse.ArgumentParser) -> None:
    worker.add_argument("--fd", type=int, required=True, help="number of the inherited socket")
    worker.add_argument("--provider", default=None, help="execution provider (default: the manifest's first)")
    worker.add_argument(
        "--allow-held", action="store_true", help="also load what the gate held back; only for shadow mode"
    )
    worker.set_defaults(run=_worker, json=False)


def _verify(options: argparse.Namespace) -> Answer:
    from runtime.contract.artifact import read_artifact, verify_artifact

    report = verify_artifact(options.artifact)
    answer: dict[str, Any] = {"ok": report.ok, "directory": str(options.artifact), **dataclasses.asdict(report)}
    if not report.ok:
        return False, answer
    answer["artifact_id"] = read_artifact(options.artifact).manifest.artifact_id
    if options.golden:
        from runtime.inference.golden import golden_parity

        with _load(options) as policy:
            parity = golden_parity(policy)
        answer |= {"engine": policy.description, "golden": dataclasses.asdict(parity), "ok": parity.ok}
    return bool(answer["ok"]), answer


def _inspect(options: argparse.Namespace) -> Answer:
    from runtime.contract.artifact import read_artifact
    from runtime.contract.codec import encode

    manifest = read_artifact(options.artifact).manifest
    ids = {"artifact_id": manifest.artifact_id, "policy_id": manifest.policy_id, "lineage_id": manifest.lineage_id}
    verdict = "draft: no gate verdict" if manifest.gate is None else manifest.gate.verdict.value
    kept = {s.name: f"{len(s.kept)} of {s.original_depth}" for s in manifest.lineage.plan.stacks}
    if options.json:
        return True, {**ids, **encode(manifest)}
    policy = manifest.policy
    return True, {
        **ids,
        "family": manifest.lineage.family,
        "source": f"{manifest.lineage.source.name} @ {manifest.lineage.source.revision}",
        "verdict": verdict,
        "kept_blocks": kept,
        "cameras": [
            f"{i.key} {i.height}x{i.width} {i.colour_order.value} {i.orientation.value}"
            for i in policy.observation.images
        ],
        "state": dict(
            zip(policy.observation.state.names, (u.value for u in policy.observation.state.units), strict=True)
        ),
        "action": {d.name: f"{d.low:g} to {d.high:g} {d.unit.value}, {d.scale:g} per 1.0" for d in policy.action.dims},
        "timing": f"{policy.action.horizon} steps of {policy.action.dt_s:g} s, {policy.action.kind.value}, hold "
        f"{policy.action.hold.value}",
        "engine": f"opset {policy.engine.opset}, {policy.engine.precision.value}, providers "
        f"{', '.join(policy.engine.providers)}",
        "files": {entry.path: f"{entry.size} bytes, {entry.role.value}" for entry in manifest.files},
    }


def _bench(options: argparse.Namespace) -> Answer:
    from runtime.inference.bench import bench, named
    from runtime.inference.bench_table import table

    found = bench(
        named(options.artifact), options.runs,
        backend=options.backend, threads=options.threads, provider=options.provider,
    )  # fmt: skip
    return True, found.to_json() if options.json else {TEXT: table(found)}


def _build(options: argparse.Namespace) -> Answer:
    from runtime.backends.engine_cache import EngineCache
    from runtime.backends.tensorrt_build import BuildSettings
    from runtime.contract.codec import encode
    from runtime.inference.engine_build import build_engine, this_station

    settings = BuildSettings(options.level, options.workspace_mib << 20, options.tf32, not options.no_timing_cache)
    builder, cache = this_station(any_version=options.any_version), EngineCache(options.cache)
    engine, fresh = build_engine(options.artifact, cache, builder, settings, lambda line: print(line, file=sys.stderr))
    folder = cache.root / engine.record.key.digest
    return True, {"built_now": fresh, "entry": str(folder), "record": encode(engine.record)}


def _check_robot(options: argparse.Namespace) -> Answer:
    from runtime.control.robot_check import check_robot

    report = check_robot(options.file)
    ok = not report.refused if options.template else report.ready
    answer = {"ok": ok, **dataclasses.asdict(report)}
    if options.json:
        return ok, answer
    stop = "" if report.stop_s is None else f"; a stop takes at most {report.stop_s:.2f} s"
    lines = [f"{report.robot}: {'ok' if ok else 'refused'}{stop}"]
    lines += [f"  refused: {reason}" for reason in report.refused]
    lines += [f"  to be filled, line {line.number}: {line.text}" for line in report.cell]
    return ok, {TEXT: lines}


def _worker(options: argparse.Namespace) -> Answer:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C belongs to the controller; set before anything slow
    from runtime.inference.worker import run_worker

    served = run_worker(
        options.artifact,
        options.fd,
        backend=options.backend,
        threads=options.threads,
        provider=options.provider,
        allow_held=options.allow_held,
    )
    return True, dataclasses.asdict(served)


def _load(options: argparse.Namespace) -> Any:
    """Neither verify nor bench moves a robot, so drafts, held artifacts and other engines are admitted."""
    from runtime.inference.policy import Policy

    return Policy.load(
        options.artifact,
        options.backend,
        threads=options.threads,
        provider=options.provider,
        allow_unsealed=True,
        require_promoted=False,
        allow_unproven=True,
    )


def _lines(answer: dict[str, Any], indent: str = "") -> list[str]:
    lines: list[str] = []
    if TEXT in answer:
        return list(answer[TEXT])
    for key, value in answer.items():
        if isinstance(value, dict):
            lines += [f"{indent}{key}:", *_lines(value, indent + "  ")]
        elif isinstance(value, (list, tuple)):
            lines.append(f"{indent}{key}: {', '.join(str(item) for item in value) or '-'}")
        else:
            lines.append(f"{indent}{key}: {value:.4g}" if isinstance(value, float) else f"{indent}{key}: {value}")
    return lines


if __name__ == "__main__":
    sys.exit(main())
