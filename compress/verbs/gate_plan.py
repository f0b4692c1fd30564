# SPDX-License-Identifier: Apache-2.0
"""`compress gate --plan`: what a gate of these settings will find, and how many pairs it will take. Runs no episode."""

from __future__ import annotations

import argparse
import math
from typing import Any

from compress.verbs.answer import OK, Answer

BASELINE_RATE, DISCORDANCE = 0.97, 0.05
OPTIONS = ("baseline_rate", "discordance", "population", "pairs_per_minute")


def add_options(parser: argparse.ArgumentParser) -> None:
    """--plan and what only it reads."""
    parser.add_argument("--plan", action="store_true", help="only forecast: chance of each outcome, expected pairs")
    parser.add_argument("--baseline-rate", type=float, metavar="RATE", help="with --plan (default: 0.97)")
    parser.add_argument(
        "--discordance", type=float, metavar="RATE",
        help="with --plan: pairs in which only one of two equal policies succeeds (default: 0.05)",
    )  # fmt: skip
    parser.add_argument("--population", type=int, metavar="N", help="with --plan: scenes there are (default: endless)")
    parser.add_argument("--pairs-per-minute", type=float, metavar="N", help="with --plan: also say how long it takes")


def forecast(options: argparse.Namespace) -> Answer:
    """The table, and the same as data. Raises SettingsError for numbers without sense."""
    from compress.gate import power
    from compress.gate.margins import MARGINS, RELEASE_PAIRS, margin_of
    from compress.gate.stats import PairedTest
    from compress.settings import SettingsError

    pace = options.pairs_per_minute
    if pace is not None and not (math.isfinite(pace) and pace > 0):
        raise SettingsError(f"--pairs-per-minute is {pace}, expected a number above 0")
    margin = margin_of(options.margin or "release")
    rate = BASELINE_RATE if options.baseline_rate is None else options.baseline_rate
    discordance = DISCORDANCE if options.discordance is None else options.discordance
    pairs = RELEASE_PAIRS if options.pairs is None else options.pairs
    if pairs < 1:
        raise SettingsError(f"--pairs is {pairs}, expected at least 1")
    test = PairedTest(margin, 0.05 if options.alpha is None else options.alpha, options.population, pairs)
    found = [power.forecast(truth, test, pairs) for truth in power.truths(rate, discordance, margin)]
    data = {
        "plan": {
            "baseline_rate": rate, "discordance": discordance, "margin": margin, "alpha": test.alpha, "pairs": pairs,
            "population": test.population, "runs": power.RUNS, "seed": power.SEED, "pairs_per_minute": pace,
            "margins": MARGINS, "forecasts": [item.to_json(pace) for item in found],
        }
    }  # fmt: skip
    return Answer(OK, data, _lines(data["plan"], found, pace))


def _lines(plan: dict[str, Any], found: list[Any], pace: float | None) -> list[str]:
    scope = f"of {plan['population']} scenes" if plan["population"] else "of an endless stream of scenes"
    lines = [
        f"margin {100 * plan['margin']:g} points, alpha {plan['alpha']:g}, at most {plan['pairs']} pairs {scope}; "
        f"the baseline solves {100 * plan['baseline_rate']:g} %, equal policies differ in "
        f"{100 * plan['discordance']:g} % of pairs",
        f"{'policy':<22}{'difference':>11}{'promoted':>10}{'held':>8}{'pairs, mean':>13}{'90 %':>6}"
        + (f"{'minutes':>9}{'90 %':>7}" if pace else ""),
    ]
    for item in found:
        share, _ = item.promoted
        line = (
            f"{item.truth.name:<22}{100 * item.truth.difference:>+9.1f} p"
            f"{100 * share:>8.1f} %{100 * (1 - share):>6.1f} %"
            f"{item.mean_pairs:>13.0f}{item.pairs90:>6}"
        )
        lines.append(line + (f"{item.mean_pairs / pace:>9.1f}{item.pairs90 / pace:>7.1f}" if pace else ""))
    worst = max((high - low) / 2 for _, (low, high) in (item.promoted for item in found))
    lines.append(
        f"{plan['runs']} simulated gates each, seed {plan['seed']}; Monte Carlo error of a chance at most "
        f"{100 * worst:.1f} points (95 %)"
    )
    return lines
