# SPDX-License-Identifier: Apache-2.0
"""Does the exported graph compute what the model computes? Judged in float64, against torch's own error.

Cosine is no gate: a fusion that dropped the padding mask scored 0.9955 on a real step graph. The gate is relative L2
error to a true float64 forward, at most `RATIOS` times that of torch itself at the graph's precision, never stricter
than `FLOOR`; over all observations together and for the worst one alone, because a mask defect shows only where there
is padding. It reads the file that will be shipped, after every rewrite; a graph with an open batch is asked one by one
and all at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compress.export.answers import Array, Inputs, TorchAnswers, engine_for, graph_answers, torch_answers
from compress.export.errors import ParityError
from compress.export.options import GraphOptions
from compress.models.base import ExportStage
from runtime.backends.base import Backend
from runtime.contract.action import ActionSpec
from runtime.contract.conventions import Precision
from runtime.contract.graph import ATTENTION_MASK, INPUT_IDS, GraphSpec
from runtime.contract.normalization import Normalization

RATIOS = {Precision.FP32: 4.0, Precision.FP16: 2.0, Precision.BF16: 2.0}
RATIO, FLOOR, MIN_OBSERVATIONS = RATIOS[Precision.FP32], 1e-6, 8
WORST = 2.0  # floors allowed to one observation alone: a sound graph of a shallow policy had 1.3 of them


@dataclass(frozen=True)
class DimError:
    """Largest absolute error of one action dimension, in `unit`: of the graph, of torch float32, and of torch at the
    graph's precision."""

    name: str
    unit: str
    graph: float
    torch_float32: float
    torch_own: float


@dataclass(frozen=True)
class ParityReport:
    """Outcome of one comparison; errors are relative L2 to float64, in the model's normalised action space.

    Attributes:
        passed: both errors of the graph are within their limits.
        graph, torch_float32, limit: over all observations together.
        worst_graph, worst_torch_float32, worst_limit, worst_observation: of the single worst observation.
        precision: of the graph.
        torch_own, worst_torch_own: of torch at that precision, from which the limits follow.
        batches: sizes that the graph was asked with.
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
    precision: str
    torch_own: float
    worst_torch_own: float
    batches: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data for `evidence/parity.json`."""
        return asdict(self)

    def describe(self) -> str:
        """One line for people."""
        return (
            f"relative error {self.graph:.2e} (limit {self.limit:.2e}; torch {self.precision} {self.torch_own:.2e}), "
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
    options: GraphOptions | None = None,
    backend: Backend | None = None,
    ratio: float | None = None,
    floor: float = FLOOR,
    told: bool = False,
) -> ParityReport:
    """Run every observation through the graph, torch and torch float64, and refuse the graph if it is worse.

    Args:
        stage: the model's own stage, not yet exported.
        graph, spec: the ONNX file and its signature; one output, `actions` (1, H, A).
        observations: id -> stage inputs, batch 1; at least `MIN_OBSERVATIONS`, of different prompt lengths.
        action, normalization: turn normalised errors into physical units.
        options: how the graph was written; as `export_stage` takes them.
        backend: what runs the graph; ONNX Runtime on one thread when None, for bfloat16 ONNX's reference evaluator.
        ratio, floor: of the gate; `RATIOS` of the precision when None.
        told: the graph has one prompt inside, so observations must hold that one alone.

    Raises:
        ParityError: too few or too equal observations, an engine failure, NaN, or an error above the limit.
    """
    lengths, chosen = _lengths(observations, 1 if told else 2), options or GraphOptions()
    engine = backend or engine_for(chosen.precision)
    torch_says = torch_answers(stage, observations, chosen.precision)
    share = RATIOS[chosen.precision] if ratio is None else ratio
    batches = (1, len(observations)) if chosen.dynamic else (1,)
    found = (
        _judge(
            tuple(observations), graph_answers(engine, graph, spec, observations, batch), torch_says, action,
            normalization, Terms(lengths, _engine_name(engine), share, floor, chosen.precision.value, batches),
        )
        for batch in batches
    )  # fmt: skip
    report = max(found, key=lambda made: (not made.passed, made.graph))
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


