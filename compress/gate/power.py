# SPDX-License-Identifier: Apache-2.0
"""What a gate will find, before it is run: probability of each outcome and number of pairs, by simulating the test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.gate.bets import Floats
from compress.gate.intervals import Interval, wilson
from compress.gate.stats import PairedTest, wealth_paths

RUNS, SEED = 2000, 20261127
BAD_MARGINS = 10.0  # the "bad" policy loses so many margins
_CHUNK = 500  # runs at once: 500 x 800 pairs are 3.2 MB an array


class PlanImpossible(ValueError):
    """Rates that no pair of policies can have."""


@dataclass(frozen=True)
class Truth:
    """A pair of policies as the test sees it: rates of lost and gained pairs, as fractions."""

    name: str
    lost: float
    gained: float

    @property
    def difference(self) -> float:
        """Candidate minus baseline."""
        return self.gained - self.lost


@dataclass(frozen=True)
class Forecast:
    """Outcome of many simulated gates.

    Attributes:
        truth: what was simulated.
        passed, failed, undecided: gates; held is the sum of the last two.
        mean_pairs, pairs90, most_pairs: mean, 90 % quantile and maximum of the pairs used (undecided: the budget).
    """

    truth: Truth
    passed: int
    failed: int
    undecided: int
    mean_pairs: float
    pairs90: int
    most_pairs: int

    @property
    def runs(self) -> int:
        """Simulated gates."""
        return self.passed + self.failed + self.undecided

    @property
    def promoted(self) -> tuple[float, Interval]:
        """Share of gates that pass, with its 95 % Monte Carlo interval (Wilson)."""
        return self.passed / self.runs, wilson(self.passed, self.runs)

    def to_json(self, pairs_per_minute: float | None = None) -> dict[str, Any]:
        """JSON data; minutes only with a pace."""
        share, interval = self.promoted
        minutes = {} if pairs_per_minute is None else {
            "mean_minutes": self.mean_pairs / pairs_per_minute, "minutes90": self.pairs90 / pairs_per_minute,
        }  # fmt: skip
        return {
            "policy": self.truth.name, "lost": self.truth.lost, "gained": self.truth.gained,
            "difference": self.truth.difference, "promoted": share, "promoted_mc95": list(interval),
            "held": 1.0 - share, "failed": self.failed / self.runs, "undecided": self.undecided / self.runs,
            "mean_pairs": self.mean_pairs, "pairs90": self.pairs90, "most_pairs": self.most_pairs, **minutes,
        }  # fmt: skip


def truths(baseline_rate: float, discordance: float, margin: float) -> tuple[Truth, ...]:
    """Equal, half a margin worse, exactly a margin worse, and bad policies beside such a baseline.

    Args:
        baseline_rate: success rate of the baseline.
        discordance: rate of pairs in which exactly one policy succeeds, if the policies are equal; a worse candidate
            has at least as many as it must.
        margin: as a rate.

    Raises:
        PlanImpossible: no such policies.
    """
    if not 0.0 < baseline_rate <= 1.0 or not 0.0 <= discordance <= 1.0:
        raise PlanImpossible(
            f"baseline rate {baseline_rate}, discordance {discordance}: expected fractions, such as 0.97"
        )
    most = 2.0 * min(baseline_rate, 1.0 - baseline_rate)
    if discordance > most + 1e-12:
        raise PlanImpossible(
            f"discordance is {discordance:g}, but equal policies that solve {baseline_rate:g} differ in at most "
            f"{most:g} of pairs"
        )
    found = []
    for name, loss in (("equal", 0.0), ("half a margin worse", margin / 2), ("a margin worse", margin)):
        found.append(_worse(name, loss, discordance, baseline_rate))
    return (*found, _worse("bad", min(BAD_MARGINS * margin, baseline_rate), discordance, baseline_rate))


def _worse(name: str, loss: float, discordance: float, baseline_rate: float) -> Truth:
    gained = max(0.0, (discordance - loss) / 2)
    if gained + loss > baseline_rate:
        raise PlanImpossible(
            f"a candidate cannot lose {gained + loss:g} of pairs if the baseline solves {baseline_rate:g}"
        )
    return Truth(name, gained + loss, gained)


def forecast(truth: Truth, test: PairedTest, pairs: int, runs: int = RUNS, seed: int = SEED) -> Forecast:
    """Simulate `runs` gates of at most `pairs` pairs; the same arguments give the same numbers."""
    rng = np.random.default_rng([seed, round(1e6 * truth.lost), round(1e6 * truth.gained)])
    outcomes, used = [], []
    for start in range(0, runs, _CHUNK):
        outcome, count = wealth_paths(draw(truth, test, pairs, min(_CHUNK, runs - start), rng), test).decisions()
        outcomes.append(outcome)
        used.append(count)
    outcome, count = np.concatenate(outcomes), np.concatenate(used)
    return Forecast(
        truth, int((outcome == 1).sum()), int((outcome == -1).sum()), int((outcome == 0).sum()), float(count.mean()),
        int(np.quantile(count, 0.9, method="higher")), int(count.max()),
    )  # fmt: skip


def draw(truth: Truth, test: PairedTest, pairs: int, runs: int, rng: np.random.Generator) -> Floats:
    """(runs, pairs) differences: independent pairs, or the first of a shuffled population with exactly these rates.

    In a population the numbers of lost and gained pairs are rounded so that the candidate is never better than asked.
    """
    if test.population is None:
        u = rng.random((runs, pairs))
        return np.where(u < truth.lost, -1.0, np.where(u < truth.lost + truth.gained, 1.0, 0.0))
    lost, gained = population_counts(truth, test.population)
    whole = np.zeros(test.population)
    whole[:lost], whole[lost : lost + gained] = -1.0, 1.0
    shuffled: NDArray[np.float64] = rng.permuted(np.tile(whole, (runs, 1)), axis=1)[:, : min(pairs, test.population)]
    return shuffled


def population_counts(truth: Truth, population: int) -> tuple[int, int]:
    """(lost, gained) pairs of a finite population: the difference is the asked one, rounded to the worse."""
    gained = round(truth.gained * population)
    loss = int(np.ceil(population * (truth.lost - truth.gained) - 1e-9))
    return gained + loss, gained
