# SPDX-License-Identifier: Apache-2.0
"""TensorRT against ONNX Runtime's CUDA provider on a station: build, parity, latency, one JSON report.

NOT YET SEEN on a GPU: no number of it is published, and its first report is to be read with that in mind.

    python benchmarks/tensorrt_station.py ARTIFACT [ARTIFACT ...] --out report.json

Every contender runs the same golden observations through the robot's own `Policy` (image bytes in, commands out) and
the bare engine; rounds are interleaved (A B A B) and their order turns round each time, because a GPU's clock drifts.
A contender that cannot run is in the report with its reason. Exit 0: every artifact has a proven TensorRT engine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from runtime.backends.base import Backend, zeros
from runtime.backends.engine_cache import EngineCache
from runtime.backends.onnxruntime_backend import OnnxRuntimeBackend
from runtime.backends.tensorrt_backend import TensorRtBackend
from runtime.backends.tensorrt_build import BuildSettings
from runtime.contract.artifact import Artifact, read_artifact
from runtime.contract.codec import encode
from runtime.errors import DropGateRuntimeError
from runtime.inference.engine_build import build_engine, this_station
from runtime.inference.golden import golden_parity, load_golden
from runtime.inference.policy import Policy

CUDA, WARM_UP, PER_ROUND = "CUDAExecutionProvider", 10, 20
Contenders = Mapping[str, Callable[[], Backend]]


def contenders(cache: EngineCache) -> Contenders:
    """What is compared; each makes an unloaded engine."""
    return {
        "tensorrt": lambda: TensorRtBackend(cache=cache.root),
        "tensorrt without CUDA graph": lambda: TensorRtBackend(cache=cache.root, cuda_graph=False),
        "onnxruntime CUDA": lambda: OnnxRuntimeBackend(provider=CUDA),
        "onnxruntime CPU": lambda: OnnxRuntimeBackend(),
    }


def measure(artifact: Artifact, makers: Contenders, rounds: int) -> dict[str, Any]:
    """Load, parity and latency of every contender on one artifact."""
    results: dict[str, Any] = {}
    policies: dict[str, tuple[Policy, Backend]] = {}
    for name, make in makers.items():
        started, backend = time.perf_counter(), make()
        try:
            policy = Policy(artifact, backend)
            sample = load_golden(artifact)[0]
            policy.infer(sample.observation, sample.instruction, 0.0)
            first = time.perf_counter() - started
            parity = golden_parity(policy)
        except (DropGateRuntimeError, OSError) as error:
            results[name] = {"status": "cannot run here", "why": str(error)}
            continue
        policies[name] = (policy, backend)
        results[name] = {
            "status": "measured",
            "execution": getattr(backend, "execution", ""),
            "load_to_first_action_s": first,
            "parity_ok": parity.ok,
            "parity_max_abs": parity.max_abs,
            "tolerance": parity.tolerance,
        }
    for name, times in timed(artifact, policies, rounds).items():
        results[name] |= {kind: percentiles(values) for kind, values in times.items()}
    for policy, _ in policies.values():
        policy.close()
    return results


def timed(
    artifact: Artifact, policies: Mapping[str, tuple[Policy, Backend]], rounds: int
) -> dict[str, dict[str, list[float]]]:
    """Milliseconds per call of `policy` and `engine`, by contender."""
    samples, given = load_golden(artifact), zeros(artifact.manifest.policy.graph.inputs)
    times: dict[str, dict[str, list[float]]] = {name: {"policy": [], "engine": []} for name in policies}
    for turn in range(-1, rounds):
        order = list(policies) if turn % 2 else list(reversed(policies))
        for name in order:
            policy, backend = policies[name]
            for call in range(WARM_UP if turn < 0 else PER_ROUND):
                sample = samples[call % len(samples)]
                begun = time.perf_counter()
                policy.infer(sample.observation, sample.instruction, 0.0)
                between = time.perf_counter()
                backend.infer(given)
                ended = time.perf_counter()
                if turn >= 0:
                    times[name]["policy"].append((between - begun) * 1e3)
                    times[name]["engine"].append((ended - between) * 1e3)
    return times


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Of milliseconds."""
    p50, p95, p99 = (float(value) for value in np.percentile(values, (50, 95, 99)))
    return {"calls": len(values), "p50_ms": p50, "p95_ms": p95, "p99_ms": p99, "max_ms": max(values)}


def station_report(directory: Path, cache: EngineCache, settings: BuildSettings, options: Any) -> dict[str, Any]:
    """Build and measure one artifact; a build that fails is in the report."""
    artifact = read_artifact(directory)
    report: dict[str, Any] = {"artifact_id": artifact.manifest.artifact_id, "policy_id": artifact.manifest.policy_id}
    try:
        builder = this_station(any_version=options.any_version)
        engine, fresh = build_engine(directory, cache, builder, settings, say)
        report["build"] = {"status": "built now" if fresh else "found", "record": encode(engine.record)}
    except DropGateRuntimeError as error:
        report["build"] = {"status": "failed", "why": str(error)}
    return report | {"contenders": measure(artifact, contenders(cache), options.rounds)}


def say(line: str) -> None:
    """Progress for people."""
    print(line, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the report; exit 1 where an artifact has no proven engine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifacts", type=Path, nargs="+", metavar="ARTIFACT")
    parser.add_argument("--out", type=Path, default=Path("tensorrt_station.json"))
    parser.add_argument("--cache", type=Path, default=None, help="engine cache folder")
    parser.add_argument("--rounds", type=int, default=10, help=f"of {PER_ROUND} calls each (default: %(default)s)")
    parser.add_argument("--level", type=int, default=3, help="optimisation level 0 to 5")
    parser.add_argument("--any-version", action="store_true", help="accept a TensorRT that the version table lacks")
    options = parser.parse_args(arguments)
    cache, settings = EngineCache(options.cache), BuildSettings(optimization_level=options.level)
    reports = {str(path): station_report(path, cache, settings, options) for path in options.artifacts}
    proven = all(report["build"]["status"] != "failed" for report in reports.values())
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}"
    content = {"machine": machine, "date": time.strftime("%Y-%m-%d"), "proven": proven, "artifacts": reports}
    options.out.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
    for path, report in reports.items():
        say(f"{path}: build {report['build']['status']} {report['build'].get('why', '')}")
        for name, found in report["contenders"].items():
            say(f"  {name}: {found['status']} {found.get('policy', {}).get('p50_ms', found.get('why', ''))}")
    return 0 if proven else 1


if __name__ == "__main__":
    sys.exit(main())
