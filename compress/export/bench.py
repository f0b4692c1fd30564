# SPDX-License-Identifier: Apache-2.0
"""How fast is the artifact, next to torch and next to the policy it came from? Ratios measured side by side in one run.

Contenders take turns in every round, the order is reversed from round to round, and a ratio is the median of per-round
ratios: a slow moment of a shared machine then slows both sides. A latency without its machine and threads says nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from compress.export.errors import ExportError
from compress.export.exact import cpu_copy, forward_float32
from compress.models.base import VlaModel
from runtime.backends.onnxruntime_backend import OnnxRuntimeBackend
from runtime.contract.artifact import read_artifact
from runtime.contract.graph import ATTENTION_MASK, INPUT_IDS, STATE
from runtime.contract.normalization import Normalizers
from runtime.contract.policy_spec import PolicySpec
from runtime.inference import machine
from runtime.inference.golden import GoldenSample, load_golden
from runtime.inference.policy import Policy
from runtime.inference.preprocess import Preprocessor
from runtime.inference.previous import previous_tensors
from runtime.inference.tokenizer import PromptTokenizer

TORCH, GRAPH, POLICY = "torch", "onnxruntime", "policy"
WARM_UP = 3
Call = Callable[[int], object]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Timing:
    """One contender over all rounds [ms]; `cpu_p50_ms` is CPU time of the process, which other jobs disturb less."""

    name: str
    rounds: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    mean_ms: float
    cpu_p50_ms: float


@dataclass(frozen=True)
class BenchReport:
    """Timings of contenders `<artifact>/<engine>` from one interleaved run.

    Attributes:
        timings: in the order given; engine `torch` is eager float32, `onnxruntime` the graph alone, `policy` the whole
            path of the robot (image bytes in, commands out).
        torch_over_graph: artifact -> median over rounds of torch time / graph time.
        speedup: artifact -> median over rounds of the first artifact's graph time / this one's.
        threads: of torch and of ONNX Runtime alike.
        machine, versions: where it was measured; `load` holds how many processes wanted a CPU `before` and `after`.
    """

    timings: tuple[Timing, ...]
    torch_over_graph: Mapping[str, float]
    speedup: Mapping[str, float]
    threads: int
    machine: Mapping[str, Any]
    versions: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Plain data for `evidence/bench.json`."""
        return asdict(self)

    def timing(self, artifact: str, engine: str) -> Timing:
        """One contender; ExportError lists what there is."""
        for timing in self.timings:
            if timing.name == f"{artifact}/{engine}":
                return timing
        raise ExportError(f"bench: found no {artifact}/{engine}, available: {[t.name for t in self.timings]}")


def compare(
    artifacts: Mapping[str, tuple[Path, VlaModel | None]],
    rounds: int = 100,
    threads: int = 1,
    progress: Say | None = None,
) -> BenchReport:
    """Time artifacts (drafts too) and their torch models on the artifacts' own golden inputs.

    Args:
        artifacts: name -> (artifact directory, the model it was exported from or None); the first is the reference.
        rounds: timed calls per contender.
        threads: of each engine.
        progress: called with one line per artifact.

    Raises:
        ExportError: no artifacts, no rounds or no threads.
        ArtifactError, BackendError: an artifact is damaged or cannot be run here.
    """
    if not artifacts or rounds < 1 or threads < 1:
        raise ExportError(
            f"bench: found {len(artifacts)} artifacts, {rounds} rounds, {threads} threads; expected at least 1 of each"
        )
    before, load = torch.get_num_threads(), machine.load_average()
    torch.set_num_threads(threads)
    calls: dict[str, Call] = {}
    closers: list[Callable[[], None]] = []
    try:
        for name, (folder, model) in artifacts.items():
            found, close = contenders(folder, model, threads)
            calls |= {f"{name}/{engine}": call for engine, call in found.items()}
            closers += close
        wall, cpu = interleave(calls, rounds)
    finally:
        torch.set_num_threads(before)
        for closer in closers:
            closer()
    report = report_of(tuple(artifacts), wall, cpu, threads, load)
    if progress is not None:
        for line in table(report):
            progress(line)
    return report


def interleave(
    calls: Mapping[str, Call], rounds: int
) -> tuple[dict[str, NDArray[np.float64]], dict[str, NDArray[np.float64]]]:
    """Wall and CPU milliseconds by name, (rounds,) each; odd rounds run in reversed order.

    Each contender is called `WARM_UP` times first, untimed.
    """
    wall = {name: np.zeros(rounds) for name in calls}
    cpu = {name: np.zeros(rounds) for name in calls}
    for name in calls:
        for index in range(WARM_UP):
            calls[name](index)
    order = list(calls)
    for index in range(rounds):
        for name in order if index % 2 == 0 else reversed(order):
            cpu_start, start = time.process_time(), time.perf_counter()
            calls[name](index)
            wall[name][index] = (time.perf_counter() - start) * 1e3
            cpu[name][index] = (time.process_time() - cpu_start) * 1e3
    return wall, cpu


