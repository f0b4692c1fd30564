# SPDX-License-Identifier: Apache-2.0
"""Between two points of a joint trajectory: the polynomial whose degree follows from what both points carry.

Rules after ros-controls/ros2_controllers, branch master @94e74de (joint_trajectory_controller/src/trajectory.cpp,
`interpolate_between_points`): positions alone are joined by a straight line, positions and velocities by a cubic,
positions, velocities and accelerations by a quintic. Nothing is limited, and nothing is checked for being finite.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
NS = 1e-9


@dataclass(frozen=True, eq=False)
class Point:
    """One point of a trajectory.

    Attributes:
        time_ns: after the trajectory's start.
        positions: (n,) [rad].
        velocities, accelerations: (n,) [rad/s, rad/s2], or None where the sender gave none.
    """

    time_ns: int
    positions: Floats
    velocities: Floats | None = None
    accelerations: Floats | None = None


@dataclass(frozen=True, eq=False)
class Setpoint:
    """Where the joints should be at one instant: (n,) each [rad, rad/s, rad/s2]."""

    positions: Floats
    velocities: Floats
    accelerations: Floats

    @classmethod
    def resting(cls, positions: Sequence[float] | Floats) -> Setpoint:
        """Standing still at `positions` (n,)."""
        place = np.array(positions, dtype=np.float64)
        return cls(place, np.zeros_like(place), np.zeros_like(place))

    @classmethod
    def reached(cls, point: Point) -> Setpoint:
        """The point itself; what it does not carry is zero."""
        zeros = np.zeros_like(point.positions)
        speeds = zeros if point.velocities is None else point.velocities
        return cls(point.positions, speeds, zeros if point.accelerations is None else point.accelerations)


def interpolate(before: Point, before_ns: int, after: Point, after_ns: int, time_ns: int) -> Setpoint:
    """The set point at `time_ns` between `before` (at `before_ns`) and `after` (at `after_ns`).

    Outside of the two instants the nearer one is taken, and then the straight line is used, as in the original.
    """
    span, since = (after_ns - before_ns) * NS, (time_ns - before_ns) * NS
    cubic = before.velocities is not None and after.velocities is not None
    quintic = before.accelerations is not None and after.accelerations is not None
    if not 0.0 <= since <= span:
        since = min(max(since, 0.0), span)
        cubic = quintic = False
    if span <= 0.0:
        return Setpoint.reached(before)
    if not cubic and not quintic:
        slope = (after.positions - before.positions) / span
        return Setpoint(before.positions + slope * since, slope, np.zeros_like(slope))
    if not cubic:  # accelerations without velocities: the original computes nothing, and zeros are what is left
        zeros = np.zeros_like(before.positions)
        return Setpoint(zeros, zeros, zeros)
    return _polynomial(_quintic(before, after, span) if quintic else _cubic(before, after, span), since)


def _cubic(before: Point, after: Point, span: float) -> list[Floats]:
    p0, p1, v0, v1 = before.positions, after.positions, before.velocities, after.velocities
    return [
        p0,
        v0,
        (3.0 * (p1 - p0) - (2.0 * v0 + v1) * span) / span**2,
        (2.0 * (p0 - p1) + (v0 + v1) * span) / span**3,
    ]


def _quintic(before: Point, after: Point, span: float) -> list[Floats]:
    move, v0, v1 = after.positions - before.positions, before.velocities, after.velocities
    a0, a1 = before.accelerations, after.accelerations
    return [
        before.positions,
        v0,
        a0 / 2.0,
        (20.0 * move - (12.0 * v0 + 8.0 * v1) * span - (3.0 * a0 - a1) * span**2) / (2.0 * span**3),
        (-30.0 * move + (16.0 * v0 + 14.0 * v1) * span + (3.0 * a0 - 2.0 * a1) * span**2) / (2.0 * span**4),
        (12.0 * move - 6.0 * (v0 + v1) * span - (a0 - a1) * span**2) / (2.0 * span**5),
    ]


def _polynomial(coefficients: list[Floats], t: float) -> Setpoint:
    place, speed, rate = (np.zeros_like(coefficients[0]) for _ in range(3))
    for i, c in enumerate(coefficients):
        place = place + c * t**i
        speed = speed + (i * c * t ** (i - 1) if i else 0.0)
        rate = rate + (i * (i - 1) * c * t ** (i - 2) if i > 1 else 0.0)
    return Setpoint(place, speed, rate)
