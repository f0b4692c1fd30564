# SPDX-License-Identifier: Apache-2.0
"""From where the arm is commanded to be, onto a chunk's path: three pieces of constant jerk.

Three jerks meet three conditions (position, velocity, acceleration at the end) for any duration; several durations are
tried at once and the shortest that keeps the limits is taken. Two chunks that disagree are joined by this, in absolute
time: both velocity and acceleration are continuous.
"""

from __future__ import annotations

import numpy as np

from runtime.safety.curve import NEAR_S, Curve, of_jerks
from runtime.safety.reference import Reach, gained
from runtime.safety.trajectory import Floats

DURATIONS = np.array([0.06, 0.09, 0.13, 0.2, 0.3, 0.45, 0.7, 1.0, 1.5, 2.2, 3.2])  # [s]
_PARTS = np.linspace(0.0, 1.0, 9)[None, 1:, None, None]  # of one piece, where it is looked at


def _solver() -> Floats:
    """(3, 3): jerks * T^3 from the deviations of position, velocity * T and acceleration * T^2 at the end."""
    h, after = 1.0 / 3.0, np.array([2.0, 1.0, 0.0]) / 3.0
    place = h**3 / 6.0 + h**2 / 2.0 * after + h * after**2 / 2.0
    speed = h**2 / 2.0 + h * after
    return np.linalg.inv(np.stack([place, speed, np.full(3, h)]))


_SOLVER = _solver()


def bridge(state: tuple[Floats, Floats, Floats], path: Curve, from_s: float, rate: float, reach: Reach) -> Curve | None:
    """The shortest way from `state` (each (D,)), at time 0, onto `path` played at `rate` from its `from_s`.

    Beyond its end the path rests where it ends. None if no duration keeps the limits.
    """
    p0, v0, a0 = state
    durations, wanted = _landings(path, from_s, rate)
    spans = durations[:, None]
    p1, v1, a1 = path.at(wanted)
    over = (wanted > path.end_s - NEAR_S)[:, None]
    v1, a1 = np.where(over, 0.0, v1 * rate), np.where(over, 0.0, a1 * rate**2)
    place = p1 - (p0 + spans * (v0 + spans * a0 / 2.0))
    speed = (v1 - (v0 + spans * a0)) * spans
    change = (a1 - a0) * spans**2
    jerks = np.einsum("ij,jbd->ibd", _SOLVER, np.stack([place, speed, change])) / spans**3  # (3, durations, D)
    possible = np.flatnonzero(np.all(np.abs(jerks) <= reach.jerk, axis=(0, 2)))
    for some in (possible[:2], possible[2:]):  # the first of them is seldom refused, and the rest costs
        good = some[_allowed(state, jerks[:, some], durations[some], reach)]
        if len(good):
            return of_jerks(0.0, state, np.full(3, durations[good[0]] / 3.0), jerks[:, good[0]])
    return None


def _landings(path: Curve, from_s: float, rate: float) -> tuple[Floats, Floats]:
    """Durations, and where on the path they end: never just beside a knot, because a piece would be too short."""
    durations = np.maximum(DURATIONS, 3.0 * NEAR_S / rate)
    wanted = from_s + rate * durations
    k = np.minimum(np.searchsorted(path.times, wanted), len(path.times) - 1)
    before = path.times[np.maximum(k - 1, 0)]
    knot = np.where(np.abs(before - wanted) < np.abs(path.times[k] - wanted), before, path.times[k])
    wanted = np.where(np.abs(knot - wanted) < 1.5 * NEAR_S, knot, wanted)
    return (wanted - from_s) / rate, wanted


def _allowed(state: tuple[Floats, Floats, Floats], jerks: Floats, durations: Floats, reach: Reach) -> Floats:
    """(durations,) bool, of ways whose jerks are allowed."""
    h = (durations / 3.0)[:, None]
    p, v, a = (np.broadcast_to(x, jerks.shape[1:]) for x in state)
    starts = []
    for jerk in jerks:
        starts.append((p, v, a))
        p = p + h * (v + h * (a / 2.0 + h * jerk / 6.0))
        v = v + h * (a + h * jerk / 2.0)
        a = a + h * jerk
    p, v, a = (np.stack(x)[:, None] for x in zip(*starts, strict=True))  # (3, 1, durations, D)
    t, j = _PARTS * h, jerks[:, None]
    places = p + t * (v + t * (a / 2.0 + t * j / 6.0))
    speeds, rates = v + t * (a + t * j / 2.0), a + t * j
    every = (0, 1, 3)
    good = np.all((places >= reach.low) & (places <= reach.high), axis=every)
    good &= np.all(np.abs(rates) <= reach.rate, axis=every)
    return np.asarray(good & np.all(gained(speeds, rates, reach.jerk) <= reach.speed, axis=every))
