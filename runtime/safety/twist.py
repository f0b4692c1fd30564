# SPDX-License-Identifier: Apache-2.0
"""Cartesian commands: pose deltas or velocities of the tool centre point become twists, as MoveIt Servo takes them.

A delta of a row is spread over the row's time: twist = delta / dt. Rotations are rotation vectors, which is what an
angular velocity integrates to over one short row. The receiver drops a twist after its time-out; a stop is a fall of
the commanded speed to zero at the allowed rate, and then silence.
"""

from __future__ import annotations

import numpy as np

from runtime.contract.action import ActionSpec
from runtime.contract.chunk import ActionChunk
from runtime.contract.conventions import ActionKind, DimRole, GripperSign, RotationConvention, Unit
from runtime.errors import ContractError
from runtime.safety.limits import CartesianLimits, Timing
from runtime.safety.motion import AdmittedChunk, ChunkRejected, Motion, Situation, gripper_ratio, rotation_between
from runtime.safety.trajectory import Floats
from runtime.telemetry import StopCause

AXES = ("linear.x", "linear.y", "linear.z", "angular.x", "angular.y", "angular.z")
_LINEAR, _ANGULAR = slice(0, 3), slice(3, None)  # of the axes
_ROUNDING = 1e-9
_REST = np.zeros(6)


