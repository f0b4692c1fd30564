# SPDX-License-Identifier: Apache-2.0
"""What a policy commands: names, units, kind, frame, signs, timing and what "do nothing" means.

A *command* is the number that the policy answers and the low-level controller takes; `scale` turns it into the physical
unit (for a normalised OSC delta 1.0 = 0.05 m). Zero is not a safe action: `hold_action` is the only source of a hold.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from runtime.contract import check
from runtime.contract.codec import OMITTED, conform
from runtime.contract.conventions import ActionKind, DimRole, Frame, GripperSign, HoldRule, RotationConvention, Unit
from runtime.errors import ContractError

Float64Array = NDArray[np.float64]


@dataclass(frozen=True)
class ActionDim:
    """One action dimension. `low` and `high` in `unit`; `scale` is the `unit` value of command 1.0.

    Raises ContractError.
    """

    name: str
    role: DimRole
    unit: Unit
    low: float
    high: float
    scale: float = 1.0

    def __post_init__(self) -> None:
        conform(self)
        check.identifier(self.name, "ActionDim.name")
        check.positive(self.scale, f"ActionDim[{self.name}].scale")
        check.require(self.low < self.high, f"ActionDim[{self.name}].low/high", (self.low, self.high), "low < high")


@dataclass(frozen=True)
class ActionSpec:
    """An action chunk of shape (horizon, D), one row every `dt_s` [s]. Raises ContractError.

    Attributes:
        follows: of deltas that were targets for a compliant controller when the policy was trained: the share of a
            delta that the arm moved in the row's time, (0, 1]. None where a delta is the way itself.
    """

    dims: tuple[ActionDim, ...]
    kind: ActionKind
    frame: Frame
    rotation: RotationConvention
    gripper: GripperSign
    horizon: int
    dt_s: float
    hold: HoldRule
    follows: float | None = field(default=None, metadata=OMITTED)

    def __post_init__(self) -> None:
        conform(self)
        check.require(len(self.dims) > 0, "ActionSpec.dims", self.dims, "at least one dimension")
        check.unique(self.names, "ActionSpec.dims names")
        check.positive(self.horizon, "ActionSpec.horizon")
        check.positive(self.dt_s, "ActionSpec.dt_s")
        roles = {dim.role for dim in self.dims}
        self._agree("rotation", self.rotation is not RotationConvention.NONE, DimRole.ROTATION in roles)
        self._agree("gripper", self.gripper is not GripperSign.NONE, DimRole.GRIPPER in roles)
        wanted = HoldRule.REPEAT_LAST if self.kind is ActionKind.ABSOLUTE else HoldRule.ZERO_MOTION
        why = f"{wanted.value!r}: with kind {self.kind.value!r} the other rule moves the arm"
        check.require(self.hold is wanted, "ActionSpec.hold", self.hold.value, why)
        if self.follows is not None:
            check.require(0.0 < self.follows <= 1.0, "ActionSpec.follows", self.follows, "a share in (0, 1]")
            delta = self.kind is ActionKind.DELTA
            check.require(delta, "ActionSpec.follows", self.follows, f"none: the actions are {self.kind.value}")

    def _agree(self, field: str, declared: bool, present: bool) -> None:
        found = getattr(self, field).value
        expected = (
            f"a convention, because a dimension has role {field!r}"
            if present
            else f"'none': no dimension has role {field!r}"
        )
        check.require(declared == present, f"ActionSpec.{field}", found, expected)

    def as_motion(self) -> ActionSpec:
        """The same commands in units of the motion that they caused in training: deltas shortened to what `follows`
        says. For an arm that goes exactly where it is told; unchanged without `follows`."""
        if self.follows is None:
            return self

        def shorter(dim: ActionDim) -> ActionDim:
            if dim.role is DimRole.GRIPPER:
                return dim
            return replace(dim, low=dim.low * share, high=dim.high * share, scale=dim.scale * share)

        share = self.follows
        return replace(self, dims=tuple(shorter(dim) for dim in self.dims), follows=None)

    @property
    def dim(self) -> int:
        """Number of action dimensions D."""
        return len(self.dims)

    @property
    def names(self) -> tuple[str, ...]:
        """Dimension names in order."""
        return tuple(dim.name for dim in self.dims)

    @property
    def scale(self) -> Float64Array:
        """Physical value of command 1.0, shape (D,), in each dimension's unit."""
        return np.array([dim.scale for dim in self.dims], dtype=np.float64)

    @property
    def low(self) -> Float64Array:
        """Lower range, shape (D,), in each dimension's physical unit."""
        return np.array([dim.low for dim in self.dims], dtype=np.float64)

    @property
    def high(self) -> Float64Array:
        """Upper range, shape (D,), in each dimension's physical unit."""
        return np.array([dim.high for dim in self.dims], dtype=np.float64)

    def to_physical(self, command: NDArray[np.floating]) -> Float64Array:
        """Commands (..., D) -> physical values (..., D) in each dimension's unit."""
        return np.asarray(command, dtype=np.float64) * self.scale

    def to_command(self, physical: NDArray[np.floating]) -> Float64Array:
        """Physical values (..., D) -> commands (..., D); inverse of `to_physical`."""
        return np.asarray(physical, dtype=np.float64) / self.scale

    def hold_action(self, last_command: NDArray[np.floating]) -> Float64Array:
        """The command (D,) that keeps the robot as it is, given the last command sent (D,); ContractError if not
        finite.

        There is no hold without history: before the first command the robot is simply not commanded.
        """
        last = np.array(last_command, dtype=np.float64)
        if last.shape != (self.dim,) or not np.isfinite(last).all():
            raise ContractError(
                f"hold_action: found {last.tolist()}, expected {self.dim} finite numbers: the last command sent"
            )
        if self.hold is HoldRule.ZERO_MOTION:
            last[[dim.role is not DimRole.GRIPPER for dim in self.dims]] = 0.0
        return last
