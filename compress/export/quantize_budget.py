# SPDX-License-Identifier: Apache-2.0
"""Quantise as much as the budget allows: the largest error of any action dimension, in commands, decides (gate C).

First everything; where that is too coarse, the matrices at both ends of the graph stay in float, more and more of
them, because they see pixels and commands unmixed. What is still above the budget is refused. Whether the robot still
does its work is not said here: the closed-loop gate is the judge, and it plays the quantised policy.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from compress.export.engine_error import EngineError, answers, engine_errors
from compress.export.errors import ExportError, ParityError
from compress.export.onnx_export import ExportedGraph
from compress.export.quantize import Kind, Quantized, quantize_graph
from runtime.backends.onnxruntime_backend import OnnxRuntimeBackend
from runtime.contract.action import ActionSpec
from runtime.contract.normalization import Normalization

ENDS = (0, 1, 2, 4, 8)
LOWEST, HIGHEST = 1e-4, 0.25  # commands; above a quarter of a command a budget is none


@dataclass(frozen=True)
class Quantize:
    """What is asked for: `kind` of weights, and the largest error [commands] that any action dimension may have.

    Raises:
        ExportError: a budget outside of 0.0001 to 0.25 commands.
    """

    kind: Kind
    budget: float

    def __post_init__(self) -> None:
        if self.kind not in ("int8", "int4"):
            raise ExportError(f"quantize: found {self.kind!r}, expected int8 or int4")
        if not LOWEST <= self.budget <= HIGHEST:
            raise ExportError(f"quantize budget: found {self.budget}, expected {LOWEST} to {HIGHEST} of a command")


@dataclass(frozen=True)
class QuantizeReport:
    """What was quantised and what it costs; goes into `evidence/parity.json`.

    Attributes:
        kind, budget: as asked, the budget in commands.
        quantized: number of matrices.
        kept: nodes of the matrices that stayed float.
        block: rows that share a scale; 0 where a column does.
        bytes_before, bytes_after: of all weights.
        observations: that were compared, with the float graph on the same engine.
        dims: errors by action dimension.
    """

    kind: str
    budget: float
    quantized: int
    kept: tuple[str, ...]
    block: int
    bytes_before: int
    bytes_after: int
    observations: int
    dims: tuple[EngineError, ...]

    @property
    def worst(self) -> EngineError:
        """The dimension with the largest error in commands."""
        return max(self.dims, key=lambda dim: dim.largest_command)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    def describe(self) -> str:
        """One line for people."""
        worst = self.worst
        return (
            f"{self.kind}: {self.quantized} matrices, {len(self.kept)} kept in float, "
            f"{self.bytes_before / 1e6:.1f} -> {self.bytes_after / 1e6:.1f} MB, worst {worst.name} "
            f"{worst.largest_command:.4f} of a command ({worst.largest:.2g} {worst.unit}), budget {self.budget:g}"
        )


def quantize_within(
    graph: ExportedGraph,
    asked: Quantize,
    observations: Mapping[str, Mapping[str, Tensor]],
    action: ActionSpec,
    normalization: Normalization,
    say: Callable[[str], None],
) -> tuple[ExportedGraph, QuantizeReport]:
    """Replace the files of `graph`, which has passed parity, by quantised ones.

    Args:
        graph: float32.
        asked: what to do.
        observations: id -> stage inputs, batch 1.
        action, normalization: turn errors into commands and units.
        say: called with one line per attempt.

    Raises:
        ParityError: no attempt stays within the budget.
        ExportError: there is nothing to quantise, or the quantiser did something else.
    """
    inputs = [{n: v.detach().cpu().numpy() for n, v in tensors.items()} for tensors in observations.values()]
    wanted = answers(OnnxRuntimeBackend(threads=1), graph.path, graph.spec, inputs)
    tried: list[QuantizeReport] = []
    for ends in ENDS:
        with tempfile.TemporaryDirectory(prefix="quantized-", dir=graph.path.parent) as scratch:
            try:
                made = quantize_graph(graph, Path(scratch), asked.kind, ends)
            except ExportError:
                if not tried:
                    raise
                break  # the ends have met
            found = answers(OnnxRuntimeBackend(threads=1), made.graph.path, graph.spec, inputs)
            report = _report(asked, graph, made, len(inputs), engine_errors(found, wanted, action, normalization))
            say(report.describe())
            tried.append(report)
            if report.worst.largest_command <= asked.budget:
                return _replace(graph, made), report
    best = min(tried, key=lambda report: report.worst.largest_command)
    raise ParityError(
        f"quantize {asked.kind}: {best.worst.name} is off by {best.worst.largest_command:.4f} of a command "
        f"({best.worst.largest:.2g} {best.worst.unit}) at best, with {len(best.kept)} matrices in float; the budget is "
        f"{asked.budget:g}. Raise export.quantize_budget, or set export.quantize to "
        f"{'int8 or ' if asked.kind == 'int4' else ''}none"
    )


def _report(
    asked: Quantize, graph: ExportedGraph, made: Quantized, observations: int, dims: tuple[EngineError, ...]
) -> QuantizeReport:
    return QuantizeReport(
        kind=asked.kind,
        budget=asked.budget,
        quantized=len(made.quantized),
        kept=made.kept,
        block=made.block,
        bytes_before=graph.parameters_bytes,
        bytes_after=made.graph.parameters_bytes,
        observations=observations,
        dims=dims,
    )


def _replace(graph: ExportedGraph, made: Quantized) -> ExportedGraph:
    shutil.move(made.graph.path, graph.path)
    shutil.move(made.graph.data, graph.data)
    return replace(made.graph, path=graph.path, data=graph.data)
