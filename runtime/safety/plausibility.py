# SPDX-License-Identifier: Apache-2.0
"""Does a chunk look like anything that the policy was trained on? Range and steps against the training statistics.

A heuristic that may refuse, never permit: what passes here still has every limit before it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.contract.action import ActionSpec
from runtime.contract.conventions import ActionKind, DimRole, NormMethod
from runtime.contract.normalization import Normalization
from runtime.errors import ContractError
from runtime.safety.trajectory import Floats

GROSS = 3.0  # half ranges from the middle: no plan at all
OUTSIDE = 0.5  # share of a chunk's numbers that may lie beyond the trained range
_SIGMA = 3.0  # a mean and a standard deviation as a range


@dataclass(frozen=True, eq=False)
class Plausibility:
    """Trained ranges, physical units.

    Attributes:
        names: of the dimensions, for messages.
        low, high: (D,).
        step: (D,) the largest change from one row to the next.
        arm: (D,) bool, dimensions that count for the share outside: a gripper is always at its ends.
    """

    names: tuple[str, ...]
    low: Floats
    high: Floats
    step: Floats
    arm: NDArray[np.bool_]

    @classmethod
    def of(cls, spec: ActionSpec, trained: Normalization | None = None) -> Plausibility:
        """From the spec's ranges and, where given, the action statistics of the artifact (physical units).

        A step as large as the whole range is the largest that can be called a plan; for deltas, whose rows are steps
        themselves, twice that. Raises ContractError for statistics of another size.
        """
        low, high = spec.low.copy(), spec.high.copy()
        if trained is not None and trained.method is not NormMethod.IDENTITY:
            if trained.dim != spec.dim:
                raise ContractError(f"plausibility: statistics of {trained.dim} dimensions, expected {spec.dim}")
            first, second = trained.first * spec.scale, trained.second * spec.scale
            if trained.method is NormMethod.MEAN_STD:
                first, second = first - _SIGMA * second, first + _SIGMA * second
            known = trained.mask & (second > first)
            low, high = np.where(known, first, low), np.where(known, second, high)
        arm = np.array([dim.role is not DimRole.GRIPPER for dim in spec.dims])
        factor = 1.0 if spec.kind is ActionKind.ABSOLUTE else 2.0
        return cls(spec.names, low, high, factor * (high - low), arm)

    def objection(self, physical: Floats) -> str:
        """What is not plausible about rows (H, D), in words; empty if nothing."""
        middle, half = (self.low + self.high) / 2.0, (self.high - self.low) / 2.0
        excess = np.abs(physical - middle) / half
        if not excess.max() <= GROSS:
            row, column = (int(i) for i in np.unravel_index(int(excess.argmax()), excess.shape))
            return (
                f"row {row} asks {self.names[column]} for {physical[row, column]:.4g}, the policy's own range is "
                f"{self.low[column]:g} to {self.high[column]:g}"
            )
        outside = float(np.mean(excess[:, self.arm] > 1.0 + 1e-6)) if self.arm.any() else 0.0
        if outside > OUTSIDE:
            return f"{outside:.0%} of the chunk lie beyond the range that the policy was trained on"
        steps = np.abs(np.diff(physical, axis=0)) / self.step
        steps[:, ~self.arm] = 0.0
        if steps.size and not steps.max() <= 1.0:
            row, column = (int(i) for i in np.unravel_index(int(steps.argmax()), steps.shape))
            return (
                f"{self.names[column]} jumps from row {row} to row {row + 1} by {steps[row, column]:.1f} trained ranges"
            )
        return ""
