# SPDX-License-Identifier: Apache-2.0
"""Joint commands: rows become a cubic trajectory from the last *commanded* state, with a stop at its end.

What is released is motion for `commit_s` and then a constant deceleration to rest, so that a process that dies leaves
an arm that stops by itself. The next release is planned from where this one will be. A trajectory is what
`joint_trajectory_controller` interpolates between positions and velocities: cubic Hermite; limits are checked on
samples of that curve, not on its knots.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from runtime.contract.action import ActionSpec
from runtime.contract.chunk import ActionChunk
from runtime.contract.conventions import ActionKind, DimRole, GripperSign
from runtime.errors import ContractError
from runtime.safety.limits import JointLimits, Timing
from runtime.safety.motion import AdmittedChunk, ChunkRejected, Motion, Situation, gripper_ratio
from runtime.safety.trajectory import Floats, hermite
from runtime.telemetry import StopCause

KNOT_S = 0.02  # between the knots of the committed part
CHECK_S = 0.005  # between the samples that are checked
SLOWER = (1.0, 1.25, 1.6, 2.0, 3.0, 4.0, 6.0, 10.0, 16.0, 32.0)  # tried in turn: from rest the path begins slowly
_SLACK = 1.0 + 1e-6


class JointPath:
    """Absolute, delta or velocity actions of joints. Raises ContractError unless names and units are the robot's."""

    def __init__(self, spec: ActionSpec, limits: JointLimits, timing: Timing) -> None:
        self._spec, self._limits, self._timing = spec, limits, timing
        joints = {dim.name: i for i, dim in enumerate(spec.dims) if dim.role is DimRole.JOINT}
        self._joints = limits.names
        if set(joints) != set(self.names):
            raise ContractError(
                f"joint commands: the policy moves {sorted(joints)}, the robot's joints are {sorted(self.names)}; "
                "give the artifact's names in `joints.names`"
            )
        self._columns = [joints[name] for name in self.names]
        self._gripper = [i for i, dim in enumerate(spec.dims) if dim.role is DimRole.GRIPPER]
        self._low, self._high = np.asarray(limits.low), np.asarray(limits.high)
        self._speed, self._rate = np.asarray(limits.velocity), np.asarray(limits.acceleration)
        self._last: tuple[float, Motion] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The joints, in the order of the limits."""
        return self._joints

    def admit(self, chunk: ActionChunk, situation: Situation) -> AdmittedChunk:
        """Joint positions per row, anchored to the observation of *this* chunk, within limits, slowed as a whole."""
        start = self._observed(situation)
        moves = self._spec.to_physical(chunk.values)[:, self._columns]
        kind = self._spec.kind
        if kind is ActionKind.ABSOLUTE:
            rows = moves
        else:
            rows = start + np.cumsum(moves * (chunk.dt_s if kind is ActionKind.VELOCITY else 1.0), axis=0)
        outside = np.argwhere((rows < self._low) | (rows > self._high))
        if outside.size:
            row, joint = outside[0]
            raise ChunkRejected(
                StopCause.CHUNK_REJECTED,
                f"row {row} takes {self.names[joint]} to {rows[row, joint]:.4g}, allowed are {self._low[joint]:g} to "
                f"{self._high[joint]:g}",
            )
        self._near(rows, start, chunk.dt_s)
        stretch = self._stretch(rows, chunk.dt_s)
        if stretch > self._timing.max_time_scale:
            raise ChunkRejected(
                StopCause.CHUNK_REJECTED,
                f"the chunk would have to be slowed {stretch:.1f} times to keep the joint speeds, at most "
                f"{self._timing.max_time_scale:g} is allowed",
            )
        gripper = None
        if self._gripper:
            opens = self._spec.gripper is GripperSign.NEGATIVE_OPENS
            gripper = gripper_ratio(chunk.values[:, self._gripper[0]], opens)
        return AdmittedChunk(chunk.stamp_s, chunk.dt_s * stretch, rows, gripper, stretch)

    def toward(self, chunk: AdmittedChunk, progress_s: float, situation: Situation, speed: float) -> Motion | None:
        """The fastest of a few tempos that keeps the limits on the sampled curve; None if there is none."""
        if chunk.index_at(progress_s) is None:
            return None
        place, velocity = self._state(situation)
        for slower in SLOWER:
            motion = self._plan(chunk, progress_s, place, velocity, slower / speed)
            if not self._curve_breach(motion):
                return motion
        return None

    def braking(self, situation: Situation) -> Motion | None:
        """Stop from the commanded state, now; None if nothing moves (the tail is over, or nothing was commanded)."""
        place, velocity = self._state(situation)
        if not velocity.any():
            return None
        times, positions, velocities = self._stop(place, velocity)
        return Motion(
            np.append(0.0, times), np.vstack([velocity, velocities]), np.vstack([place, positions]), None, 0.0
        )

    def breach(self, motion: Motion, situation: Situation) -> str:
        """The sampled curve against the limits, and its start against what was commanded and what is measured."""
        if motion.positions is None or np.any(motion.velocities[-1] != 0.0):
            return "a joint trajectory that does not end at rest"
        place, velocity = self._state(situation)
        if np.abs(motion.positions[0] - place).max() > 1e-6 or np.abs(motion.velocities[0] - velocity).max() > 1e-6:
            return "a trajectory that does not start where the last command has led"
        away = np.abs(motion.positions[0] - self._measured(situation))
        if away.max() > self._limits.max_start_jump_rad:
            joint = int(away.argmax())
            return f"{self.names[joint]} is commanded {away[joint]:.3f} away from where it is measured"
        return self._curve_breach(motion)

    def commanded(self, motion: Motion, now_s: float) -> None:
        """Remember the trajectory: the next one starts on it."""
        self._last = (now_s, motion)

    def forget(self) -> None:
        """At rest where the joints are measured."""
        self._last = None

    def _plan(self, chunk: AdmittedChunk, progress_s: float, place: Floats, velocity: Floats, tempo: float) -> Motion:
        """`commit_s` of the cubic through the rows that are still to come, then a stop."""
        index = chunk.index_at(progress_s) or 0
        ends = (np.arange(index, len(chunk.rows)) + 1.0) * chunk.dt_s - progress_s
        times = np.append(0.0, np.maximum(ends, KNOT_S) * tempo)
        points = np.vstack([place, chunk.rows[index:]])
        keep = np.append(True, np.diff(times) > 1e-9)
        times, points = times[keep], points[keep]
        slopes = np.zeros_like(points)
        slopes[1:-1] = (points[2:] - points[:-2]) / (times[2:] - times[:-2])[:, None]
        slopes[0] = velocity
        commit = min(self._timing.commit_s, float(times[-1]))
        grid = np.append(np.arange(0.0, commit - 1e-9, KNOT_S), commit)
        curve = [_before_the_end(times, points, slopes, float(t)) for t in grid]
        positions, velocities = np.stack([p for p, _ in curve]), np.stack([v for _, v in curve])
        tail_t, tail_p, tail_v = self._stop(positions[-1], velocities[-1])
        scale = 1.0 / (tempo * chunk.time_scale)
        gripper = None if chunk.gripper is None else float(chunk.gripper[index])
        return Motion(
            np.append(grid, commit + tail_t),
            np.vstack([velocities, tail_v]),
            np.vstack([positions, tail_p]),
            gripper,
            scale,
        )

    def _stop(self, place: Floats, velocity: Floats) -> tuple[Floats, Floats, Floats]:
        """The end knot of a constant deceleration of all joints together; exact for a cubic. Empty if at rest."""
        duration = float(np.max(np.abs(velocity) / self._rate))
        if duration < 1e-9:
            duration = KNOT_S
        return np.array([duration]), (place + velocity * duration / 2.0)[None], np.zeros((1, len(place)))

    def _curve_breach(self, motion: Motion) -> str:
        """Positions, speeds and accelerations of samples; the first breach in words."""
        positions = motion.positions
        if positions is None:
            return "no positions"
        for k in range(len(motion.times_s) - 1):
            span = motion.times_s[k + 1] - motion.times_s[k]
            u = np.linspace(0.0, 1.0, max(3, int(np.ceil(span / CHECK_S)) + 1))[:, None]
            found = self._segment_breach(span, u, positions[k : k + 2], motion.velocities[k : k + 2])
            if found:
                return found
        return ""

    def _segment_breach(self, span: float, u: Floats, p: Floats, v: Floats) -> str:
        m0, m1 = v[0] * span, v[1] * span
        place = (2 * u**3 - 3 * u**2 + 1) * p[0] + (u**3 - 2 * u**2 + u) * m0 + (3 * u**2 - 2 * u**3) * p[1]
        place = place + (u**3 - u**2) * m1
        speed = ((6 * u**2 - 6 * u) * (p[0] - p[1]) + (3 * u**2 - 4 * u + 1) * m0 + (3 * u**2 - 2 * u) * m1) / span
        rate = ((12 * u - 6) * (p[0] - p[1]) + (6 * u - 4) * m0 + (6 * u - 2) * m1) / span**2
        for name, value, most in (("speed", speed, self._speed), ("acceleration", rate, self._rate)):
            excess = np.abs(value).max(axis=0) / most
            if not excess.max() <= _SLACK:
                joint = int(excess.argmax())
                return f"{name} of {self.names[joint]} reaches {excess[joint]:.3g} times its limit"
        beyond = np.argwhere((place < self._low - 1e-9) | (place > self._high + 1e-9))
        if beyond.size:
            return f"{self.names[int(beyond[0][1])]} would leave its range"
        return ""

    def _stretch(self, rows: Floats, dt_s: float) -> float:
        """The least slowing that keeps speed between rows and change of it, by finite differences."""
        speeds = np.abs(np.diff(rows, axis=0)) / dt_s
        changes = np.abs(np.diff(speeds * np.sign(np.diff(rows, axis=0)), axis=0)) / dt_s
        fast = float((speeds / self._speed).max(initial=0.0))
        return max(1.0, fast, float(np.sqrt((changes / self._rate).max(initial=0.0))))

    def _near(self, rows: Floats, start: Floats, dt_s: float) -> None:
        """The first row must be where the robot was seen, or within one row's travel of it."""
        away = np.abs(rows[0] - start)
        allowed = self._limits.max_start_jump_rad + self._speed * dt_s
        if np.any(away > allowed):
            joint = int((away - allowed).argmax())
            raise ChunkRejected(
                StopCause.CHUNK_REJECTED,
                f"the first row takes {self.names[joint]} {away[joint]:.3f} away from where it was seen, at most "
                f"{allowed[joint]:.3f} is allowed",
            )

    def _observed(self, situation: Situation) -> Floats:
        if situation.observed is None:
            raise ChunkRejected(
                StopCause.OBSERVATION_MISSING, "the joints at the time of the observation are not known"
            )
        return self._by_name(situation.observed.joints)

    def _measured(self, situation: Situation) -> Floats:
        return self._by_name(situation.measured.joints)

    def _by_name(self, joints: Mapping[str, float]) -> Floats:
        missing = [name for name in self.names if name not in joints]
        if missing:
            raise ChunkRejected(StopCause.OBSERVATION_MISSING, f"joints {missing} are not reported by the robot")
        values = np.array([joints[name] for name in self.names], dtype=np.float64)
        if not np.isfinite(values).all():
            raise ChunkRejected(StopCause.OBSERVATION_INVALID, f"joint positions are {values.tolist()}")
        return values

    def _state(self, situation: Situation) -> tuple[Floats, Floats]:
        """Commanded positions and velocities now; the measured ones at rest if nothing has been commanded."""
        if self._last is None or self._last[1].positions is None:
            return self._measured(situation), np.zeros(len(self.names))
        then, motion = self._last
        assert motion.positions is not None
        return hermite(motion.times_s, motion.positions, motion.velocities, situation.now_s - then)


def _before_the_end(times: Floats, points: Floats, slopes: Floats, time: float) -> tuple[Floats, Floats]:
    """`hermite`, but at the last knot its slope instead of rest."""
    if time >= times[-1] - 1e-12:
        return points[-1].copy(), slopes[-1].copy()
    return hermite(times, points, slopes, time)
