# SPDX-License-Identifier: Apache-2.0
"""`python -m runtime verify | inspect | admit | build ARTIFACT`, `bench ARTIFACT [ARTIFACT...]`, `replay RECORDING`,
`check-robot FILE`; and `worker`, which controllers start.

Exit 0 = fine, 1 = refused with one sentence, 2 = usage; for `admit` 2 also = it could not be found out.
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
        return 2 if options.command == "admit" else 1
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
    verify.add_argument(
        "--trust", type=Path, default=None, metavar="DIR", help="also check both signatures against this trust store"
    )
    verify.add_argument("--provider", default=None, help="execution provider (default: the manifest's first)")
    admit = commands.add_parser(
        "admit", help="may this artifact move this robot? the controller's decision, as a table"
    )
    _add_admit(admit)
    inspect = commands.add_parser("inspect", help="verify, then say what the artifact is and what it needs")
    bench = commands.add_parser(
        "bench", help="latency, memory and distance from the floor of one artifact or several in turns; drafts allowed"
    )
    bench.add_argument("--runs", type=int, default=100, help="timed calls of each (default: %(default)s)")
    bench.add_argument("--provider", default=None, help="execution provider (default: the manifest's first)")
    build = commands.add_parser("build", help="build and prove a TensorRT engine for this machine's GPU, and keep it")
    _add_build(build)
    runs = ((verify, _verify), (admit, _admit), (inspect, _inspect), (bench, _bench), (build, _build))
    for command, run in runs:
        command.add_argument("--json", action="store_true", help="print JSON for programs")
        command.set_defaults(run=run)
    replay = commands.add_parser("replay", help="do a controller's recording again: the same commands, bit for bit?")
    replay.add_argument("recording", type=Path, metavar="RECORDING", help="an .mcap of the controller, or its .part")
    replay.add_argument("--json", action="store_true", help="print JSON for programs")
    replay.set_defaults(run=_replay)
    robot = commands.add_parser("check-robot", help="is a robot's parameter file complete and without contradiction")
    robot.add_argument("file", type=Path, metavar="FILE", help="launch/config/<robot>.yaml")
    robot.add_argument("--template", action="store_true", help="lines marked CELL may be open: no such cell runs yet")
    robot.add_argument("--json", action="store_true", help="print JSON for programs")
    robot.set_defaults(run=_check_robot)
    worker = commands.add_parser("worker", help="answer one controller over an inherited socket; not started by hand")
    _add_worker(worker)
    for command in (verify, admit, inspect, bench, build, worker):
        several: dict[str, Any] = {"nargs": "+"} if command is bench else {}
        command.add_argument(
            "artifact", type=Path, metavar="ARTIFACT", help="artifact directory (holds manifest.json)", **several
        )
    for command in (verify, admit, bench, worker):
        command.add_argument(
            "--backend", default="onnxruntime", help="engine, with options after a colon (default: %(default)s)"
        )
        command.add_argument("--threads", type=int, default=None, help="engine threads (default: all cores but one)")
    return parser


def _add_admit(admit: argparse.ArgumentParser) -> None:
    admit.add_argument("--trust", type=Path, required=True, metavar="DIR", help="the station's keys.json, revoked.json")
    admit.add_argument("--policy", type=Path, required=True, metavar="FILE", help="the station's policy, JSON")
    admit.add_argument("--robot", required=True, help="name of the robot, as its parameter file says")
    admit.add_argument(
        "--limits-sha256", default=None, metavar="HEX",
        help="of the limits that the station runs with (default: as the regression beside the artifact says)",
    )  # fmt: skip
    admit.add_argument(
        "--camera", dest="cameras", action="append", metavar="KEY", help="what the station feeds; again for each "
        "(default: what the artifact asks for)",
    )  # fmt: skip


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
    worker.add_argument("--prove", action="store_true", help="answer the golden samples before the first request")
    worker.set_defaults(run=_worker, json=False)


def _verify(options: argparse.Namespace) -> Answer:
    from runtime.contract.artifact import read_artifact, verify_artifact

    report = verify_artifact(options.artifact)
    answer: dict[str, Any] = {"ok": report.ok, "directory": str(options.artifact), **dataclasses.asdict(report)}
    if not report.ok:
        return False, answer
    artifact = read_artifact(options.artifact)
    answer["artifact_id"] = artifact.manifest.artifact_id
    answer |= _signatures(artifact, options.trust)
    if options.golden:
        from runtime.inference.golden import golden_parity

        with _load(options) as policy:
            parity = golden_parity(policy)
        answer |= {"engine": policy.description, "golden": dataclasses.asdict(parity), "ok": parity.ok and answer["ok"]}
    return bool(answer["ok"]), answer


def _signatures(artifact: Any, trust: Path | None) -> dict[str, Any]:
    """Who vouches for it; not ok where signatures were asked for and there is no release."""
    from runtime.contract.signed import describe, verify_signed
    from runtime.contract.trust_store import TrustStore
    from runtime.contract.utc_time import utc_now

    if trust is None:
        return describe(None)
    signed = verify_signed(artifact.root, artifact.manifest, artifact.manifest_bytes, TrustStore.load(trust), utc_now())
    return {**describe(signed), "ok": signed.release is not None}


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
        **({"follows": f"{policy.action.follows:g} of a delta"} if policy.action.follows is not None else {}),
        "engine": f"opset {policy.engine.opset}, {policy.engine.precision.value}, providers "
        f"{', '.join(policy.engine.providers)}",
        "files": {entry.path: f"{entry.size} bytes, {entry.role.value}" for entry in manifest.files},
    }


def _admit(options: argparse.Namespace) -> Answer:
    from runtime.inference.admit import Wish, admission, table

    found = admission(
        Wish(
            options.artifact, options.trust, options.policy, options.robot, options.limits_sha256, options.cameras,
            options.backend, options.threads,
        )
    )  # fmt: skip
    return found.admitted, found.to_json() if options.json else {TEXT: table(found)}


def _replay(options: argparse.Namespace) -> Answer:
    from runtime.recording.mcap_file import McapRecording
    from runtime.recording.replay import replay
    from runtime.recording.setup import Setup

    found = McapRecording(options.recording)
    setup = Setup.from_json(found.setup)
    done = replay(setup, found.events())
    answer = {"same": done.same, **dataclasses.asdict(done), "whole_file": found.whole, "about": dict(setup.about)}
    return done.same, answer


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
        prove=options.prove,
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
