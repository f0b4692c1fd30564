# SPDX-License-Identifier: Apache-2.0
"""Guidance -> graph tensors, by the spec: the previous chunk as the network has it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from runtime.contract.graph import PREVIOUS_ACTIONS, PREVIOUS_WEIGHTS
from runtime.contract.guidance import Guidance
from runtime.contract.normalization import Normalization
from runtime.contract.policy_spec import PolicySpec
from runtime.errors import ContractError, ObservationError

NOT_GUIDED = "guidance: the graph of this artifact does not take it; export.guided makes one that does"


def previous_tensors(
    spec: PolicySpec, action: Normalization, guidance: Guidance | None = None
) -> dict[str, NDArray[np.float32]]:
    """`previous_actions` (1, H, D) and `previous_weights` (1, H); nothing for a graph that does not take them.

    `action` normalises commands; None says nothing, so that the graph answers freely. ObservationError for guidance of
    another shape, of values that cannot be normalised, or of a graph that does not take it.
    """
    if not spec.graph.guided:
        if guidance is not None:
            raise ObservationError(NOT_GUIDED)
        return {}
    said = guidance or Guidance.none(spec.action)
    try:
        said.require(spec.action)
        normalised = action.apply(said.commands)
    except ContractError as error:
        raise ObservationError(str(error)) from error
    actions = np.where(said.weights[:, None] > 0.0, normalised, np.float32(0.0))  # free rows say nothing at all
    return {PREVIOUS_ACTIONS: actions[None], PREVIOUS_WEIGHTS: said.weights[None]}
