# SPDX-License-Identifier: Apache-2.0
"""The error rate by enumeration: every order of small populations, every outcome of short streams. No luck involved."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from compress.gate.bets import growth_optimal
from compress.gate.sequence import confidence_sequence
from compress.gate.stats import Outcome, PairedTest, decide, wealth_paths


def arrangements(lost: int, gained: int, same: int) -> np.ndarray:
    """All different orders of a population, (orders, N)."""
    size = lost + gained + same
    rows = []
    for where_lost in itertools.combinations(range(size), lost):
        left = [i for i in range(size) if i not in where_lost]
        for where_gained in itertools.combinations(left, gained):
            row = np.zeros(size)
            row[list(where_lost)], row[list(where_gained)] = -1.0, 1.0
            rows.append(row)
    return np.array(rows)


POPULATIONS = [
    (lost, gained, size - lost - gained)
    for size in (7, 9)
    for lost in range(size + 1)
    for gained in range(size + 1 - lost)
    if math.comb(size, lost) * math.comb(size - lost, gained) <= 1300
]


@pytest.mark.parametrize("alpha", [0.05, 0.2, 0.4])
@pytest.mark.parametrize("margin", [0.12, 1 / 3])
def test_no_small_population_at_or_below_the_margin_is_passed_more_often_than_alpha(alpha, margin):
    """Over all orders, looking after every pair; the share that passes is exact, not simulated."""
    worst_pass = worst_fail = 0.0
    for lost, gained, same in POPULATIONS:
        size = lost + gained + same
        test = PairedTest(margin, alpha, population=size, budget=size)
        orders = arrangements(lost, gained, same)
        paths = wealth_paths(orders, test)
        if gained - lost <= -margin * size + 1e-9:
            worst_pass = max(worst_pass, float((paths.passing >= test.threshold).any(axis=1).mean()))
        if gained - lost >= -margin * size - 1e-9:
            worst_fail = max(worst_fail, float((paths.failing >= test.threshold).any(axis=1).mean()))
    assert worst_pass <= alpha
    assert worst_fail <= alpha
    assert worst_pass > 0.0 or alpha < 0.1


@pytest.mark.parametrize(("lost", "gained"), [(0.3, 0.0), (0.35, 0.05), (0.6, 0.3), (0.45, 0.1)])
@pytest.mark.parametrize("budget", [None, 8])
def test_a_short_stream_at_the_margin_is_passed_with_probability_at_most_alpha(lost, gained, budget):
    """All 3^8 outcomes with their probabilities; the wealth's mean never grows."""
    alpha, margin = 0.2, 0.3
    runs = np.array(list(itertools.product((-1.0, 0.0, 1.0), repeat=8)))
    chance = np.where(runs < 0, lost, np.where(runs > 0, gained, 1 - lost - gained)).prod(axis=1)
    test = PairedTest(margin, alpha, budget=budget)
    paths = wealth_paths(runs, test)
    means = (chance[:, None] * np.exp(paths.passing)).sum(axis=0)
    assert (np.diff(np.append(1.0, means)) <= 1e-12).all()
    assert chance @ (paths.passing >= test.threshold).any(axis=1) <= alpha
    if lost - gained == pytest.approx(margin):
        assert means == pytest.approx(np.ones(8))
        below = (chance[:, None] * np.exp(paths.failing)).sum(axis=0)
        assert below == pytest.approx(np.ones(8))
        assert chance @ (paths.failing >= test.threshold).any(axis=1) <= alpha


