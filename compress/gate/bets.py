# SPDX-License-Identifier: Apache-2.0
"""How much of the wealth is staked on the next pair: predictable fractions, chosen from the pairs before it only.

A fraction f of the largest bet that one worst pair could not bankrupt turns a pair into the factor 1 - f + f x / room,
with x = 1 + D and room = 1 + mean when betting on "not worse", x = 1 - D and room = 1 - mean when betting on "worse".
The same fractions are used for every hypothesised mean, so a wealth is monotone in it (`sequence`).
"Not worse": chosen was one bet that learns the rate of discordant pairs and knows how many pairs are left: the larger
of KELLY times the growth-optimal bet for an equal candidate and DEADLINE times the bet with the best chance to cover
what is missing in the pairs that are left (docs/gate-statistics.md derives both; the second is the idea of Voracek and
Orabona's STaR-Bets, 2025). Rejected: the average over fixed bets, which pays for those that do not fit.
"Worse": the average over fixed bets stays, because how bad a candidate is cannot be known beforehand.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from compress.gate.paired import PairedTest

Floats = NDArray[np.float64]
AGAINST = tuple(k / 9 for k in range(1, 9))  # fractions of the bets on "worse", in equal shares
PRIOR_DISCORDANT, PRIOR_PAIRS = 2.0, 40.0  # Beta(2, 38) prior of the rate of discordant pairs
KELLY, DEADLINE = 0.9, 0.8  # shares of the two bets; tuned once by simulation, on equal candidates
BOLDEST = 0.95  # of the largest bet: one lost pair costs at most 95 % of the wealth

TIE = 1e-9  # N * margin is a float: exhaustion decides only beyond rounding
_LEAST = 0.05  # of log wealth missing: what comes after the decision does not matter


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
    """(runs, pairs) fractions in [0, BOLDEST], each a function of the pairs before it and of `test` alone."""
    runs, pairs = differences.shape
    fractions = np.zeros((runs, pairs))
    seen, unequal, wealth = np.zeros(runs), np.zeros(runs), np.zeros(runs)
    for i in range(pairs):
        null = np.full(runs, -test.margin)
        if test.population is not None:
            null = (-test.population * test.margin - seen) / (test.population - i)
        rate = np.minimum((PRIOR_DISCORDANT + unequal) / (PRIOR_PAIRS + i), 0.999)
        near = np.clip(null, -0.98, 0.0)
        stake = KELLY * growth_optimal(rate, -near)
        if test.budget is not None:
            missing = np.maximum(test.threshold - wealth, _LEAST)
            stake = np.maximum(stake, DEADLINE * np.sqrt(2.0 * missing / (rate * (test.budget - i))))
        fractions[:, i] = np.minimum(stake * (1.0 + near), BOLDEST)
        step = differences[:, i]
        wealth += np.log1p(fractions[:, i] * gain(1.0 + step, 1.0 + null))
        seen += step
        unequal += np.abs(step)
    return fractions


def gain(payoff: Floats, room: Floats) -> Floats:
    """payoff / room - 1 >= -1; 0 (no bet) where the null leaves no room: then only certainty can speak."""
    possible = room > TIE
    found: Floats = np.where(possible, payoff / np.where(possible, room, 1.0) - 1.0, 0.0)
    return found


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
