# SPDX-License-Identifier: Apache-2.0
"""The last look at a joint trajectory before it is released: sampled as its receiver will play it, against every limit.

Shares no code with the planner on purpose: its own interpolation (the quintic that joint_trajectory_controller fits to
positions, velocities and accelerations), its own limits taken from the station, no allowance but rounding. Of the
planner's helpers it uses the kinematics wrapper alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from runtime.safety.kinematics import Kinematics
from runtime.safety.limits import JointLimits
from runtime.safety.trajectory import Floats

STEP_S = 0.002  # 500 Hz, as the controllers of the arms run
DISTANCE_S = 0.04  # between the instants whose distances are computed
SHARED = 4  # instants at which what is still on its way is compared with what is played
_ROUND = 1.0 + 1e-6
_JERK_ROUND = 1.0 + 1e-3  # the third derivative of a fit through float64 knots
_SAME = np.array([1e-7, 1e-6, 1e-4])  # rad, rad/s, rad/s^2: the same point of two trajectories


@dataclass(frozen=True, eq=False)
class Played:
    """What a trajectory controller was given: knots, times in seconds of one clock."""

    times: Floats
    positions: Floats
    velocities: Floats
    accelerations: Floats

    def sample(self, times: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        """Position, velocity, acceleration, jerk (M, D) of the fitted quintics; at rest after the last knot."""
        if len(self.times) < 2:
            still = np.zeros((len(times), self.positions.shape[1]))
            return still + self.positions[-1], still, still, still
        where = np.searchsorted(self.times[1:-1], times, side="right")
        ended = times >= self.times[-1]
        u = np.where(ended, self.times[-1], times) - self.times[where]
        u = np.maximum(u, 0.0)[:, None]
        c0, c1, c2, c3, c4, c5 = (x[where] for x in self._coefficients)
        place = c0 + u * (c1 + u * (c2 + u * (c3 + u * (c4 + u * c5))))
        speed = c1 + u * (2 * c2 + u * (3 * c3 + u * (4 * c4 + u * 5 * c5)))
        rate = 2 * c2 + u * (6 * c3 + u * (12 * c4 + u * 20 * c5))
        jerk = 6 * c3 + u * (24 * c4 + u * 60 * c5)
        if ended.any():
            place[ended], speed[ended], rate[ended], jerk[ended] = self.positions[-1], 0.0, 0.0, 0.0
        return place, speed, rate, jerk

    @cached_property
    def _coefficients(self) -> tuple[Floats, ...]:
        t = np.diff(self.times)[:, None]
        p0, v0, a0 = self.positions[:-1], self.velocities[:-1], self.accelerations[:-1]
        p1, v1, a1 = self.positions[1:], self.velocities[1:], self.accelerations[1:]
        d = p1 - p0
        return (
            p0,
            v0,
            a0 / 2.0,
            (20 * d - (8 * v1 + 12 * v0) * t - (3 * a0 - a1) * t**2) / (2 * t**3),
            (-30 * d + (14 * v1 + 16 * v0) * t + (3 * a0 - 2 * a1) * t**2) / (2 * t**4),
            (12 * d - 6 * (v1 + v0) * t - (a0 - a1) * t**2) / (2 * t**5),
        )


class Monitor:
    """Limits (and the arm that they are of). `objection` is asked before every release."""

    def __init__(self, limits: JointLimits, kinematics: Kinematics | None) -> None:
        self._limits, self._arm = limits, kinematics
        self._low, self._high = np.array(limits.low) - 1e-9, np.array(limits.high) + 1e-9
        self._most = [
            ("speed", np.array(limits.velocity) * _ROUND),
            ("acceleration", np.array(limits.acceleration) * _ROUND),
            ("jerk", np.array(limits.jerk) * _JERK_ROUND),
        ]

    def objection(self, new: Played, before: Played | None, until_s: float) -> str:
        """What is wrong with `new`, in words; empty if nothing.

        Args:
            new: the trajectory.
            before: what the arm is playing, or None if it rests at the first knot of `new`.
            until_s: up to here `new` must be the same motion as `before`: it may still be on its way.
        """
        for array in (new.times, new.positions, new.velocities, new.accelerations):
            if not np.isfinite(array).all():
                return "a trajectory with values that are not finite"
        if len(new.times) < 2 or np.diff(new.times).min() <= 0.0:
            return "a trajectory whose times do not ascend"
        if np.any(new.velocities[-1] != 0.0) or np.any(new.accelerations[-1] != 0.0):
            return "a trajectory that does not end at rest"
        start, end = float(new.times[0]), float(new.times[-1])
        shared = np.linspace(start, max(start, until_s), SHARED)
        found = new.sample(np.concatenate([shared, np.arange(start, end, STEP_S), [end]]))
        objection = self._not_the_same(shared, [values[:SHARED] for values in found[:3]], new, before)
        return objection or self._breach([values[SHARED:] for values in found])

    def _not_the_same(self, times: Floats, found: Sequence[Floats], new: Played, before: Played | None) -> str:
        if before is None:
            rest = new.positions[:1]
            wanted: tuple[Floats, ...] = (np.repeat(rest, SHARED, axis=0), 0.0 * found[1], 0.0 * found[2])
        else:
            wanted = before.sample(times)[:3]
        for name, a, b, most in zip(("place", "speed", "acceleration"), found, wanted, _SAME, strict=False):
            if not np.abs(a - b).max() <= most:
                return f"a trajectory whose {name} does not continue what was commanded before"
        return ""

    def _breach(self, sampled: Sequence[Floats]) -> str:
        place, *derivatives = sampled
        beyond = (place < self._low) | (place > self._high)
        if beyond.any():
            return f"{self._joint(beyond)} would leave its range"
        for (name, most), values in zip(self._most, derivatives, strict=True):
            over = np.abs(values) > most
            if over.any():
                k = int(np.argmax(over.any(axis=0)))
                share = float(np.abs(values[:, k]).max() / most[k])
                return f"{name} of {self._limits.names[k]} reaches {share:.3f} times its limit"
        if self._limits.tool is None or self._arm is None:
            return ""
        return self._tool(self._arm, place, derivatives[0])

    def _tool(self, arm: Kinematics, place: Floats, speed: Floats) -> str:
        tool = self._limits.tool
        assert tool is not None
        seen = arm.places(place, speed)
        assert seen.linear is not None
        assert seen.angular is not None
        for name, vectors, most in (
            ("tool speed", seen.linear, tool.linear_m_s),
            ("turning speed of the tool", seen.angular, tool.angular_rad_s),
        ):
            fastest = float(np.sqrt((vectors**2).sum(axis=1).max()))
            if not fastest <= most * _ROUND:
                return f"{name} reaches {fastest:.4g}, allowed is {most:g}"
        boxes = [("the tool", seen.tcp, tool.workspace_low, tool.workspace_high)]
        if tool.elbow_low:
            if seen.elbow is None:
                return "where the elbow is, is not known"
            boxes.append(("the elbow", seen.elbow, tool.elbow_low, tool.elbow_high))
        for name, points, low, high in boxes:
            if np.any(points < np.array(low) - 1e-9) or np.any(points > np.array(high) + 1e-9):
                return f"{name} would leave its box"
        if tool.approach:
            wanted = np.array(tool.approach) / np.linalg.norm(tool.approach)
            if not (seen.axis @ wanted).min() >= np.cos(tool.tilt_rad) - 1e-9:
                return "the tool would tilt too far"
        return self._distances(arm, place)

    def _distances(self, arm: Kinematics, place: Floats) -> str:
        tool = self._limits.tool
        assert tool is not None
        every = max(1, round(DISTANCE_S / STEP_S))
        for q in (*place[every::every], place[-1]):
            near = arm.too_near(q, tool.self_distance_m, tool.scene_distance_m)
            if near:
                return near
        return ""

    def _joint(self, flags: NDArray[np.bool_]) -> str:
        return self._limits.names[int(np.argmax(flags.any(axis=0)))]