def test_expected_wealth_of_the_next_pair_is_the_wealth_now_whatever_came_before():
    """One step of the martingale in a population exactly at the margin, after each possible beginning."""
    whole = [-1.0, -1.0, -1.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    test = PairedTest(0.25, 0.05, population=8, budget=8)
    for seen in range(7):
        for begun in set(itertools.permutations(whole, seen)):
            left = whole.copy()
            for value in begun:
                left.remove(value)
            paths = wealth_paths(np.array([[*begun, value] for value in left]), test)
            for wealth in (paths.passing, paths.failing):
                before = 1.0 if seen == 0 else float(np.exp(wealth[0, -2]))
                assert np.exp(wealth[:, -1]).mean() == pytest.approx(before, rel=1e-9)


def test_a_bet_depends_on_no_pair_that_comes_later():
    rng = np.random.default_rng(1)
    runs = rng.choice([-1.0, 0.0, 1.0], size=(50, 40), p=[0.1, 0.8, 0.1])
    for test in (PairedTest(0.05, 0.05, budget=60), PairedTest(0.05, 0.05, population=60, budget=50)):
        whole = wealth_paths(runs, test)
        for cut in (1, 7, 39):
            part = wealth_paths(runs[:, :cut], test)
            assert (part.passing == whole.passing[:, :cut]).all()
            assert (part.failing == whole.failing[:, :cut]).all()


@pytest.mark.parametrize(("lost", "gained", "same"), [(0, 0, 7), (3, 1, 3), (1, 1, 5), (5, 0, 2), (2, 4, 1)])
@pytest.mark.parametrize("alpha", [0.1, 0.4])
def test_bounds_cover_the_truth_at_all_pairs_together_in_enough_orders(lost, gained, same, alpha):
    """Coverage by enumeration: each bound misses in at most a share alpha of all orders, at any pair."""
    size = lost + gained + same
    truth = (gained - lost) / size
    test = PairedTest(0.1, alpha, population=size, budget=size)
    orders = arrangements(lost, gained, same)
    found = [confidence_sequence(order, test) for order in orders]
    assert np.mean([bounds.lower > truth + 1e-9 for bounds in found]) <= alpha
    assert np.mean([bounds.upper < truth - 1e-9 for bounds in found]) <= alpha


@pytest.mark.parametrize("population", [None, 90])
@pytest.mark.parametrize("margin", [0.05, 0.123])
def test_pass_and_fail_are_the_bounds_against_the_margin(population, margin):
    """Duality, after every pair: also for a margin that is not on the grid."""
    rng = np.random.default_rng(3)
    test = PairedTest(margin, 0.1, population, 90)
    outcomes = set()
    for rates in ((0.02, 0.02), (0.3, 0.0), (0.1, 0.05)):
        for _ in range(6):
            run = rng.choice([-1.0, 0.0, 1.0], size=80, p=[rates[0], 1 - sum(rates), rates[1]])
            decision = decide(run, test)
            outcomes.add(decision.outcome)
            for count in {1, decision.pairs // 2, decision.pairs - 1, decision.pairs}:
                bounds, now = confidence_sequence(run[:count], test), decide(run[:count], test)
                assert (bounds.lower > -margin) == (now.outcome is Outcome.PASS)
                assert (bounds.upper < -margin) == (now.outcome is Outcome.FAIL)
    assert outcomes >= {Outcome.PASS, Outcome.FAIL}


def test_bounds_only_shrink_and_the_path_is_rounded_outwards():
    rng = np.random.default_rng(4)
    run = rng.choice([-1.0, 0.0, 1.0], size=60, p=[0.1, 0.8, 0.1])
    for test in (PairedTest(0.3, 0.05, budget=60), PairedTest(0.3, 0.05, 60, 60)):
        bounds = confidence_sequence(run, test)
        lows, highs = np.array(bounds.path).T
        assert (np.diff(lows) >= 0).all()
        assert (np.diff(highs) <= 0).all()
        assert lows[-1] <= bounds.lower < lows[-1] + 1e-3 + 1e-12
        assert highs[-1] >= bounds.upper > highs[-1] - 1e-3 - 1e-12
        assert bounds.lower <= run.mean() <= bounds.upper


def test_a_whole_population_is_known_exactly():
    run = [-1.0, 0.0, 1.0, -1.0, 0.0, 0.0, 0.0, 0.0]
    bounds = confidence_sequence(run, PairedTest(0.5, 0.05, population=8, budget=8))
    assert (bounds.lower, bounds.upper) == pytest.approx((-1 / 8, -1 / 8), abs=1e-8)


def test_nothing_seen_bounds_nothing():
    bounds = confidence_sequence([], PairedTest(0.1, 0.05))
    assert (bounds.lower, bounds.upper, bounds.path) == (-1.0, 1.0, ())


def test_a_wealth_of_exactly_one_over_alpha_passes_and_its_bound_is_above_the_margin():
    test = PairedTest(0.1, 0.05)
    reached = math.exp(wealth_paths(np.zeros((1, 40)), test).passing[0, -1])
    exact = PairedTest(0.1, 1 / reached)
    count = next(n for n in range(38, 43) if decide([0.0] * n, exact).outcome is Outcome.PASS)
    assert confidence_sequence([0.0] * count, exact).lower > -0.1


@pytest.mark.parametrize("discordant", [0.02, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("margin", [0.02, 0.1, 0.3])
def test_the_growth_optimal_bet_has_the_largest_mean_log(discordant, margin):
    """docs/gate-statistics.md: of all bets against -margin, on a candidate that is equal."""
    chances, values = (discordant / 2, 1 - discordant, discordant / 2), (margin - 1, margin, margin + 1)
    found = float(growth_optimal(np.array([discordant]), np.array([margin]))[0])

    def growth(bet):
        return sum(p * np.log1p(bet * x) for p, x in zip(chances, values, strict=True))

    assert 0.0 < found < 1.0 / (1.0 - margin)
    assert all(growth(found) > growth(found * factor) for factor in (0.97, 1.03))
