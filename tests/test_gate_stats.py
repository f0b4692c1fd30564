# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from compress.gate.bets import AGAINST, KELLY, growth_optimal
from compress.gate.intervals import mcnemar_exact, tango, tango_score, wilson
from compress.gate.stats import BadEvidence, Outcome, PairedTest, decide, wealth_paths

RUNS = 3000


def pairs(rng: np.random.Generator, lost: float, gained: float, runs: int, count: int) -> np.ndarray:
    u = rng.random((runs, count))
    return np.where(u < lost, -1.0, np.where(u < lost + gained, 1.0, 0.0))


def shuffled_population(rng: np.random.Generator, lost: int, gained: int, size: int, runs: int) -> np.ndarray:
    whole = np.array([-1.0] * lost + [1.0] * gained + [0.0] * (size - lost - gained))
    return rng.permuted(np.tile(whole, (runs, 1)), axis=1)


@pytest.mark.parametrize(("lost", "gained"), [(0.10, 0.0), (0.12, 0.02), (0.30, 0.20)])
def test_false_pass_at_the_margin_stays_under_alpha_however_often_one_looks(lost, gained):
    rng = np.random.default_rng(1)
    outcome, _ = wealth_paths(pairs(rng, lost, gained, RUNS, 300), PairedTest(0.10, 0.05)).decisions()
    assert (outcome == 1).mean() < 0.05
    assert (outcome == -1).mean() < 0.05


@pytest.mark.parametrize("seen", [200, 500])
def test_false_pass_at_the_margin_stays_under_alpha_in_a_finite_population(seen):
    rng = np.random.default_rng(2)
    whole = shuffled_population(rng, lost=60, gained=10, size=500, runs=RUNS)
    outcome, _ = wealth_paths(whole[:, :seen], PairedTest(0.10, 0.05, population=500)).decisions()
    assert (outcome == 1).mean() < 0.05
    assert (outcome == -1).mean() < 0.05


def test_a_good_candidate_passes_within_about_sixty_pairs():
    rng = np.random.default_rng(3)
    outcome, used = wealth_paths(pairs(rng, 0.02, 0.02, 1000, 400), PairedTest(0.10, 0.05)).decisions()
    assert (outcome == 1).mean() > 0.995
    assert 30 < np.median(used) <= 61
    assert np.quantile(used, 0.9) <= 105


def test_a_bad_candidate_is_stopped_within_thirty_pairs():
    rng = np.random.default_rng(4)
    outcome, used = wealth_paths(pairs(rng, 0.30, 0.0, 1000, 200), PairedTest(0.05, 0.05)).decisions()
    assert (outcome == -1).all()
    assert np.median(used) <= 30


def test_a_finite_population_needs_fewer_pairs():
    rng = np.random.default_rng(5)
    whole = shuffled_population(rng, lost=10, gained=10, size=500, runs=500)
    stream = wealth_paths(whole, PairedTest(0.05, 0.05)).decisions()[1]
    finite = wealth_paths(whole, PairedTest(0.05, 0.05, population=500)).decisions()[1]
    assert np.median(finite) < 0.9 * np.median(stream)


def test_task_by_task_order_would_pass_a_broken_last_task():
    """The trap that the plan's shuffle exists for (see test_gate_plan): same pairs, grouped order."""
    rng = np.random.default_rng(6)
    grouped = np.zeros((500, 500))
    grouped[:, 450:] = np.where(rng.permuted(np.tile(np.arange(50) < 50, (500, 1)), axis=1), -1.0, 0.0)
    test = PairedTest(0.10, 0.05, population=500)
    assert (wealth_paths(grouped, test).decisions()[0] == 1).mean() == 1.0
    shuffled = rng.permuted(grouped, axis=1)
    assert (wealth_paths(shuffled, test).decisions()[0] == 1).mean() < 0.05


def test_wealth_equals_the_product_of_its_bets():
    """Oracle: the formula written out for one short run, with plain floats."""
    run, margin = [0.0, -1.0, 1.0, 0.0, 0.0], 0.1
    paths = wealth_paths(np.array([run]), PairedTest(margin, 0.05))
    rates = [(2 + sum(map(abs, run[:i]))) / (40 + i) for i in range(len(run))]
    stakes = [min(KELLY * float(growth_optimal(np.array(r), np.array(margin))), 0.95 / (1 - margin)) for r in rates]
    up = math.prod(1 + stake * (d + margin) for stake, d in zip(stakes, run, strict=True))
    down = [math.prod(1 - f / (1 + margin) * (d + margin) for d in run) for f in AGAINST]
    assert paths.passing[0, -1] == pytest.approx(math.log(up), rel=1e-12)
    assert paths.failing[0, -1] == pytest.approx(math.log(sum(down) / len(down)), rel=1e-12)


def test_expected_wealth_at_the_margin_is_one_over_every_finite_population_order():
    """Martingale by enumeration: all orders of a population whose mean is exactly the margin."""
    whole = (-1.0, 0.0, 0.0, 0.0)
    test = PairedTest(0.25, 0.05, population=4)
    orders = np.array(list(itertools.permutations(whole)))[:, :3]
    paths = wealth_paths(orders, test)
    assert np.exp(paths.passing).mean(axis=0) == pytest.approx(np.ones(3))
    assert np.exp(paths.failing).mean(axis=0) == pytest.approx(np.ones(3))


