# SPDX-License-Identifier: Apache-2.0
"""A broken task cannot hide in a good average, and a good candidate is not held by chance."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from test_gate_judge import ARMS, good, plan_of, play, report

from compress.gate.floor import task_floors
from compress.gate.intervals import tango_score
from compress.gate.judge import extra_jobs, judge, level_vetoes
from compress.gate.panel_verdict import judge_panel
from compress.gate.panels import judge_panels
from compress.gate.recheck import recheck
from compress.gate.report import write_report
from compress.gate.spec import GateSpec
from compress.gate.stats import Outcome, PairedTest
from compress.gate.verdict import Verdict, verdict_of
from compress.gate.vetoes import _score, fewest_losses, holm, pairs_to_speak, vetoes, worse_p


@pytest.mark.parametrize("pairs", [4, 6])
@pytest.mark.parametrize("margin", [0.03, 0.2])
def test_p_is_at_most_alpha_with_probability_at_most_alpha(pairs, margin):
    """Exact size: all outcomes of so many pairs with their probabilities, at many rates of discordant pairs."""
    outcomes = [(a, b) for a in range(pairs + 1) for b in range(pairs + 1 - a)]
    p = np.array([worse_p(lost, gained, pairs, margin) for lost, gained in outcomes])
    for rate in np.linspace(margin, (1 + margin**2) / 2, 33):
        lose, gain = (rate + margin) / 2, (rate - margin) / 2
        chance = np.array(
            [
                math.comb(pairs, a) * math.comb(pairs - a, b) * lose**a * gain**b * (1 - rate) ** (pairs - a - b)
                for a, b in outcomes
            ]
        )
        for alpha in (0.01, 0.05, 0.2, 0.5):
            assert chance[p <= alpha].sum() <= alpha * 1.001


def test_p_of_all_lost_is_the_chance_of_that_for_independent_policies_a_margin_apart():
    """Oracle by hand: b (1 - c) with b - c = margin is largest, (1 + margin)^2 / 4, at b = (1 + margin) / 2."""
    assert worse_p(8, 0, 8, 0.03) == pytest.approx((1.03**2 / 4) ** 8)
    rates = np.linspace(0.03, 1.0, 9701)
    assert (rates * (1 - (rates - 0.03))).max() == pytest.approx(1.03**2 / 4, rel=1e-6)


def test_more_losses_never_raise_p_and_more_gains_never_lower_it():
    for lost, gained in itertools.product(range(6), range(6)):
        assert worse_p(lost + 1, gained, 12, 0.1) <= worse_p(lost, gained, 12, 0.1)
        assert worse_p(lost, gained + 1, 12, 0.1) >= worse_p(lost, gained, 12, 0.1)


def test_a_larger_margin_forgives_more():
    found = [worse_p(6, 1, 20, margin) for margin in (0.01, 0.05, 0.1, 0.2)]
    assert found == sorted(found)


def test_holm_is_the_step_down_of_bonferroni():
    """The example of Holm's procedure by hand: 4 p-values, each times the number of those not yet rejected."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))
    assert holm([0.9, 0.8]) == (1.0, 1.0)
    assert holm([]) == ()


def test_few_pairs_cannot_veto_and_the_table_says_how_many_can():
    assert [fewest_losses(pairs, 40, 0.03, 0.05) for pairs in (5, 6, 20)] == [None, 6, 10]
    assert [fewest_losses(pairs, 4, 0.03, 0.05) for pairs in (3, 8)] == [None, 5]
    assert [pairs_to_speak(members, 0.03, 0.05) for members in (1, 4, 40)] == [3, 4, 6]


@pytest.mark.parametrize("counts", [(3, 3, 5, 0.1), (-1, 0, 5, 0.1), (1, 0, 5, 0.0)])
def test_impossible_counts_are_refused(counts):
    with pytest.raises(ValueError, match="expected"):
        worse_p(*counts)


@pytest.mark.parametrize("margin", [0.02, 0.1])
def test_outcomes_are_ordered_by_tangos_score(margin):
    for pairs in (1, 7, 30):
        for lost in range(pairs + 1):
            for gained in range(0, pairs - lost + 1, 3):
                ours = _score(np.array([lost]), np.array([gained]), pairs, margin)[0]
                assert ours == pytest.approx(-tango_score(lost, gained, pairs, -margin), rel=1e-9, abs=1e-9)


def test_an_unknown_level_is_refused():
    with pytest.raises(ValueError, match="expected one of"):
        vetoes("planet", {}, 0.1, 0.05)


def one_task_broken(task: int):
    return lambda job: good(job) and not (job.arm == "candidate" and job.task == task)


BROKEN = GateSpec(margin=0.1, pairs=800)


