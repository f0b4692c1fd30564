# SPDX-License-Identifier: Apache-2.0
"""The question of a paired comparison: margin, error rate, population, budget; and what the answers are."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np


class Outcome(str, Enum):
    """What the evidence so far says."""

    PASS = "pass"
    FAIL = "fail"
    UNDECIDED = "undecided"


class BadEvidence(ValueError):
    """Differences that are not -1, 0 or +1, or a test without sense."""


@dataclass(frozen=True)
class PairedTest:
    """The test, fixed before the first pair.

    Attributes:
        margin: the loss of success rate that is still accepted, in (0, 1).
        alpha: probability of a false pass (and, separately, of a false fail), in (0, 0.5).
        population: N when the pairs are N distinct ones in one random order; None for an endless stream.
        budget: at most so many pairs will be looked at; the bets on "pass" plan for it. None: no end is known.
    """

    margin: float
    alpha: float
    population: int | None = None
    budget: int | None = None

    def __post_init__(self) -> None:
        if not 0.0 < self.margin < 1.0:
            raise BadEvidence(f"margin is {self.margin}, expected a rate between 0 and 1, such as 0.10")
        if not 0.0 < self.alpha < 0.5:
            raise BadEvidence(f"alpha is {self.alpha}, expected a probability between 0 and 0.5, such as 0.05")
        if self.population is not None and self.population < 1:
            raise BadEvidence(f"population is {self.population}, expected at least one pair, or None for a stream")
        if self.budget is not None and self.budget < 1:
            raise BadEvidence(f"budget is {self.budget}, expected at least one pair, or None without an end")

    @property
    def threshold(self) -> float:
        """log(1 / alpha): the log wealth that decides."""
        return float(-np.log(self.alpha))