def test_an_exhausted_population_decides_by_what_it_is_and_not_at_equality():
    def last(lost: int) -> Outcome:
        return decide([-1.0] * lost + [0.0] * (10 - lost), PairedTest(0.2, 0.05, population=10)).outcome

    assert [last(0), last(1), last(2), last(3)] == [Outcome.PASS, Outcome.PASS, Outcome.UNDECIDED, Outcome.FAIL]


def test_a_better_last_pair_never_lowers_the_evidence_for_a_pass():
    rng = np.random.default_rng(7)
    worse = pairs(rng, 0.2, 0.1, 200, 60)
    better = worse.copy()
    better[:, -1] = np.minimum(worse[:, -1] + 1.0, 1.0)
    for test in (PairedTest(0.1, 0.05), PairedTest(0.1, 0.05, population=200)):
        assert (wealth_paths(better, test).passing[:, -1] >= wealth_paths(worse, test).passing[:, -1]).all()
        assert (wealth_paths(better, test).failing[:, -1] <= wealth_paths(worse, test).failing[:, -1]).all()


def test_evidence_stays_finite_when_one_worst_pair_costs_almost_everything():
    paths = wealth_paths(np.full((1, 300), -1.0), PairedTest(0.1, 0.05))
    assert np.isfinite(paths.passing).all()
    assert decide([-1.0] * 300, PairedTest(0.1, 0.05)).outcome is Outcome.FAIL


def test_pairs_after_the_decision_change_nothing():
    run = [0.0] * 60
    first = decide(run, PairedTest(0.1, 0.05))
    assert first.outcome is Outcome.PASS
    assert decide([*run[: first.pairs], *[-1.0] * 40], PairedTest(0.1, 0.05)) == first


def test_nothing_seen_is_undecided():
    decision = decide([], PairedTest(0.1, 0.05))
    assert (decision.outcome, decision.pairs, decision.log_e_pass) == (Outcome.UNDECIDED, 0, 0.0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 0.5, 2.0])
def test_a_difference_that_is_not_minus_one_zero_or_one_is_refused(bad):
    with pytest.raises(BadEvidence, match="expected"):
        decide([0.0, bad], PairedTest(0.1, 0.05))


def test_more_pairs_than_the_population_are_refused():
    with pytest.raises(BadEvidence, match="counted twice"):
        decide([0.0] * 11, PairedTest(0.1, 0.05, population=10))


@pytest.mark.parametrize(
    "fields", [(0.0, 0.05), (1.0, 0.05), (0.1, 0.0), (0.1, 0.5), (float("nan"), 0.05), (0.1, 0.05, 0)]
)
def test_a_test_without_sense_is_refused(fields):
    with pytest.raises(BadEvidence, match="expected"):
        PairedTest(*fields)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(20, 20, 83.9, 100.0), (49, 50, 89.5, 99.6), (485, 500, 95.1, 98.2), (0, 0, 0, 100)],
)
def test_wilson_matches_published_values(successes, trials, low, high):
    assert [100 * v for v in wilson(successes, trials)] == pytest.approx([low, high], abs=0.06)


def test_mcnemar_matches_the_binomial():
    assert mcnemar_exact(0, 0) == 1.0
    assert mcnemar_exact(5, 1) == mcnemar_exact(1, 5) == pytest.approx(14 / 64)
    assert mcnemar_exact(8, 0) == pytest.approx(2 / 256)


def test_tango_without_discordant_pairs_has_its_closed_form():
    z2 = 1.959963984540054**2
    assert tango(0, 0, 100) == pytest.approx((-z2 / (100 + z2), z2 / (100 + z2)), abs=1e-9)


@pytest.mark.parametrize(("lost", "gained", "n"), [(5, 2, 100), (0, 7, 40), (12, 12, 60), (3, 0, 20)])
def test_tango_ends_are_where_the_score_says_so(lost, gained, n):
    low, high = tango(lost, gained, n)
    assert low < (gained - lost) / n < high
    assert tango_score(lost, gained, n, low) == pytest.approx(1.959964, abs=1e-5)
    assert tango_score(lost, gained, n, high) == pytest.approx(-1.959964, abs=1e-5)
    assert tango(gained, lost, n) == pytest.approx((-high, -low), abs=1e-9)


def test_tango_score_uses_the_most_likely_nuisance_rate():
    """Oracle: the constrained likelihood maximised on a grid."""
    lost, gained, n, delta = 5, 2, 100, -0.08
    other = np.linspace(1e-4, 0.5, 200_001)
    with np.errstate(divide="ignore", invalid="ignore"):
        likelihood = lost * np.log(other) + gained * np.log(other + delta) + 93 * np.log(1 - 2 * other - delta)
    best = other[np.nanargmax(likelihood)]
    expected = (gained - lost - n * delta) / math.sqrt(n * (2 * best + delta - delta**2))
    assert tango_score(lost, gained, n, delta) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("call", [lambda: wilson(3, 2), lambda: tango(3, 3, 5), lambda: mcnemar_exact(-1, 0)])
def test_impossible_counts_are_refused(call):
    with pytest.raises(ValueError, match="expected"):
        call()


def test_more_pairs_than_the_budget_that_the_bets_were_planned_for_are_refused():
    test = PairedTest(0.1, 0.05, budget=10)
    assert wealth_paths(np.zeros((1, 10)), test).passing.shape == (1, 10)
    with pytest.raises(BadEvidence, match="11 pairs of a budget of 10"):
        wealth_paths(np.zeros((1, 11)), test)