def test_one_broken_task_of_twenty_holds_what_the_average_would_promote(tmp_path):
    plan = plan_of(BROKEN, tasks=20)
    rows = play(plan, one_task_broken(3))
    floors = task_floors(plan, rows)
    judgement = judge(plan, floors, rows)
    assert judgement.decision.outcome is Outcome.PASS
    found = [veto.name for veto in level_vetoes(plan, judgement) if veto.vetoed]
    verdict, reason = verdict_of(plan, floors, judgement)
    assert (verdict, found) == (Verdict.HOLD, ["task_3"])
    assert "task task_3 is significantly worse" in reason
    panels = judge_panels(plan, floors, judgement, rows, {})
    written = write_report(tmp_path, BROKEN, verdict, reason, ARMS, plan, floors, judgement, rows, panels=panels)
    assert recheck(tmp_path) == (verdict, reason)
    levels = [(veto["level"], veto["vetoed"]) for veto in written.data["vetoes"]]
    assert levels == [("suite", False), *[("task", i == 3) for i in range(20)]]
    assert "task task_3: lost" in (tmp_path / "gate.md").read_text()


def test_tasks_seen_too_seldom_get_their_next_pairs_and_until_then_it_is_a_hold():
    plan = plan_of(BROKEN, tasks=20)
    rows = play(plan, good)
    floors = task_floors(plan, rows)
    whole = judge(plan, floors, rows)
    needed = pairs_to_speak(20, 0.1, 0.05)
    seen = [pair.task for pair in whole.pairs + whole.extra]
    assert min(seen.count(task) for task in range(20)) == needed
    assert whole.missing == 0
    assert not set(whole.extra) & set(whole.pairs)
    assert verdict_of(plan, floors, whole)[0] is Verdict.PROMOTE
    gone = whole.extra[-1]
    fewer = {key: row for key, row in rows.items() if (key.arm, *key[2:4]) != ("candidate", gone.task, gone.state)}
    held = judge(plan, floors, fewer)
    assert (held.decided, held.missing, held.decision) == (True, 1, whole.decision)
    assert verdict_of(plan, floors, held)[0] is Verdict.HOLD
    assert {job.key for job in extra_jobs(held, plan)} - set(fewer) == set(rows) - set(fewer)


def test_an_equal_candidate_is_seldom_vetoed_by_any_of_forty_tasks():
    """Family-wise false alarms of the Holm vetoes over forty tasks of twenty pairs, 2,000 gates."""
    rng = np.random.default_rng(5)
    alarms = 0
    for _ in range(2000):
        d = rng.choice([-1, 0, 1], size=(40, 20), p=[0.1, 0.8, 0.1])
        p = [worse_p(int((row < 0).sum()), int((row > 0).sum()), 20, 0.03) for row in d]
        alarms += min(holm(p)) <= 0.05
    assert alarms / 2000 <= 0.01


def test_a_panel_that_must_pass_and_does_not_holds():
    plan = plan_of(GateSpec())
    rows = play(plan, good)
    floors = task_floors(plan, rows)
    judgement = judge(plan, floors, rows)
    test = PairedTest(0.1, 0.05)
    passed = judge_panel("light", "axis", test, [(True, True)] * 100, 100, {})
    failed = judge_panel("robot_pose", "axis", test, [(False, True)] * 60, 100, {})
    missing = judge_panel("camera", "axis", test, [], 100, {})
    assert verdict_of(plan, floors, judgement, [passed])[0] is Verdict.PROMOTE
    for bad, said in ((failed, "robot_pose: worse by more than 0.1"), (missing, "camera: no pair was run")):
        verdict, reason = verdict_of(plan, floors, judgement, [passed, bad])
        assert verdict is Verdict.HOLD
        assert said in reason


def test_the_first_panel_is_the_pooled_comparison_even_if_nothing_was_run(tmp_path):
    data = report(tmp_path, good).data
    panel = data["panels"][0]
    assert (panel["name"], panel["kind"], panel["outcome"]) == ("in_distribution", "suite", "pass")
    assert panel["pairs"] == data["paired"]["pairs"] == len(data["paired"]["path"])
    assert panel["difference"]["lower"] == data["paired"]["lower"] > -panel["margin"]
    assert panel["steps_to_success"] == {"candidate": 80.0, "baseline": 80.0}
    empty = write_report(tmp_path / "none", GateSpec(margin="release", pairs=800), Verdict.HOLD, "no simulator").data
    (panel,) = json.loads(json.dumps(empty["panels"], allow_nan=False))
    assert (panel["outcome"], panel["margin"], panel["planned"]) == ("not_run", 0.03, 800)
    assert (empty["paired"], empty["vetoes"]) == (None, [])
