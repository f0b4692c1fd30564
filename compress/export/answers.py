# SPDX-License-Identifier: Apache-2.0
"""What torch and what an engine answer to the same observations, side by side for `parity`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compress.export.errors import ParityError
from compress.export.exact import cpu_copy, forward_float32, forward_float64, forward_in
from compress.export.onnx_export import DTYPES
from compress.export.reference_engine import ReferenceEngine
from compress.models.base import ExportStage
from runtime.backends.base import Backend
from runtime.backends.onnxruntime_backend import OnnxRuntimeBackend
from runtime.contract.conventions import Precision
from runtime.contract.graph import ACTIONS, GraphSpec
from runtime.errors import BackendError

Inputs = Mapping[str, Tensor]
Array = NDArray[np.float64]


def engine_for(precision: Precision) -> Backend:
    """What runs a graph of that precision on a CPU: ONNX Runtime, which has no bfloat16 there, or the reference."""
    return ReferenceEngine() if precision is Precision.BF16 else OnnxRuntimeBackend(threads=1)


def graph_answers(
    engine: Backend, graph: Path, spec: GraphSpec, observations: Mapping[str, Inputs], batch: int
) -> Array:
    """What an engine says, (N, 1, H, A), asked in groups of `batch`.

    Raises:
        ParityError: the engine cannot load or run the graph.
    """
    wide = replace(
        spec,
        inputs=tuple(replace(t, shape=(batch, *t.shape[1:])) for t in spec.inputs),
        outputs=tuple(replace(t, shape=(batch, *t.shape[1:])) for t in spec.outputs),
    )
    given = [{n: v.detach().cpu().numpy() for n, v in inputs.items()} for inputs in observations.values()]
    groups = [given[start : start + batch] for start in range(0, len(given), batch)]
    try:
        engine.load(graph, wide)
        answers = [
            engine.infer({name: np.concatenate([inputs[name] for inputs in group]) for name in group[0]})[ACTIONS]
            for group in groups
        ]
    except BackendError as error:
        raise ParityError(f"{graph.name}: the engine cannot run the exported graph: {error}") from error
    finally:
        engine.close()
    return np.concatenate(answers).astype(np.float64)[:, None]


@dataclass(frozen=True)
class TorchAnswers:
    """What torch says, (N, 1, H, A) each: in float64, in float32, and at the graph's precision."""

    truth: Array
    single: Array
    own: Array


def torch_answers(stage: ExportStage, observations: Mapping[str, Inputs], precision: Precision) -> TorchAnswers:
    """Every observation alone through `stage` in three precisions, on the CPU."""
    ordered = [[inputs[name] for name in stage.example_inputs] for inputs in observations.values()]
    double, single = cpu_copy(stage.module, torch.float64), cpu_copy(stage.module, torch.float32)
    truth = np.stack([forward_float64(double, inputs).numpy() for inputs in ordered])
    plain = np.stack([forward_float32(single, inputs).double().numpy() for inputs in ordered])
    if precision is Precision.FP32:
        return TorchAnswers(truth, plain, plain)
    small = cpu_copy(stage.module, DTYPES[precision])
    own = [forward_in(small, inputs, DTYPES[precision]).double().numpy() for inputs in ordered]
    return TorchAnswers(truth, plain, np.stack(own))
