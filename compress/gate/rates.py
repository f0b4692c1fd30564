# SPDX-License-Identifier: Apache-2.0
"""Counts of (candidate, baseline) results with their intervals, as JSON data."""

from __future__ import annotations

from typing import Any

from compress.gate.intervals import mcnemar_exact, tango, wilson

Results = tuple[tuple[bool, bool], ...]


def rate(successes: int, trials: int) -> dict[str, Any]:
    """Count, rate and 95 % Wilson interval (fractions)."""
    low, high = wilson(successes, trials)
    return {
        "successes": successes,
        "trials": trials,
        "rate": successes / trials if trials else None,
        "wilson95": [low, high],
    }


def comparison(results: Results) -> dict[str, Any]:
    """Counts and intervals of (candidate, baseline) results; the intervals are for reading, they decide nothing."""
    n = len(results)
    lost, gained = discordant(results)
    return {
        "candidate": rate(sum(candidate for candidate, _ in results), n),
        "baseline": rate(sum(baseline for _, baseline in results), n),
        "both": sum(candidate and baseline for candidate, baseline in results),
        "lost": lost,
        "gained": gained,
        "neither": sum(not candidate and not baseline for candidate, baseline in results),
        "difference": (gained - lost) / n if n else None,
        "tango95": list(tango(lost, gained, n)),
        "mcnemar_p": mcnemar_exact(lost, gained),
    }


def discordant(results: Results) -> tuple[int, int]:
    """(lost, gained): pairs that only the baseline solved, that only the candidate solved."""
    lost = sum(baseline and not candidate for candidate, baseline in results)
    return lost, sum(candidate and not baseline for candidate, baseline in results)
