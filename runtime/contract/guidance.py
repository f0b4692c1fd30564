# SPDX-License-Identifier: Apache-2.0
"""`Guidance`: what a policy is told of the chunk that is being executed while it thinks about the next one.

Row i of both belongs to the instant of row i of the chunk that is asked for. The weights are those of real-time
chunking (arXiv 2506.07339, equation 5).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.contract.action import ActionSpec
from runtime.errors import ContractError


@dataclass(frozen=True, eq=False)
class Guidance:
    """Commands (H, D) float32 and weights (H,) float32 in 0..1, read-only; ContractError for anything else.

    Where a weight is zero the commands mean nothing, but they are finite.
    """

    commands: NDArray[np.float32]
    weights: NDArray[np.float32]

    def __post_init__(self) -> None:
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite and is refused below
            commands, weights = (np.array(value, dtype=np.float32) for value in (self.commands, self.weights))
        if commands.ndim != 2 or 0 in commands.shape or weights.shape != commands.shape[:1]:
            raise ContractError(
                f"guidance: found commands {commands.shape} and weights {weights.shape}, expected (H, D) and (H,)"
            )
        for name, values in (("commands", commands), ("weights", weights)):
            if not np.isfinite(values).all():
                bad = np.argwhere(~np.isfinite(values))[0].tolist()
                raise ContractError(f"guidance: found {values[tuple(bad)]} in {name} at {bad}, expected finite numbers")
            values.setflags(write=False)
            object.__setattr__(self, name, values)
        if weights.min() < 0.0 or weights.max() > 1.0:
            raise ContractError(f"guidance: found weights {weights.min()} to {weights.max()}, expected 0 to 1")

    @classmethod
    def none(cls, spec: ActionSpec) -> Guidance:
        """Nothing is said: the policy answers as if it could not be guided."""
        return cls(np.zeros((spec.horizon, spec.dim), np.float32), np.zeros(spec.horizon, np.float32))

    def require(self, spec: ActionSpec) -> None:
        """ContractError unless it has the spec's rows and dimensions."""
        if self.commands.shape != (spec.horizon, spec.dim):
            raise ContractError(
                f"guidance: found commands {self.commands.shape}, expected ({spec.horizon}, {spec.dim})"
            )


def prefix_weights(horizon: int, frozen: int, end: int) -> NDArray[np.float32]:
    """(horizon,): 1 for the first `frozen` rows, falling exponentially, 0 from row `end` on, where nothing was said.

    With c = (end - i) / (end - frozen + 1) the weight of row i between them is c (e^c - 1) / (e - 1).
    """
    end = min(max(end, 0), horizon)
    frozen = min(max(frozen, 0), end)
    rows = np.arange(horizon)
    share = np.clip((end - rows) / (end - frozen + 1), 0.0, 1.0)
    fading = share * np.expm1(share) / math.expm1(1.0)
    return np.where(rows < frozen, 1.0, np.where(rows < end, fading, 0.0)).astype(np.float32)
