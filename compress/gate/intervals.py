# SPDX-License-Identifier: Apache-2.0
"""Numbers for reading beside the verdict: Wilson and Tango intervals, exact McNemar. None of them decides anything.

Sources: Wilson 1927; McNemar 1947 (exact binomial form); Tango, "Equivalence test and confidence interval for the
difference in proportions for the paired-sample design", Statistics in Medicine 17 (1998).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

Interval = tuple[float, float]


def wilson(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    """Score interval of one success rate, as fractions; (0, 1) without trials. ValueError for impossible counts."""
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes of {trials} trials: expected 0 <= successes <= trials")
    if trials == 0:
        return 0.0, 1.0
    z, rate = _z(confidence), successes / trials
    scale = 1.0 + z * z / trials
    centre = (rate + z * z / (2 * trials)) / scale
    half = z / scale * math.sqrt(rate * (1.0 - rate) / trials + z * z / (4 * trials * trials))
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    return low, 1.0 if successes == trials else min(1.0, centre + half)


def mcnemar_exact(lost: int, gained: int) -> float:
    """Two-sided p of "lost and gained are equally likely"; 1.0 without any. Not a test of non-inferiority."""
    if lost < 0 or gained < 0:
        raise ValueError(f"lost {lost}, gained {gained}: expected counts >= 0")
    total = lost + gained
    tail = sum(math.comb(total, k) for k in range(min(lost, gained) + 1))
    return min(1.0, 2.0 * tail / 2.0**total)


def tango(lost: int, gained: int, pairs: int, confidence: float = 0.95) -> Interval:
    """Score interval of the difference (gained - lost) / pairs of a fixed number of pairs; (-1, 1) without pairs.

    After an early stop it is for reading only: the number of pairs was not fixed.
    """
    if min(lost, gained) < 0 or lost + gained > pairs:
        raise ValueError(f"lost {lost}, gained {gained} of {pairs} pairs: expected counts >= 0 that fit")
    if pairs == 0:
        return -1.0, 1.0
    z, seen = _z(confidence), (gained - lost) / pairs

    def score(delta: float) -> float:
        return tango_score(lost, gained, pairs, delta)

    low = -1.0 if lost == pairs else _root(lambda d: score(d) - z, -1.0, seen)
    high = 1.0 if gained == pairs else _root(lambda d: score(d) + z, seen, 1.0)
    return low, high


def tango_score(lost: int, gained: int, pairs: int, delta: float) -> float:
    """Standard normal score of "the true difference is `delta`"; falls as `delta` grows."""
    a = 2.0 * pairs
    b = -lost - gained + (2 * pairs - gained + lost) * delta
    c = -lost * delta * (1.0 - delta)
    other = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)  # P(lost) that is most likely under this delta
    variance = pairs * (2.0 * other + delta * (1.0 - delta))
    excess = gained - lost - pairs * delta
    if variance <= 1e-12:
        return 0.0 if abs(excess) < 1e-9 else math.copysign(math.inf, excess)
    return excess / math.sqrt(variance)


def _root(falling: Callable[[float], float], low: float, high: float) -> float:
    for _ in range(80):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if falling(middle) > 0.0 else (low, middle)
    return 0.5 * (low + high)


def _z(confidence: float) -> float:
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence is {confidence}, expected a probability such as 0.95")
    return NormalDist().inv_cdf(0.5 + confidence / 2.0)
