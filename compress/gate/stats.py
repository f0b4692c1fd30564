# SPDX-License-Identifier: Apache-2.0
"""Non-inferiority by betting: a paired e-process that may be looked at after every pair and still keeps its error rate.

Each pair gives D = candidate - baseline in {-1, 0, +1}. "Pass" bets against the null "mean D <= -margin", "fail" bets
against "mean D >= -margin"; under its null a wealth is a nonnegative supermartingale that starts at 1, so it reaches
1/alpha with probability at most alpha, whenever one stops (Ville). Finite population: with N pairs shuffled once, the
null mean is what the pairs not yet seen must still have, (-N margin - sum) / (N - n). How much is bet: `bets`; the
bounds that go with it: `sequence`; the derivation: docs/gate-statistics.md.
Sources: Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting" (JRSS-B 2024), sections 4
and 5 (betting; sampling without replacement); Ville 1939.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from compress.gate.bets import AGAINST, TIE, Floats, fractions_for_pass, gain, null_means
from compress.gate.paired import BadEvidence, Outcome, PairedTest

__all__ = ["BadEvidence", "Decision", "Outcome", "PairedTest", "WealthPaths", "decide", "wealth_paths"]


@dataclass(frozen=True, eq=False)
class WealthPaths:
    """Log wealth after each pair, `passing` and `failing`, float64 (runs, pairs); +inf is certainty."""

    test: PairedTest
    passing: Floats
    failing: Floats

    def decisions(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(outcome, pairs used) per run: +1 pass, -1 fail, 0 undecided (then all were used). First to arrive wins."""
        runs, pairs = self.passing.shape
        when = []
        for wealth in (self.passing, self.failing):
            hit = wealth >= self.test.threshold
            when.append(
                np.where(hit.any(axis=1), hit.argmax(axis=1) + 1, pairs + 1) if pairs else np.ones(runs, dtype=np.int64)
            )
        good, bad = when
        outcome = np.where((good <= pairs) & (good < bad), 1, np.where(bad <= pairs, -1, 0))
        return outcome.astype(np.int64), np.minimum(np.minimum(good, bad), pairs).astype(np.int64)


@dataclass(frozen=True)
class Decision:
    """The answer for one run of pairs, and how much evidence each side had when it fell."""

    outcome: Outcome
    pairs: int
    log_e_pass: float
    log_e_fail: float
    path: tuple[tuple[float, float], ...]


def wealth_paths(differences: ArrayLike, test: PairedTest) -> WealthPaths:
    """Log wealths of both bets for many runs at once.

    Args:
        differences: (runs, pairs) of candidate minus baseline, each -1, 0 or +1, in the pre-registered order.
        test: margin, alpha, population.

    Raises:
        BadEvidence: NaN, another value, another shape, or more pairs than the population or the budget has.
    """
    d = checked(differences, test)
    stakes = fractions_for_pass(d, test)
    passing = log_wealth_above(d, stakes, test.population, -test.margin)
    return WealthPaths(test, passing, log_wealth_below(d, test.population, -test.margin))


def log_wealth_above(differences: Floats, stakes: Floats, population: int | None, mean: Floats | float) -> Floats:
    """Log wealth of betting that the mean is above `mean`; it falls as `mean` grows. +inf once that is certain.

    Args:
        differences: (runs, pairs).
        stakes: (runs, pairs) predictable fractions in [0, 1).
        population: N, or None for a stream.
        mean: hypothesised mean of the whole, a number or (runs, 1); one run may meet many: (1, pairs) and (many, 1).

    Returns:
        (runs, pairs) or (many, pairs).
    """
    seen = np.cumsum(differences, axis=1)
    room = 1.0 + _nulls(differences, seen, population, mean)
    wealth = np.cumsum(np.log1p(stakes * gain(1.0 + differences, room)), axis=1)
    if population is not None:
        worst = seen - (population - 1.0 - np.arange(differences.shape[1]))
        wealth = np.where(worst - population * np.asarray(mean) > TIE, np.inf, wealth)
    return wealth


def log_wealth_below(differences: Floats, population: int | None, mean: Floats | float) -> Floats:
    """Log wealth of betting that the mean is below `mean`, in equal shares on AGAINST; it grows with `mean`."""
    seen = np.cumsum(differences, axis=1)
    won = gain(1.0 - differences, 1.0 - _nulls(differences, seen, population, mean))
    wealth = np.full(won.shape, -np.inf)
    for share in AGAINST:
        wealth = np.logaddexp(wealth, np.cumsum(np.log1p(share * won), axis=1))
    wealth = wealth - np.log(len(AGAINST))
    if population is not None:
        best = seen + (population - 1.0 - np.arange(differences.shape[1]))
        wealth = np.where(best - population * np.asarray(mean) < -TIE, np.inf, wealth)
    return wealth


def decide(differences: ArrayLike, test: PairedTest) -> Decision:
    """The answer for one run, (pairs,) of -1, 0, +1 in the plan's order; pairs after the decision are ignored."""
    paths = wealth_paths(np.asarray(differences, dtype=np.float64).reshape(1, -1), test)
    outcome, used = (int(v[0]) for v in paths.decisions())
    path = tuple((float(a), float(b)) for a, b in zip(paths.passing[0, :used], paths.failing[0, :used], strict=True))
    last = path[-1] if path else (0.0, 0.0)
    return Decision({1: Outcome.PASS, -1: Outcome.FAIL, 0: Outcome.UNDECIDED}[outcome], used, last[0], last[1], path)


def checked(differences: ArrayLike, test: PairedTest) -> Floats:
    """(runs, pairs) as float64. Raises BadEvidence as `wealth_paths` says."""
    d = np.asarray(differences, dtype=np.float64)
    if not np.isfinite(d).all():
        raise BadEvidence(
            f"differences hold {int((~np.isfinite(d)).sum())} values that are not finite, expected -1, 0 or +1"
        )
    if d.ndim != 2 or not np.isin(d, (-1.0, 0.0, 1.0)).all():
        raise BadEvidence(
            f"differences have shape {d.shape}, values {np.unique(d)[:5].tolist()}; expected (runs, pairs) of -1, 0, +1"
        )
    if test.population is not None and d.shape[1] > test.population:
        raise BadEvidence(f"{d.shape[1]} pairs of a population of {test.population}: a pair was counted twice")
    if test.budget is not None and d.shape[1] > test.budget:
        raise BadEvidence(f"{d.shape[1]} pairs of a budget of {test.budget}: the bets were planned for fewer")
    return d


def _nulls(differences: Floats, seen: Floats, population: int | None, mean: Floats | float) -> Floats:
    return null_means(seen - differences, differences.shape[1], population, mean)
