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
LOOKS = 24  # instants at which a way is looked at, the end of every piece among them


def _shares(of_way: Floats) -> Floats:
    """(3, M, 6): position, speed * T, rate * T^2 at shares (M,) of a way that takes T, from what it is made of:
    position, speed * T and rate * T^2 where it begins, and three jerks * T^3."""
    s = of_way[:, None]
    turned = np.clip(s - np.arange(3.0) / 3.0, 0.0, 1.0 / 3.0)  # how long each jerk has acted
    after = np.maximum(s - np.arange(1.0, 4.0) / 3.0, 0.0)
    none, whole = np.zeros_like(s), np.ones_like(s)
    place = turned**3 / 6.0 + turned**2 / 2.0 * after + turned * after**2 / 2.0
    return np.stack(
        [
            np.hstack([whole, s, s**2 / 2.0, place]),
            np.hstack([none, whole, s, turned**2 / 2.0 + turned * after]),
            np.hstack([none, none, whole, turned]),
        ]
    )


_ALONG = _shares(np.arange(1.0, LOOKS + 1.0) / LOOKS)
_END = _shares(np.ones(1))[:, 0]
_SOLVER = np.linalg.inv(_END[:, 3:])


def bridge(state: tuple[Floats, Floats, Floats], path: Curve, from_s: float, rate: float, reach: Reach) -> Curve | None:
    """The shortest way from `state` (each (D,)), at time 0, onto `path` played at `rate` from its `from_s`.

    Beyond its end the path rests where it ends. None if no duration keeps the limits.
    """
    durations, wanted = _landings(path, from_s, rate)
    t = durations[:, None]
    place, speed, change = path.at(wanted)
    moving = (wanted <= path.end_s - NEAR_S)[:, None]
    ends = np.stack([place, moving * speed * rate * t, moving * change * (rate * t) ** 2])
    begins = np.stack([state[0] + 0.0 * t, state[1] * t, state[2] * t**2])
    jerks = np.tensordot(_SOLVER, ends - np.tensordot(_END[:, :3], begins, 1), 1)  # (3, durations, D), times T^3
    made_of = np.concatenate([begins, jerks])
    possible = np.flatnonzero(np.all(np.abs(jerks) <= reach.jerk * t**3, axis=(0, 2)))
    for some in (possible[:2], possible[2:]):  # the first of them is seldom refused, and the rest costs
        good = some[_allowed(made_of[:, some], t[some], reach)]
        if len(good):
            k = good[0]
            return of_jerks(0.0, state, np.full(3, durations[k] / 3.0), jerks[:, k] / durations[k] ** 3)
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


def _allowed(made_of: Floats, t: Floats, reach: Reach) -> Floats:
    """(B,) bool: ways (6, B, D) that take t (B, 1), their jerks known to be allowed."""
    places, speeds, rates = np.tensordot(_ALONG, made_of, 1)  # (LOOKS, B, D) each
    rates, every = rates / t**2, (0, 2)
    good = np.all((places >= reach.low) & (places <= reach.high), axis=every)
    good &= np.all(np.abs(rates) <= reach.rate, axis=every)
    return np.asarray(good & np.all(gained(speeds / t, rates, reach.jerk) <= reach.speed, axis=every))
