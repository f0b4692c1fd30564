# SPDX-License-Identifier: Apache-2.0
"""A policy's stage with guidance, and observations that put it to the test.

What is proven of a guided graph is proven on the same observations twice: once with every weight zero, and once with a
previous chunk that has nothing to do with what the policy would say by itself, frozen at its begin and fading out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compress.export.errors import ExportError
from compress.models.base import ExportStage
from compress.models.flow import FlowSampler
from compress.models.guidance import GuidedSampler
from runtime.contract.action import ActionSpec
from runtime.contract.graph import PREVIOUS_ACTIONS, PREVIOUS_WEIGHTS
from runtime.contract.guidance import prefix_weights

SPREAD = 0.5  # of the previous chunks of a proof, in normalised units
Inputs = Mapping[str, Tensor]


def guided(stage: ExportStage, action: ActionSpec) -> ExportStage:
    """`stage` with the previous chunk as an input; its network is shared.

    Raises:
        ExportError: the policy is not sampled by Euler's method.
    """
    if not isinstance(stage.module, FlowSampler) or not stage.module.euler:
        raise ExportError(
            f"guided: found a {type(stage.module).__name__} that does not follow a flow by Euler's method, expected a "
            "flow-matching policy (pi0, pi05, smolvla, groot_n17); leave export.guided out"
        )
    device = next(iter(stage.example_inputs.values())).device
    free = {name: value.to(device) for name, value in unguided(action).items()}
    module = GuidedSampler(stage.module).train(stage.module.training)
    return replace(stage, module=module, example_inputs={**stage.example_inputs, **free})


def unguided(action: ActionSpec) -> dict[str, Tensor]:
    """The two inputs that say nothing."""
    return {
        PREVIOUS_ACTIONS: torch.zeros(1, action.horizon, action.dim),
        PREVIOUS_WEIGHTS: torch.zeros(1, action.horizon),
    }


def previous_for(name: str, action: ActionSpec) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A previous chunk (horizon, D), normalised, and weights (horizon,), drawn from the observation's name alone.

    Between one row and half of the chunk is frozen, and the last rows are free.
    """
    digest = hashlib.sha256(f"previous\0{name}".encode()).digest()
    draw = np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))
    frozen = int(draw.integers(1, max(2, action.horizon // 2 + 1)))
    actions = SPREAD * draw.standard_normal((action.horizon, action.dim), dtype=np.float32)
    return actions, prefix_weights(action.horizon, frozen, max(frozen, action.horizon - 1))


def with_previous(observations: Mapping[str, Inputs], action: ActionSpec) -> dict[str, dict[str, Tensor]]:
    """Every observation twice: `name` with all weights zero, `name+guided` with the chunk of `previous_for`."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, inputs in observations.items():
        found[name] = {**inputs, **unguided(action)}
        actions, weights = (torch.from_numpy(value)[None] for value in previous_for(name, action))
        found[f"{name}+guided"] = {**inputs, PREVIOUS_ACTIONS: actions, PREVIOUS_WEIGHTS: weights}
    return found
