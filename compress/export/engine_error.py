# SPDX-License-Identifier: Apache-2.0
"""How far are an engine's actions from the float graph's, per action dimension, in its unit and in commands?

The same question for int8, int4 and bfloat16, for ONNX Runtime and OpenVINO: any `Backend` on any graph of the policy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.export.errors import ParityError
from runtime.backends.base import Backend
from runtime.contract.action import ActionSpec
from runtime.contract.graph import ACTIONS, GraphSpec
from runtime.contract.normalization import Normalization
from runtime.errors import BackendError

Inputs = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class EngineError:
    """Errors of one action dimension over all observations and steps.

    Attributes:
        name, unit: of the dimension.
        largest: absolute, in `unit`.
        largest_command, rms_command: the largest and the root mean square, in commands (1.0 is `ActionDim.scale`).
    """

    name: str
    unit: str
    largest: float
    largest_command: float
    rms_command: float


def answers(backend: Backend, graph: Path, spec: GraphSpec, inputs: Sequence[Inputs]) -> NDArray[np.float64]:
    """The graph's normalised actions (N, H, D). ParityError if the engine fails or answers NaN or infinity."""
    try:
        backend.load(graph, spec)
        found = np.concatenate([backend.infer(tensors)[ACTIONS] for tensors in inputs]).astype(np.float64)
    except BackendError as error:
        raise ParityError(f"{graph.name}: the engine cannot run it: {error}") from error
    finally:
        backend.close()
    if not np.isfinite(found).all():
        raise ParityError(
            f"{graph.name}: observation {int(np.argwhere(~np.isfinite(found))[0][0])} gets NaN or infinity"
        )
    return found


def engine_errors(
    found: NDArray[np.float64], wanted: NDArray[np.float64], action: ActionSpec, normalization: Normalization
) -> tuple[EngineError, ...]:
    """Errors by dimension; `found` and `wanted` (N, H, D) are normalised actions of the same observations."""
    commands = np.abs(found - wanted).reshape(-1, action.dim) * normalization.scale
    largest, rms = commands.max(axis=0), np.sqrt((commands**2).mean(axis=0))
    return tuple(
        EngineError(d.name, d.unit.value, float(largest[i] * d.scale), float(largest[i]), float(rms[i]))
        for i, d in enumerate(action.dims)
    )