def table(report: BenchReport) -> list[str]:
    """The report as aligned text lines."""
    width = max(len(timing.name) for timing in report.timings)
    lines = [f"{'contender':<{width}}  {'p50 ms':>9} {'p95 ms':>9} {'p99 ms':>9} {'CPU p50':>9}"]
    lines += [
        f"{t.name:<{width}}  {t.p50_ms:9.2f} {t.p95_ms:9.2f} {t.p99_ms:9.2f} {t.cpu_p50_ms:9.2f}"
        for t in report.timings
    ]
    lines += [
        f"{name}: graph {ratio:.2f} x as fast as the first artifact's"
        for name, ratio in list(report.speedup.items())[1:]
    ]
    lines += [f"{name}: graph {ratio:.2f} x as fast as torch eager" for name, ratio in report.torch_over_graph.items()]
    return lines


def contenders(folder: Path, model: VlaModel | None, threads: int) -> tuple[dict[str, Call], list[Callable[[], None]]]:
    """What is timed of one artifact, by engine: calls that take a number and answer one golden input, and closers."""
    artifact = read_artifact(folder)
    samples = load_golden(artifact)
    spec = artifact.manifest.policy
    inputs = _inputs(artifact.normalizers(), artifact.read_bytes(spec.prompt.tokenizer_file), spec, samples)
    policy = Policy.load(folder, threads=threads, allow_unsealed=True, require_promoted=False)
    engine = OnnxRuntimeBackend(threads=threads)
    engine.load(artifact.path(spec.graph.file), spec.graph)
    calls: dict[str, Call] = {}
    if model is not None:
        stage = model.stages()[0]
        module = cpu_copy(stage.module, torch.float32)
        tensors = [[torch.from_numpy(given[name].copy()) for name in stage.example_inputs] for given in inputs]
        calls[TORCH] = lambda i: forward_float32(module, tensors[i % len(tensors)])
    calls[GRAPH] = lambda i: engine.infer(inputs[i % len(inputs)])
    calls[POLICY] = lambda i: _infer(policy, samples[i % len(samples)])
    return calls, [policy.close, engine.close]


def _infer(policy: Policy, sample: GoldenSample) -> object:
    return policy.infer(sample.observation, sample.instruction, 0.0, guidance=sample.guidance)


def _inputs(
    norms: Normalizers, tokenizer: bytes, spec: PolicySpec, samples: tuple[GoldenSample, ...]
) -> list[dict[str, NDArray[Any]]]:
    preprocess, prompt = Preprocessor(spec.observation, norms.state), PromptTokenizer(tokenizer, spec.prompt)
    made = []
    for sample in samples:
        tensors = preprocess.tensors(sample.observation)
        ids, mask = prompt.encode(sample.instruction, tensors[STATE][0])
        previous = previous_tensors(spec, norms.action, sample.guidance)
        made.append({**tensors, INPUT_IDS: ids, ATTENTION_MASK: mask, **previous})
    return made


def report_of(
    artifacts: tuple[str, ...],
    wall: Mapping[str, NDArray[np.float64]],
    cpu: Mapping[str, NDArray[np.float64]],
    threads: int,
    load_before: float | None = None,
) -> BenchReport:
    """The report of a run: milliseconds by `<artifact>/<engine>`, (rounds,) each; the first artifact is what the
    speed-ups are relative to."""
    first = wall[f"{artifacts[0]}/{GRAPH}"]
    with_torch = [name for name in artifacts if f"{name}/{TORCH}" in wall]
    return BenchReport(
        timings=tuple(_timing(name, wall[name], cpu[name]) for name in wall),
        torch_over_graph={n: float(np.median(wall[f"{n}/{TORCH}"] / wall[f"{n}/{GRAPH}"])) for n in with_torch},
        speedup={n: float(np.median(first / wall[f"{n}/{GRAPH}"])) for n in artifacts},
        threads=threads,
        machine={**machine.facts(), "load": {"before": load_before, "after": machine.load_average()}},
        versions=machine.versions(),
    )


def _timing(name: str, wall: NDArray[np.float64], cpu: NDArray[np.float64]) -> Timing:
    p50, p95, p99 = (float(value) for value in np.percentile(wall, (50.0, 95.0, 99.0)))
    return Timing(name, len(wall), p50, p95, p99, float(wall.mean()), float(np.median(cpu)))
