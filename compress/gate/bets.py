# SPDX-License-Identifier: Apache-2.0
"""How much of the wealth is staked on the next pair: predictable fractions, chosen from the pairs before it only.

A fraction f of the largest bet that one worst pair could not bankrupt turns a pair into the factor 1 - f + f x / room,
with x = 1 + D and room = 1 + mean when betting on "not worse", x = 1 - D and room = 1 - mean when betting on "worse".
The same fractions are used for every hypothesised mean, so a wealth is monotone in it (`sequence`).
"Not worse": chosen was one bet that learns the rate of discordant pairs (growth-optimal for an equal candidate; fewer
pairs, docs/gate-statistics.md); rejected, the average over fixed bets, which pays for those that do not fit.
"Worse": the average over fixed bets stays, because how bad a candidate is cannot be known beforehand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from compress.gate.stats import PairedTest

Floats = NDArray[np.float64]
AGAINST = tuple(k / 9 for k in range(1, 9))  # fractions of the bets on "worse", in equal shares
PRIOR_DISCORDANT, PRIOR_PAIRS = 2.0, 40.0  # Beta(2, 38) prior of the rate of discordant pairs
BOLDEST = 0.95  # of the largest bet: one lost pair costs at most 95 % of the wealth


def null_means(seen: Floats, pairs: int, population: int | None, mean: Floats | float) -> Floats:
    """Mean that each pair has under "the whole has this mean", given what was seen before it.

    Args:
        seen: (..., pairs) sum of the differences before each pair.
        pairs: length of the last axis.
        population: N, or None for a stream (then the mean never changes).
        mean: hypothesised mean of the whole, broadcastable to `seen`.
    """
    if population is None:
        return np.broadcast_to(np.asarray(mean, dtype=np.float64), np.broadcast_shapes(np.shape(mean), seen.shape))
    left = population - np.arange(pairs)
    return (population * np.asarray(mean, dtype=np.float64) - seen) / left


def fractions_for_pass(differences: Floats, test: PairedTest) -> Floats:
    """(runs, pairs) fractions in [0, BOLDEST]: the growth-optimal bet for an equal candidate whose rate of discordant
    pairs is the one learned so far, against the null mean that the next pair has at the registered margin."""
    runs, pairs = differences.shape
    before = np.zeros((2, runs, pairs))
    before[0, :, 1:] = np.cumsum(differences, axis=1)[:, :-1]
    before[1, :, 1:] = np.cumsum(np.abs(differences), axis=1)[:, :-1]
    discordant = (PRIOR_DISCORDANT + before[1]) / (PRIOR_PAIRS + np.arange(pairs))
    null = np.clip(null_means(before[0], pairs, test.population, -test.margin), -0.98, 0.0)
    fraction: Floats = np.clip(growth_optimal(np.minimum(discordant, 0.999), -null) * (1.0 + null), 0.0, BOLDEST)
    return fraction


def growth_optimal(discordant: Floats, margin: Floats) -> Floats:
    """The bet l >= 0 with the largest mean of log(1 + l (D + margin)) when P(D = -1) = P(D = 1) = discordant / 2.

    The derivative is zero where a quadratic is: with a = -(1 - margin), b = margin, c = 1 + margin and p the three
    probabilities, sum p x / (1 + l x) over x in (a, b, c) = 0 gives A l^2 + B l + C = 0 with C = margin.
    """
    a, b, c = margin - 1.0, margin, margin + 1.0
    half, rest = discordant / 2.0, 1.0 - discordant
    quadratic = a * b * c
    linear = half * a * (b + c) + rest * b * (a + c) + half * c * (a + b)
    root = np.sqrt(np.maximum(linear * linear - 4.0 * quadratic * margin, 0.0))
    positive: Floats = 2.0 * margin / (root - linear)  # the root that stays finite when `quadratic` vanishes
    return positive
