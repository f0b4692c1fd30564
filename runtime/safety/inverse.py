# SPDX-License-Identifier: Apache-2.0
"""Tool actions on a joint-controlled arm: damped least squares from row to row, never a jump to another branch.

The first row starts from the joints *seen at the chunk's own observation*. Every row is solved from the one before in
a few steps; near a singularity the damping grows, and the row that can then no longer be reached within tolerance ends
the chunk there. So does a row that would need a joint to move further than it can in the row's time.
"""

from __future__ import annotations

import numpy as np

from runtime.contract.action import ActionSpec
from runtime.contract.chunk import ActionChunk
from runtime.contract.conventions import ActionKind, DimRole, Frame, RotationConvention, Unit
from runtime.errors import ContractError
from runtime.safety.kinematics import Kinematics
from runtime.safety.limits import JointLimits
from runtime.safety.rotations import logarithm, rotation_of
from runtime.safety.trajectory import Floats

STEPS = 6  # per row, at most
NEAR_M, NEAR_RAD = 5e-4, 2e-3  # a row is reached
SINGULAR = 0.05  # singular value of the Jacobian [m or rad per rad] below which damping begins
DAMPING = 0.03  # at a singular value of zero
GROSS_STEP = 4.0  # times what a joint may move in one row; beyond it the chunk would be slowed too much anyway
_SIZES = {
    RotationConvention.AXIS_ANGLE: 3, RotationConvention.EULER_XYZ: 3, RotationConvention.QUATERNION_XYZW: 4,
    RotationConvention.QUATERNION_WXYZ: 4, RotationConvention.ROTATION_6D: 6,
}  # fmt: skip


class ToolRows:
    """Delta, velocity or absolute actions of the TCP, in the base frame or (not absolute) in the tool's own.

    Raises ContractError for a spec that cannot be meant so.
    """

    def __init__(self, spec: ActionSpec, limits: JointLimits, arm: Kinematics) -> None:
        roles = [dim.role for dim in spec.dims]
        self._linear, self._angular = (
            [i for i, role in enumerate(roles) if role is wanted] for wanted in (DimRole.TRANSLATION, DimRole.ROTATION)
        )
        self._spec, self._arm = spec, arm
        self._low, self._high = np.array(limits.low), np.array(limits.high)
        self._most = GROSS_STEP * np.array(limits.velocity) * spec.dt_s
        self._fits(roles)

    def positions(self, chunk: ActionChunk, seen: Floats) -> tuple[Floats, str]:
        """See `runtime.safety.joint_rows.RowSource`."""
        physical = self._spec.to_physical(chunk.values)
        place, turn = self._arm.pose(seen)
        q = seen
        rows: list[Floats] = []
        for index, row in enumerate(physical):
            try:
                place, turn = self._goal(row, place, turn, chunk.dt_s)
            except ValueError as error:  # a quaternion of length zero
                return np.array(rows).reshape(-1, len(seen)), f"row {index} is no pose: {error}"
            found, short = self._solve(q, place, turn)
            if short:
                return np.array(rows).reshape(-1, len(seen)), f"row {index} cannot be reached: {short}"
            if np.any(np.abs(found - q) > self._most):
                joint = int(np.argmax(np.abs(found - q) / self._most))
                return np.array(rows).reshape(-1, len(seen)), (
                    f"row {index} needs {self._arm.joints[joint]} to move {abs(found - q)[joint]:.3f} rad at once: the "
                    "arm is near a singularity or the action is too large"
                )
            q = found
            rows.append(q)
        return np.array(rows), ""

    def _goal(self, row: Floats, place: Floats, turn: Floats, dt_s: float) -> tuple[Floats, Floats]:
        """The pose that a row asks for, given the one before."""
        kind, move = self._spec.kind, row[self._linear]
        if kind is ActionKind.ABSOLUTE:
            return move, rotation_of(row[self._angular], self._spec.rotation)
        span = dt_s if kind is ActionKind.VELOCITY else 1.0
        step = rotation_of(row[self._angular] * span, RotationConvention.AXIS_ANGLE)
        if self._spec.frame is Frame.EEF:
            return place + turn @ move * span, turn @ step
        return place + move * span, step @ turn

    def _solve(self, q: Floats, place: Floats, turn: Floats) -> tuple[Floats, str]:
        """(joints, what is missing or "")."""
        smallest = np.inf
        for _ in range(STEPS):
            at, facing = self._arm.pose(q)
            error = np.concatenate([place - at, logarithm(turn @ facing.T)])
            if np.abs(error[:3]).max() < NEAR_M / 4 and np.abs(error[3:]).max() < NEAR_RAD / 4:
                return q, ""
            u, values, v = np.linalg.svd(self._arm.jacobian(q), full_matrices=False)
            smallest = float(values[-1])
            damping = DAMPING**2 * max(0.0, 1.0 - (smallest / SINGULAR) ** 2)
            q = q + v.T @ (values / (values**2 + damping) * (u.T @ error))
            q = np.clip(q, self._low, self._high)  # not the command: a row that needs more is then not reached
        at, facing = self._arm.pose(q)
        away, turned = float(np.linalg.norm(place - at)), float(np.linalg.norm(logarithm(turn @ facing.T)))
        if away < NEAR_M and turned < NEAR_RAD:
            return q, ""
        beyond = np.any((q <= self._low) | (q >= self._high))
        why = "a joint is at its limit" if beyond else "singular" if smallest < SINGULAR else "too far"
        return q, f"{why}; {away * 1000:.1f} mm and {turned:.3f} rad are missing"

    def _fits(self, roles: list[DimRole]) -> None:
        spec, velocity = self._spec, self._spec.kind is ActionKind.VELOCITY
        absolute = spec.kind is ActionKind.ABSOLUTE
        wanted = {DimRole.TRANSLATION: Unit.METRE_PER_SECOND if velocity else Unit.METRE}
        if spec.rotation is RotationConvention.AXIS_ANGLE:
            wanted[DimRole.ROTATION] = Unit.RADIAN_PER_SECOND if velocity else Unit.RADIAN
        wrong = [dim.name for dim in spec.dims if dim.role in wanted and dim.unit is not wanted[dim.role]]
        size = _SIZES.get(spec.rotation) if absolute else 3  # none: a place without a turn is no pose
        odd = spec.rotation is not RotationConvention.AXIS_ANGLE and not absolute
        if wrong or odd or DimRole.JOINT in roles or len(self._linear) != 3 or len(self._angular) != size:
            raise ContractError(
                f"joint commands: found {spec.kind.value} actions {list(spec.names)} with rotation "
                f"{spec.rotation.value}, expected x, y, z in m and a rotation vector in rad (per second for "
                "velocities), or an absolute pose"
            )
        frames = (Frame.BASE, Frame.WORLD) if absolute else (Frame.BASE, Frame.WORLD, Frame.EEF)
        if spec.frame not in frames:
            raise ContractError(f"joint commands: {spec.kind.value} tool actions in frame {spec.frame.value}")
