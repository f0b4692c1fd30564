# SPDX-License-Identifier: Apache-2.0
"""The path that a chunk means: a uniform cubic B-spline with its rows as control points, in the chunk's own time.

Chosen because its bounds are exact in the rows' differences, without sampling: speed <= |first difference| / dt,
acceleration <= |second| / dt^2, jerk = |third| / dt^3, and the path stays in the convex hull of the rows. It keeps
acceleration continuous, and leaves the rows by at most a sixth of the second difference (0.6 mrad at 1.4 rad/s^2 and
20 rows per second). An interpolating spline amplifies a policy's noise where this one damps it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from runtime.safety.curve import Curve
from runtime.safety.trajectory import Floats


def path_of(rows: Floats, dt_s: float) -> Curve:
    """(H, D) positions, row i due `(i + 1) dt_s` after the observation -> curve over [0, H dt_s].

    Before the first row and beyond the last the path is thought on as a straight line; it ends at the last row.
    """
    if len(rows) == 1:
        rows = np.vstack([rows, rows])
        times: Floats = np.array([0.0, dt_s])
        zero = np.zeros_like(rows)
        return Curve(times, rows, zero, zero)
    padded = np.vstack([2.0 * rows[0] - rows[1], rows, 2.0 * rows[-1] - rows[-2]])
    p = (padded[:-2] + 4.0 * padded[1:-1] + padded[2:]) / 6.0
    v = (padded[2:] - padded[:-2]) / (2.0 * dt_s)
    a = (padded[2:] - 2.0 * padded[1:-1] + padded[:-2]) / dt_s**2
    times = np.asarray(np.arange(len(rows) + 1) * dt_s, dtype=np.float64)
    return Curve(times, np.vstack([p[0] - dt_s * v[0], p]), np.vstack([v[0], v]), np.vstack([a[0], a]))


@dataclass(frozen=True, eq=False)
class Reach:
    """Joint limits as arrays (D,), reduced by what the planner leaves free."""

    low: Floats
    high: Floats
    speed: Floats
    rate: Floats
    jerk: Floats

    def scaled(self, speed: float, rate: float, jerk: float) -> Reach:
        """With shares of the limits."""
        return Reach(self.low, self.high, self.speed * speed, self.rate * rate, self.jerk * jerk)


def stretch(path: Curve, reach: Reach) -> float:
    """The least slowing of the whole path, at least 1, that keeps speed, acceleration and jerk.

    Speed counts with what it would still gain while the acceleration is taken back (a^2 / 2j): a stop can begin at any
    instant.
    """
    jerk = np.abs(path.jerks()).max(initial=0.0, axis=0) / reach.jerk
    rate = np.abs(path.accelerations).max(axis=0) / reach.rate
    k = max(1.0, float(np.cbrt(jerk.max())), float(np.sqrt(rate.max())))
    middle = path.at((path.times[:-1] + path.times[1:]) / 2.0)
    v, a = np.vstack([path.velocities, middle[1]]), np.vstack([path.accelerations, middle[2]])
    excess = gained(v / k, a / k**2, reach.jerk) / reach.speed
    return k * max(1.0, float(excess.max()))


def gained(v: Floats, a: Floats, jerk: Floats) -> Floats:
    """|speed| at its largest while the acceleration is taken back with `jerk`."""
    return np.maximum(np.abs(v), np.abs(v + a * np.abs(a) / (2.0 * jerk)))
