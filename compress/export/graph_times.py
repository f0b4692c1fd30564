# SPDX-License-Identifier: Apache-2.0
"""Milliseconds of several policies' graphs in the engine, side by side: what a plan may know of a robot's latency."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compress.export.bench import Call, interleave
from compress.export.onnx_export import ExportedGraph
from compress.models.base import ExportStage, VlaModel
from runtime.backends.onnxruntime_backend import OnnxRuntimeBackend
from runtime.inference import machine

Export = Callable[[ExportStage, Path], ExportedGraph]


@dataclass(frozen=True, eq=False)
class GraphTime:
    """One graph: `wall` and `cpu` milliseconds, (rounds,) each."""

    wall: NDArray[np.float64]
    cpu: NDArray[np.float64]
    threads: int

    @property
    def p50_ms(self) -> float:
        """Median of the wall times."""
        return float(np.median(self.wall))

    def share_of(self, other: GraphTime) -> float:
        """This one's time over the other's, median of per-round ratios.

        A slow round slows both, which a ratio forgives and a difference does not. One thread's CPU time is its wall
        time on a quiet machine, and hardly changes on a busy one; several threads may wait for each other, so only
        their wall time counts.
        """
        own, its = (self.cpu, other.cpu) if self.threads == 1 else (self.wall, other.wall)
        return float(np.median(own / its))


def graph_times(
    models: Iterable[tuple[str, VlaModel]], export: Export, rounds: int, threads: int
) -> dict[str, GraphTime]:
    """ONNX Runtime's times by name, in turns; a model is needed no longer once its graph is written.

    Args:
        models: names and policies, asked for one after the other.
        export: writes one stage's graph to a folder, as the artifact's will be.
        rounds: timed calls of each.
        threads: of the engine.

    Raises:
        ExportError: a graph cannot be exported.
    """
    with tempfile.TemporaryDirectory(prefix="dropgate-times-") as scratch, ExitStack() as undo:
        calls: dict[str, Call] = {}
        for number, (name, model) in enumerate(models):
            folder = Path(scratch) / str(number)
            folder.mkdir()
            calls[name] = _call(model, folder, export, threads, undo)
        wall, cpu = interleave(calls, rounds)
    return {name: GraphTime(wall[name], cpu[name], threads) for name in calls}


def engine_name(threads: int) -> str:
    """Which engine, how many threads, which processor."""
    return f"onnxruntime, {threads} thread(s), {machine.facts()['cpu']}"


def _call(model: VlaModel, folder: Path, export: Export, threads: int, undo: ExitStack) -> Call:
    """Export every stage and load it; a call runs them one after the other on their example inputs."""
    loaded = []
    for stage in model.stages():
        graph = export(stage, folder)
        engine = OnnxRuntimeBackend(threads=threads)
        engine.load(graph.path, graph.spec)
        undo.callback(engine.close)
        loaded.append((engine, {name: value.numpy() for name, value in stage.example_inputs.items()}))

    def call(_: int) -> object:
        return [engine.infer(inputs) for engine, inputs in loaded]

    return call
