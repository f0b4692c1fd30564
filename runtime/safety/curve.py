# SPDX-License-Identifier: Apache-2.0
"""`Curve`: joint motion of piecewise constant jerk, as knots of position, velocity and acceleration.

The one form of all that the planner makes, because every interpolation that a joint_trajectory_controller may choose
plays it exactly: between two knots it is a cubic, so the cubic through positions and velocities is it, and so is the
quintic through positions, velocities and accelerations. What is checked is what is played.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from runtime.safety.trajectory import Floats

NEAR_S = 1e-3  # knots are never nearer: jerk is 60 times the rounding of a position, by the cube of the piece
_TICK = 1e-9  # ROS times are whole nanoseconds


@dataclass(frozen=True, eq=False)
class Curve:
    """Knots at `times` (N,) [s], ascending; positions, velocities, accelerations (N, D); jerk is constant between."""

    times: Floats
    positions: Floats
    velocities: Floats
    accelerations: Floats

    @property
    def start_s(self) -> float:
        """First knot [s]."""
        return float(self.times[0])

    @property
    def end_s(self) -> float:
        """Last knot [s]."""
        return float(self.times[-1])

    def at(self, time_s: Floats | float) -> tuple[Floats, Floats, Floats]:
        """(positions, velocities, accelerations) at times (M,), each (M, D); the ends where there is no curve."""
        wanted = np.atleast_1d(np.asarray(time_s, dtype=np.float64))
        if len(self.times) == 1:
            return tuple(np.repeat(a, len(wanted), axis=0) for a in self._arrays)  # type: ignore[return-value]
        wanted = np.minimum(np.maximum(wanted, self.times[0]), self.times[-1])
        k = self.times[1:-1].searchsorted(wanted, side="right")
        span = (wanted - self.times[k])[:, None]
        p, v, a = (array[k] for array in self._arrays)
        gained = span * self._jerks[k]  # of acceleration
        return p + span * (v + span * (a / 2.0 + gained / 6.0)), v + span * (a + gained / 2.0), a + gained

    def jerks(self) -> Floats:
        """(N - 1, D), of each piece."""
        return self._jerks

    @cached_property
    def _jerks(self) -> Floats:
        spans = self.times[1:] - self.times[:-1]
        return np.asarray((self.accelerations[1:] - self.accelerations[:-1]) / spans[:, None])

    def snap(self, time_s: float) -> float:
        """`time_s`, or the knot that is too near to it."""
        k = int(np.argmin(np.abs(self.times - time_s)))
        return float(self.times[k]) if abs(self.times[k] - time_s) < NEAR_S else time_s

    def cut(self, start_s: float, end_s: float) -> Curve:
        """The part between two times inside the curve (both snapped)."""
        start_s, end_s = self.snap(start_s), self.snap(end_s)
        inside = (self.times > start_s + NEAR_S / 2) & (self.times < end_s - NEAR_S / 2)
        if end_s <= start_s:
            return Curve(np.array([start_s]), *self.at(start_s))
        ends = self.at(np.array([start_s, end_s]))
        if end_s >= self.end_s:  # as it is, not as it would be computed: rest is exactly rest
            ends = tuple(np.vstack([e[:1], a[-1:]]) for e, a in zip(ends, self._arrays, strict=True))  # type: ignore[assignment]
        middle = [array[inside] for array in self._arrays]
        times = np.concatenate([[start_s], self.times[inside], [end_s]])
        return Curve(times, *(np.vstack([e[:1], m, e[1:]]) for e, m in zip(ends, middle, strict=True)))

    def since(self, time_s: float, end_s: float) -> Curve:
        """As `cut`, from a time inside the curve on; begins about 2 `NEAR_S` earlier where a knot is near, never later.

        A receiver that has no point at or before now makes a way of its own to the first one.
        """
        k = int(np.searchsorted(self.times, time_s, side="right"))
        if 0 < k < len(self.times):
            time_s = min(time_s, float(self.times[k]) - NEAR_S - _TICK)  # `cut` may go back to the knot before
        return self.cut(time_s, end_s)

    def slowed(self, rate: float, start_s: float, from_s: float) -> Curve:
        """The same path at `rate` of its speed: what was at `from_s` comes at `start_s`."""
        times = start_s + (self.times - from_s) / rate
        return Curve(times, self.positions, self.velocities * rate, self.accelerations * rate**2)

    def moved(self, by_s: float) -> Curve:
        """The same, later."""
        return Curve(self.times + by_s, *self._arrays)

    def joined(self, after: Curve) -> Curve:
        """This, then `after`, which must begin where and when this ends (its first knot is dropped)."""
        times = np.concatenate([self.times, after.times[1:]])
        pairs = zip(self._arrays, after._arrays, strict=True)
        return Curve(times, *(np.vstack([a, b[1:]]) for a, b in pairs))

    def at_rest(self) -> Curve:
        """The same with exact zeros at the end: a controller refuses a last velocity of 1e-16."""
        velocities, accelerations = self.velocities.copy(), self.accelerations.copy()
        velocities[-1], accelerations[-1] = 0.0, 0.0
        return Curve(self.times, self.positions, velocities, accelerations)

    def rounded(self, origin_s: float) -> Curve:
        """Knots at whole nanoseconds after `origin_s`, with the state *there*: a message says exactly this."""
        ticks = np.round((self.times - origin_s) / _TICK)
        ticks[0] = np.ceil((self.times[0] - origin_s) / _TICK)  # before its first knot the curve is not known
        whole = origin_s + ticks * _TICK
        states = self.at(whole)
        last = [array[-1:] for array in self._arrays]
        return Curve(whole, *(np.vstack([s[:-1], e]) for s, e in zip(states, last, strict=True)))

    @property
    def _arrays(self) -> tuple[Floats, Floats, Floats]:
        return self.positions, self.velocities, self.accelerations


def of_jerks(start_s: float, state: tuple[Floats, Floats, Floats], spans: Floats, jerks: Floats) -> Curve:
    """The curve from `state` (each (D,)) that has jerk (K, D) for (K,) seconds each."""
    h = np.asarray(spans, dtype=np.float64)[:, None]
    a = np.vstack([state[2], state[2] + np.cumsum(h * jerks, axis=0)])
    v = np.vstack([state[1], state[1] + np.cumsum(h * (a[:-1] + h * jerks / 2.0), axis=0)])
    p = np.vstack([state[0], state[0] + np.cumsum(h * (v[:-1] + h * (a[:-1] / 2.0 + h * jerks / 6.0)), axis=0)])
    return Curve(start_s + np.concatenate([[0.0], np.cumsum(spans)]), p, v, a)


def resting(place: Floats, start_s: float, span_s: float) -> Curve:
    """Nothing moves."""
    zero = np.zeros((2, len(place)))
    return Curve(np.array([start_s, start_s + span_s]), np.vstack([place, place]), zero, zero)