class TwistPath:
    """Delta or velocity actions of a TCP. Raises ContractError for a spec that cannot be meant as a twist."""

    def __init__(self, spec: ActionSpec, limits: CartesianLimits, timing: Timing) -> None:
        self._spec, self._limits, self._timing = spec, limits, timing
        roles = [dim.role for dim in spec.dims]
        self._linear, self._angular, self._gripper = (
            [i for i, role in enumerate(roles) if role is wanted]
            for wanted in (DimRole.TRANSLATION, DimRole.ROTATION, DimRole.GRIPPER)
        )
        self._units_fit()
        self._last, self._last_s = _REST, -np.inf

    @property
    def names(self) -> tuple[str, ...]:
        """The six axes."""
        return AXES

    def admit(self, chunk: ActionChunk, situation: Situation) -> AdmittedChunk:
        """Physical twists, slowed as a whole until speed and change of speed are within the limits."""
        self._not_moved_away(situation)
        physical = self._spec.to_physical(chunk.values)
        twists = physical[:, self._linear + self._angular]
        if self._spec.kind is ActionKind.DELTA:
            twists = twists / chunk.dt_s
        stretch = self._stretch(twists, chunk.dt_s)
        if stretch > self._timing.max_time_scale:
            raise ChunkRejected(
                StopCause.CHUNK_REJECTED,
                f"the chunk would have to be slowed {stretch:.1f} times to keep the speed limits, at most "
                f"{self._timing.max_time_scale:g} is allowed: this is not a plan for this robot",
            )
        gripper = self._openings(chunk)
        return AdmittedChunk(chunk.stamp_s, chunk.dt_s * stretch, twists / stretch, gripper, stretch)

    def toward(self, chunk: AdmittedChunk, progress_s: float, situation: Situation, speed: float) -> Motion | None:
        """The row's twist, approached at the allowed rate; None if the arm could not stop inside the workspace."""
        index = chunk.index_at(progress_s)
        if index is None:
            return None
        twist = self._slew(chunk.rows[index] * speed, situation.now_s)
        if self._leaves(twist, situation):
            return None
        gripper = None if chunk.gripper is None else float(chunk.gripper[index])
        return Motion(np.zeros(1), twist[None], None, gripper, speed / chunk.time_scale)

    def braking(self, situation: Situation) -> Motion | None:
        """Less speed each time, zero at last; None when zero has been said, or the receiver has timed out."""
        if situation.now_s - self._last_s > self._timing.command_timeout_s or not self._last.any():
            return None
        return Motion(np.zeros(1), self._slew(_REST, situation.now_s)[None], None, None, 0.0)

    def breach(self, motion: Motion, situation: Situation) -> str:
        """Speed and workspace of what is about to be released; a braking motion may point outwards."""
        twist, limits = motion.velocities[0], self._limits
        for name, value, most in (
            ("linear", float(np.linalg.norm(twist[_LINEAR])), limits.linear_m_s),
            ("angular", float(np.linalg.norm(twist[_ANGULAR])), limits.angular_rad_s),
        ):
            if not value <= most * (1.0 + 1e-6):
                return f"{name} speed {value:.4g} is above {most:g}"
        if motion.scale > 0.0:
            return "the arm could not stop inside the workspace" if self._leaves(twist, situation) else ""
        current = self._current(situation.now_s)
        for part in (_LINEAR, _ANGULAR):
            if not np.linalg.norm(twist[part]) <= np.linalg.norm(current[part]) + _ROUNDING:
                return "a stop that speeds up"
        return ""

    def commanded(self, motion: Motion, now_s: float) -> None:
        """Remember the twist: the next one starts from it."""
        self._last, self._last_s = np.array(motion.velocities[0]), now_s

    def forget(self) -> None:
        """At rest."""
        self._last, self._last_s = _REST, -np.inf

    def playing(self, situation: Situation) -> bool:
        """Until the receiver times out."""
        return bool(self._current(situation.now_s).any())

    def clock_stepped(self, by_s: float) -> None:
        """The last twist was sent so much later in the new time."""
        self._last_s += by_s

    def _current(self, now_s: float) -> Floats:
        """What the receiver is doing: the last twist, or nothing once that has timed out."""
        return self._last if now_s - self._last_s <= self._timing.command_timeout_s else _REST

    def _slew(self, wanted: Floats, now_s: float) -> Floats:
        """As far towards `wanted` as the acceleration limits allow in the time since the last command."""
        current = self._current(now_s)
        since = now_s - self._last_s
        span = since if 0.0 <= since <= self._timing.command_timeout_s else self._spec.dt_s
        step = wanted - current
        share = 1.0
        for part, most in ((_LINEAR, self._limits.linear_m_s2), (_ANGULAR, self._limits.angular_rad_s2)):
            size = float(np.linalg.norm(step[part]))
            if size > most * span:
                share = min(share, most * span / size)
        return np.asarray(current + share * step)

    def _stretch(self, twists: Floats, dt_s: float) -> float:
        """The least slowing that keeps speed (falls with it) and row-to-row change (falls with its square)."""
        limits = self._limits
        need = 1.0
        for part, speed, change in (
            (_LINEAR, limits.linear_m_s, limits.linear_m_s2),
            (_ANGULAR, limits.angular_rad_s, limits.angular_rad_s2),
        ):
            speeds = np.linalg.norm(twists[:, part], axis=1)
            changes = np.linalg.norm(np.diff(twists[:, part], axis=0), axis=1) / dt_s
            need = max(need, float(speeds.max()) / speed, float(np.sqrt(changes.max(initial=0.0) / change)))
        return need

    def _leaves(self, twist: Floats, situation: Situation) -> bool:
        """Whether the arm, told `twist` now and then braked, would end outside; going back inside is always allowed."""
        place = situation.measured.tcp_position
        if place is None:
            return True
        velocity = twist[_LINEAR]
        reach = self._timing.command_timeout_s + float(np.linalg.norm(velocity)) / (2.0 * self._limits.linear_m_s2)
        end = place + velocity * reach
        low, high = np.asarray(self._limits.workspace_low), np.asarray(self._limits.workspace_high)
        return bool(np.any((end < low) & (velocity < 0.0)) or np.any((end > high) & (velocity > 0.0)))

    def _not_moved_away(self, situation: Situation) -> None:
        then, now = situation.observed, situation.measured
        if then is None or then.tcp_position is None or now.tcp_position is None:
            raise ChunkRejected(
                StopCause.OBSERVATION_MISSING, "the pose of the tool is not known, so its start cannot be checked"
            )
        moved = float(np.linalg.norm(now.tcp_position - then.tcp_position))
        if not moved <= self._limits.max_start_jump_m:
            raise ChunkRejected(
                StopCause.CHUNK_REJECTED,
                f"the tool is {moved:.3f} m from where the chunk was asked for, at most "
                f"{self._limits.max_start_jump_m:g} m is allowed",
            )
        if then.tcp_rotation is not None and now.tcp_rotation is not None:
            turned = rotation_between(then.tcp_rotation, now.tcp_rotation)
            if not turned <= self._limits.max_start_jump_rad:
                raise ChunkRejected(
                    StopCause.CHUNK_REJECTED,
                    f"the tool is turned by {turned:.3f} rad since the chunk was asked for, at most "
                    f"{self._limits.max_start_jump_rad:g} rad is allowed",
                )

    def _openings(self, chunk: ActionChunk) -> Floats | None:
        if not self._gripper:
            return None
        return gripper_ratio(chunk.values[:, self._gripper[0]], self._spec.gripper is GripperSign.NEGATIVE_OPENS)

    def _units_fit(self) -> None:
        spec, velocity = self._spec, self._spec.kind is ActionKind.VELOCITY
        wanted = {
            DimRole.TRANSLATION: Unit.METRE_PER_SECOND if velocity else Unit.METRE,
            DimRole.ROTATION: Unit.RADIAN_PER_SECOND if velocity else Unit.RADIAN,
        }
        wrong = [dim.name for dim in spec.dims if dim.role in wanted and dim.unit is not wanted[dim.role]]
        if spec.kind is ActionKind.ABSOLUTE or len(self._linear) != 3 or len(self._angular) != 3 or wrong:
            raise ContractError(
                f"twist commands: found {spec.kind.value} actions {list(spec.names)}, expected delta or velocity of "
                "x, y, z and a rotation vector, in m and rad; joint actions need the joint_trajectory interface"
            )
        if spec.rotation is not RotationConvention.AXIS_ANGLE:
            raise ContractError(f"twist commands: found rotations as {spec.rotation.value}, expected axis_angle")
