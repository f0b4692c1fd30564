# SPDX-License-Identifier: Apache-2.0
"""Does the exported graph compute what the model computes? Judged in float64, against torch's own float32 error.

Cosine is no gate: a fusion that dropped the padding mask scored 0.9955 on a real step graph. The gate is relative L2
error to a true float64 forward, at most `RATIO` times that of torch in float32, never stricter than `FLOOR`; over all
observations together and for the worst one alone, because a mask defect shows only where there is padding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compress.export.errors import ParityError
from compress.export.exact import cpu_copy, forward_float32, forward_float64
from compress.models.base import ExportStage
from runtime.backends.base import Backend
from runtime.backends.onnxruntime_backend import OnnxRuntimeBackend
from runtime.contract.action import ActionSpec
from runtime.contract.graph import ACTIONS, ATTENTION_MASK, INPUT_IDS, GraphSpec
from runtime.contract.normalization import Normalization
from runtime.errors import BackendError

RATIO, FLOOR, MIN_OBSERVATIONS = 4.0, 1e-6, 8
Inputs = Mapping[str, Tensor]
Array = NDArray[np.float64]


@dataclass(frozen=True)
class DimError:
    """Largest absolute error of one action dimension, in `unit`, of the graph and of torch float32."""

    name: str
    unit: str
    graph: float
    torch_float32: float


@dataclass(frozen=True)
class ParityReport:
    """Outcome of one comparison; errors are relative L2 to float64, in the model's normalised action space.

    Attributes:
        passed: both errors of the graph are within their limits.
        graph, torch_float32, limit: over all observations together.
        worst_graph, worst_torch_float32, worst_limit, worst_observation: of the single worst observation.
        dims: per action dimension, in physical units.
        observations, padded_lengths: what was compared; lengths are distinct numbers of real prompt tokens.
        ratio, floor: of the gate.
        engine: name and version of what ran the graph.
    """

    passed: bool
    graph: float
    torch_float32: float
    limit: float
    worst_graph: float
    worst_torch_float32: float
    worst_limit: float
    worst_observation: str
    dims: tuple[DimError, ...]
    observations: tuple[str, ...]
    padded_lengths: tuple[int, ...]
    ratio: float
    floor: float
    engine: str

    def to_json(self) -> dict[str, Any]:
        """Plain data for `evidence/parity.json`."""
        return asdict(self)

    def describe(self) -> str:
        """One line for people."""
        return (
            f"relative error {self.graph:.2e} (limit {self.limit:.2e}; torch float32 {self.torch_float32:.2e}), "
            f"worst observation {self.worst_observation} {self.worst_graph:.2e} (limit {self.worst_limit:.2e})"
        )


def check(
    stage: ExportStage,
    graph: Path,
    spec: GraphSpec,
    observations: Mapping[str, Inputs],
    action: ActionSpec,
    normalization: Normalization,
    *,
    backend: Backend | None = None,
    ratio: float = RATIO,
    floor: float = FLOOR,
) -> ParityReport:
    """Run every observation through the graph, torch float32 and torch float64, and refuse the graph if it is worse.

    Args:
        stage: the model's own stage, not yet exported.
        graph, spec: the ONNX file and its signature; one output, `actions` (1, H, A).
        observations: id -> stage inputs, batch 1; at least `MIN_OBSERVATIONS`, of different prompt lengths.
        action, normalization: turn normalised errors into physical units.
        backend: what runs the graph; ONNX Runtime on one thread when None.
        ratio, floor: of the gate.

    Raises:
        ParityError: too few or too equal observations, an engine failure, NaN, or an error above the limit.
    """
    lengths = _lengths(observations)
    engine = backend or OnnxRuntimeBackend(threads=1)
    answers = _graph_answers(engine, graph, spec, observations)
    ordered = [[inputs[name] for name in stage.example_inputs] for inputs in observations.values()]
    single, double = cpu_copy(stage.module, torch.float32), cpu_copy(stage.module, torch.float64)
    own = np.stack([forward_float32(single, inputs).double().numpy() for inputs in ordered])
    truth = np.stack([forward_float64(double, inputs).numpy() for inputs in ordered])
    report = _judge(
        tuple(observations), answers, own, truth, action, normalization, lengths, _engine_name(engine), ratio, floor
    )
    if not report.passed:
        raise ParityError(
            f"{graph.name} does not compute what the model computes: {report.describe()}. Nothing was sealed; "
            "look at the last change to the model's module or to the exporter, then run: compress export"
        )
    return report


def variants(inputs: Inputs, name: str) -> dict[str, Inputs]:
    """The same observation with its prompt cut to one token, filled to the end, and with noise below the padding."""
    ids, mask = inputs[INPUT_IDS], inputs[ATTENTION_MASK]
    one = torch.zeros_like(mask)
    one[:, 0] = 1
    real = ids[:, : max(1, int(mask.sum()))]
    full = real.repeat(1, -(-ids.shape[1] // real.shape[1]))[:, : ids.shape[1]]
    return {
        f"{name}+one-token": {**inputs, ATTENTION_MASK: one},
        f"{name}+no-padding": {**inputs, INPUT_IDS: full, ATTENTION_MASK: torch.ones_like(mask)},
        f"{name}+noise-in-padding": {**inputs, INPUT_IDS: torch.where(mask.bool(), ids, full)},
    }


def _lengths(observations: Mapping[str, Inputs]) -> tuple[int, ...]:
    lengths = tuple(sorted({int(inputs[ATTENTION_MASK].sum()) for inputs in observations.values()}))
    if len(observations) < MIN_OBSERVATIONS or len(lengths) < 2:
        raise ParityError(
            f"parity: found {len(observations)} observations with prompt lengths {list(lengths)}, expected at least "
            f"{MIN_OBSERVATIONS} with two lengths or more; give more golden samples, from different tasks"
        )
    return lengths


def _graph_answers(engine: Backend, graph: Path, spec: GraphSpec, observations: Mapping[str, Inputs]) -> Array:
    try:
        engine.load(graph, spec)
        answers = [
            engine.infer({n: v.detach().cpu().numpy() for n, v in inputs.items()})[ACTIONS]
            for inputs in observations.values()
        ]
    except BackendError as error:
        raise ParityError(f"{graph.name}: the engine cannot run the exported graph: {error}") from error
    finally:
        engine.close()
    return np.stack(answers).astype(np.float64)


def _judge(
    names: tuple[str, ...], graph: Array, own: Array, truth: Array, action: ActionSpec, normalization: Normalization,
    lengths: tuple[int, ...], engine: str, ratio: float, floor: float,
) -> ParityReport:  # fmt: skip
    for label, values in (("float64 torch", truth), ("float32 torch", own), ("the graph", graph)):
        if not np.isfinite(values).all():
            raise ParityError(
                f"parity: {label} answers NaN or infinity for {names[int(np.argwhere(~np.isfinite(values))[0][0])]}"
            )
    if not np.linalg.norm(truth) > 0.0:
        raise ParityError(
            "parity: the model answers zeros everywhere, so nothing can be compared; load trained weights"
        )
    limit = max(ratio * relative_l2(own, truth), floor)
    graph_each = [relative_l2(a, t) for a, t in zip(graph, truth, strict=True)]
    own_each = [relative_l2(a, t) for a, t in zip(own, truth, strict=True)]
    worst_limit, worst = max(ratio * max(own_each), floor), int(np.argmax(graph_each))
    error = relative_l2(graph, truth)
    return ParityReport(
        passed=error <= limit and graph_each[worst] <= worst_limit,
        graph=error,
        torch_float32=relative_l2(own, truth),
        limit=limit,
        worst_graph=graph_each[worst],
        worst_torch_float32=max(own_each),
        worst_limit=worst_limit,
        worst_observation=names[worst],
        dims=_dims(graph - truth, own - truth, action, normalization),
        observations=names,
        padded_lengths=lengths,
        ratio=ratio,
        floor=floor,
        engine=engine,
    )


def relative_l2(answer: Array, truth: Array) -> float:
    """||answer - truth|| / ||truth||, over all axes."""
    return float(np.linalg.norm(answer - truth) / max(float(np.linalg.norm(truth)), float(np.finfo(np.float64).tiny)))


def _dims(graph: Array, own: Array, action: ActionSpec, normalization: Normalization) -> tuple[DimError, ...]:
    physical = normalization.scale * action.scale
    axes = tuple(range(graph.ndim - 1))
    of_graph, of_torch = (np.abs(error).max(axis=axes) * physical for error in (graph, own))
    return tuple(
        DimError(d.name, d.unit.value, float(of_graph[i]), float(of_torch[i])) for i, d in enumerate(action.dims)
    )


def _engine_name(engine: Backend) -> str:
    from importlib.metadata import PackageNotFoundError, version

    name = str(getattr(engine, "name", type(engine).__name__))
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return name


def observations(collated: Sequence[tuple[str, Inputs]]) -> dict[str, Inputs]:
    """Golden observations by id, plus the padding variants of the first and the last."""
    named = dict(collated)
    for name, inputs in dict((*collated[:1], *collated[-1:])).items():
        named.update(variants(inputs, name))
    return named