def _lengths(observations: Mapping[str, Inputs], least: int) -> tuple[int, ...]:
    lengths = tuple(sorted({int(inputs[ATTENTION_MASK].sum()) for inputs in observations.values()}))
    if len(observations) < MIN_OBSERVATIONS or len(lengths) < least:
        wanted = "one length" if least == 1 else "two lengths"
        raise ParityError(
            f"parity: found {len(observations)} observations with prompt lengths {list(lengths)}, expected at least "
            f"{MIN_OBSERVATIONS} with {wanted} or more; give more golden samples, from different tasks"
        )
    return lengths


@dataclass(frozen=True)
class Terms:
    """On which terms a graph is judged; see `ParityReport`."""

    lengths: tuple[int, ...]
    engine: str
    ratio: float
    floor: float
    precision: str
    batches: tuple[int, ...]


def _judge(
    names: tuple[str, ...], graph: Array, torch_says: TorchAnswers, action: ActionSpec, normalization: Normalization,
    terms: Terms,
) -> ParityReport:  # fmt: skip
    truth, single, own = torch_says.truth, torch_says.single, torch_says.own
    labels = {"float64 torch": truth, "float32 torch": single, f"{terms.precision} torch": own, "the graph": graph}
    for label, values in labels.items():
        if not np.isfinite(values).all():
            raise ParityError(
                f"parity: {label} answers NaN or infinity for {names[int(np.argwhere(~np.isfinite(values))[0][0])]}"
            )
    if not np.linalg.norm(truth) > 0.0:
        raise ParityError(
            "parity: the model answers zeros everywhere, so nothing can be compared; load trained weights"
        )
    each = {
        label: [relative_l2(a, t) for a, t in zip(values, truth, strict=True)]
        for label, values in (("graph", graph), ("single", single), ("own", own))
    }
    limit = max(terms.ratio * relative_l2(own, truth), terms.floor)
    worst_limit, worst = max(terms.ratio * max(each["own"]), WORST * terms.floor), int(np.argmax(each["graph"]))
    error = relative_l2(graph, truth)
    return ParityReport(
        passed=error <= limit and each["graph"][worst] <= worst_limit,
        graph=error,
        torch_float32=relative_l2(single, truth),
        limit=limit,
        worst_graph=each["graph"][worst],
        worst_torch_float32=max(each["single"]),
        worst_limit=worst_limit,
        worst_observation=names[worst],
        dims=_dims((graph - truth, single - truth, own - truth), action, normalization),
        observations=names,
        padded_lengths=terms.lengths,
        ratio=terms.ratio,
        floor=terms.floor,
        engine=terms.engine,
        precision=terms.precision,
        torch_own=relative_l2(own, truth),
        worst_torch_own=max(each["own"]),
        batches=terms.batches,
    )


def relative_l2(answer: Array, truth: Array) -> float:
    """||answer - truth|| / ||truth||, over all axes."""
    return float(np.linalg.norm(answer - truth) / max(float(np.linalg.norm(truth)), float(np.finfo(np.float64).tiny)))


def _dims(errors: tuple[Array, ...], action: ActionSpec, normalization: Normalization) -> tuple[DimError, ...]:
    physical = normalization.scale * action.scale
    worst = [np.abs(error).max(axis=tuple(range(error.ndim - 1))) * physical for error in errors]
    return tuple(DimError(d.name, d.unit.value, *(float(w[i]) for w in worst)) for i, d in enumerate(action.dims))


def _engine_name(engine: Backend) -> str:
    from importlib.metadata import PackageNotFoundError, version

    name = str(getattr(engine, "name", type(engine).__name__))
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return name


def observations(collated: Sequence[tuple[str, Inputs]], told: bool = False) -> dict[str, Inputs]:
    """Golden observations by id, plus the padding variants of the first and the last; `told`: those of one prompt."""
    named = dict(collated)
    for name, inputs in dict((*collated[:1], *collated[-1:])).items():
        same = inputs[ATTENTION_MASK]
        found = variants(inputs, name).items()
        named.update((key, value) for key, value in found if not told or value[ATTENTION_MASK] is same)
    return named
