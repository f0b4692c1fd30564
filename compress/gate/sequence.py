# SPDX-License-Identifier: Apache-2.0
"""Bounds for the difference that hold at every pair at once: the e-process of `stats`, inverted.

A mean is ruled out from below once the wealth that bets on "above it" has reached 1/alpha at some pair, from above
likewise. The wealths are monotone in the mean, so what is left is an interval, and it only shrinks. Each bound holds
with probability 1 - alpha at all pairs together. At the registered margin the wealth is the very one that decides:
the test passes exactly when the lower bound is above -margin, and fails exactly when the upper one is below it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from compress.gate.bets import Floats, fractions_for_pass
from compress.gate.stats import PairedTest, checked, log_wealth_above, log_wealth_below

STEP = 1e-3  # of the grid on which the path is kept; it is rounded outwards
_HALVINGS = 60

Flags = NDArray[np.bool_]
Refuted = Callable[[Floats], Flags]  # means (many,) -> bool (many, pairs): ruled out by this pair


@dataclass(frozen=True)
class Sequence:
    """One-sided bounds of the mean difference, each at level 1 - alpha.

    Attributes:
        lower, upper: after all pairs, to rounding of float64; -1 and 1 without pairs.
        path: (lower, upper) after each pair, on a grid of STEP, rounded outwards.
    """

    lower: float
    upper: float
    path: tuple[tuple[float, float], ...]


def confidence_sequence(differences: ArrayLike, test: PairedTest) -> Sequence:
    """Bounds of one run, (pairs,) of -1, 0, +1 in the plan's order; give the pairs up to the decision and no more.

    Raises:
        BadEvidence: as `stats.wealth_paths`.
    """
    d = checked(np.asarray(differences, dtype=np.float64).reshape(1, -1), test)
    if not d.size:
        return Sequence(-1.0, 1.0, ())
    stakes = fractions_for_pass(d, test)

    def below(means: Floats) -> Flags:
        found: Flags = log_wealth_above(d, stakes, test.population, means[:, None]) >= test.threshold
        return found

    def above(means: Floats) -> Flags:
        found: Flags = log_wealth_below(d, test.population, means[:, None]) >= test.threshold
        return found

    grid = np.unique(np.append(np.round(np.arange(-1.0, 1.0 + STEP / 2, STEP), 6), -test.margin))
    lows = _furthest(below, grid)
    highs = _furthest(above, grid[::-1])
    path = tuple((float(low), float(high)) for low, high in zip(lows, highs, strict=True))
    return Sequence(
        _exact(below, float(lows[-1]), 1.0, -test.margin), _exact(above, float(highs[-1]), -1.0, -test.margin), path
    )


def _furthest(refuted: Refuted, grid: Floats) -> Floats:
    """(pairs,) the last mean of `grid` ruled out so far; its first one if none is."""
    found = np.empty(0)
    for part in np.array_split(grid, 8):  # 2,001 means x 800 pairs at once would be needless memory
        ever = np.logical_or.accumulate(refuted(part), axis=1)
        last = np.where(ever.any(axis=0), part[len(part) - 1 - ever[::-1].argmax(axis=0)], np.nan)
        found = last if not found.size else np.where(np.isnan(last), found, last)
    return np.where(np.isnan(found), grid[0], found)


def _exact(refuted: Refuted, start: float, end: float, registered: float) -> float:
    """The edge of the ruled-out means between `start` (ruled out, or the extreme) and the next grid mean.

    A wealth of exactly 1/alpha at the registered mean has its edge there: the bound is then the next float64, so that
    the strict inequality of the verdict holds.
    """

    def out(mean: float) -> bool:
        return bool(refuted(np.array([mean])).any())

    if not out(start):
        return start
    toward = 1.0 if end > start else -1.0
    inside, outside = start, start + toward * STEP
    if out(outside):
        return outside
    for _ in range(_HALVINGS):
        middle = 0.5 * (inside + outside)
        if middle in (inside, outside):
            break
        inside, outside = (middle, outside) if out(middle) else (inside, middle)
    return float(np.nextafter(inside, toward)) if inside == registered else inside
