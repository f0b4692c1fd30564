# SPDX-License-Identifier: Apache-2.0
"""A suite or a task on which the candidate is significantly worse than the margin turns promote into hold.

The primary comparison is pooled, so one broken task of forty can hide in it. Each level (suites; tasks) is looked at
once, when the primary has decided: an exact paired test of "the difference is at least -margin" per member, Holm over
all members of the level, so that a good candidate is not held by chance. A veto can only hold: it needs no share of
the promotion's alpha and cannot raise it. With few pairs it cannot speak (`fewest_losses`, docs/gate-statistics.md).

Exact: the score of Tango 1998 orders the outcomes (lost, gained) of n pairs; p is the largest probability, over the
unknown rate of discordant pairs, of an outcome at least as bad when the difference is exactly -margin. That rate is at
most what two independent policies could show, (1 + margin^2) / 2: on the same scene, outcomes are not opposed. If they
were, a good candidate would be held; a bad one would never be promoted by it.
Sources: Holm 1979; Hsueh, Liu and Chen, "Unconditional exact tests for equivalence or noninferiority for paired binary
endpoints", Biometrics 57 (2001).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.gate.rates import Results, discordant

Floats = NDArray[np.float64]
LEVELS = ("suite", "task")
_RATES = 48  # discordant rates over which the probability is maximised, evenly in sqrt
_SAME = 1e-9


@dataclass(frozen=True)
class Veto:
    """One member of a level.

    Attributes:
        level: `suite` or `task`; name: of the member.
        lost, gained, pairs: its share of the compared pairs.
        p: exact, of "not worse than the margin"; p_holm: adjusted over the level.
        vetoed: p_holm <= alpha.
    """

    level: str
    name: str
    lost: int
    gained: int
    pairs: int
    p: float
    p_holm: float
    vetoed: bool

    def to_json(self) -> dict[str, Any]:
        """Its line in `gate.json`."""
        return {
            "level": self.level, "name": self.name, "lost": self.lost, "gained": self.gained, "pairs": self.pairs,
            "p": self.p, "p_holm": self.p_holm, "vetoed": self.vetoed,
        }  # fmt: skip


def vetoes(level: str, members: Mapping[str, Results], margin: float, alpha: float) -> tuple[Veto, ...]:
    """Test every member of a level; in the order given.

    Args:
        level: one of LEVELS.
        members: name -> (candidate, baseline) of its compared pairs; none is fine (p = 1).
        margin, alpha: those of the primary comparison.
    """
    if level not in LEVELS:
        raise ValueError(f"level is {level!r}, expected one of {LEVELS}")
    counts = [(*discordant(results), len(results)) for results in members.values()]
    raw = [worse_p(lost, gained, pairs, margin) for lost, gained, pairs in counts]
    return tuple(
        Veto(level, name, *count, p, adjusted, adjusted <= alpha)
        for name, count, p, adjusted in zip(members, counts, raw, holm(raw), strict=True)
    )


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Adjusted p-values, in the order given: the family-wise error rate of "adjusted <= alpha" is at most alpha."""
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = largest
    return tuple(adjusted)


@functools.lru_cache(maxsize=4096)
def worse_p(lost: int, gained: int, pairs: int, margin: float) -> float:
    """Exact one-sided p of "mean difference >= -margin" against "worse", of a fixed number of pairs.

    Raises:
        ValueError: counts that do not fit, or a margin outside (0, 1).
    """
    if min(lost, gained) < 0 or lost + gained > pairs:
        raise ValueError(f"lost {lost}, gained {gained} of {pairs} pairs: expected counts >= 0 that fit")
    if not 0.0 < margin < 1.0:
        raise ValueError(f"margin is {margin}, expected a rate between 0 and 1")
    if lost - gained <= pairs * margin:
        return 1.0  # not even worse than the margin; half the mass or more lies beyond
    losses, gains = np.meshgrid(np.arange(pairs + 1), np.arange(pairs + 1), indexing="ij")
    inside = losses + gains <= pairs
    losses, gains = losses[inside], gains[inside]
    score = _score(losses, gains, pairs, margin)
    worse = score >= _score(np.array([lost]), np.array([gained]), pairs, margin)[0] - _SAME
    return min(1.0, _largest_probability(losses[worse], gains[worse], pairs, margin))


def _score(lost: NDArray[np.int64], gained: NDArray[np.int64], pairs: int, margin: float) -> Floats:
    """`intervals.tango_score` of difference -margin, negated: grows with losses."""
    a, delta = 2.0 * pairs, -margin
    b = -lost - gained + (2 * pairs - gained + lost) * delta
    c = -lost * delta * (1.0 - delta)
    other = (np.sqrt(np.maximum(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
    variance = pairs * (2.0 * other + delta * (1.0 - delta))
    excess = lost - gained - pairs * margin
    score: Floats = excess / np.sqrt(np.maximum(variance, 1e-12))
    return score


def _largest_probability(losses: NDArray[np.int64], gains: NDArray[np.int64], pairs: int, margin: float) -> float:
    """Largest probability of these outcomes when P(lost) - P(gained) = margin and outcomes are not opposed."""
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, pairs + 1)))])  # log n!
    same = pairs - losses - gains
    ways = logs[pairs] - logs[losses] - logs[gains] - logs[same]
    best = 0.0
    most = (1.0 + margin * margin) / 2.0
    for rate in margin + (most - margin) * np.linspace(0.0, 1.0, _RATES) ** 2:
        chances = ((rate + margin) / 2, (rate - margin) / 2, 1.0 - rate)
        log_p = ways.copy()
        for count, chance in zip((losses, gains, same), chances, strict=True):
            log_p += count * np.log(chance) if chance > 0.0 else np.where(count > 0, -np.inf, 0.0)
        best = max(best, float(np.exp(log_p).sum()))
    return best


@functools.lru_cache(maxsize=256)
def pairs_to_speak(members: int, margin: float, alpha: float) -> int:
    """The fewest pairs of which all lost would veto one of `members`."""
    pairs = 1
    while worse_p(pairs, 0, pairs, margin) * members > alpha:
        pairs += 1
    return pairs


def fewest_losses(pairs: int, members: int, margin: float, alpha: float) -> int | None:
    """The fewest lost pairs (none gained) of `pairs` that would veto one of `members`; None if none would."""
    for lost in range(1, pairs + 1):
        if worse_p(lost, 0, pairs, margin) * members <= alpha:
            return lost
    return None
