# SPDX-License-Identifier: Apache-2.0
"""One panel -> its entry in gate.json."""

from __future__ import annotations

import json

import numpy as np
import pytest

from compress.gate.panel_verdict import BadPanel, judge_panel
from compress.gate.sequence import confidence_sequence
from compress.gate.stats import PairedTest

TEST = PairedTest(0.03, 0.05, 800)
STEPS = {"candidate": 81.0, "baseline": None}


@pytest.mark.parametrize(
    ("results", "outcome"),
    [
        ([(True, True)] * 300, "pass"),
        ([(False, True)] * 60, "fail"),
        ([(True, True)] * 20, "undecided"),
        ([], "not_run"),
    ],
)
def test_the_outcome_is_pass_exactly_when_the_lower_bound_is_above_the_margin(results, outcome):
    verdict = judge_panel("robot_pose", "axis", TEST, results, 300, STEPS)
    assert verdict.outcome == outcome
    assert (verdict.lower > -0.03) == (outcome == "pass")
    assert (verdict.upper < -0.03) == (outcome == "fail")
    assert len(verdict.path) == len(verdict.results) <= len(results)


def test_the_entry_is_json_and_has_the_agreed_fields():
    results = [(True, True), (False, True), (True, False), (True, True)]
    entry = judge_panel("in_distribution", "suite", TEST, results, 800, STEPS).entry()
    assert json.loads(json.dumps(entry, allow_nan=False)) == entry
    assert list(entry) == [
        "name", "kind", "margin", "alpha", "pairs", "planned", "outcome", "candidate", "baseline", "lost", "gained",
        "difference", "steps_to_success", "reason",
    ]  # fmt: skip
    assert (entry["pairs"], entry["planned"], entry["lost"], entry["gained"]) == (4, 800, 1, 1)
    assert set(entry["candidate"]) == {"successes", "trials", "rate", "wilson95"}
    assert set(entry["difference"]) == {"mean", "lower", "upper"}
    assert entry["steps_to_success"] == STEPS
    assert "796 of 800 pairs are missing" in entry["reason"]


def test_bounds_that_crossed_are_told_in_order_and_still_agree_with_the_outcome():
    """Crossing is rare at alpha 0.05 and common at 0.4, in a population that is seen to its end."""
    rng, crossed = np.random.default_rng(0), 0
    for _ in range(40):
        size, margin = int(rng.integers(20, 45)), float(rng.choice([0.05, 0.3]))
        whole = np.repeat([-1, 1, 0], [round(margin * size) + 2, 2, size - round(margin * size) - 4])
        differences = rng.permutation(whole)
        test = PairedTest(margin, 0.4, size, size)
        results = [(bool(d >= 0), bool(d <= 0)) for d in differences]
        verdict = judge_panel("camera", "axis", test, results, size, STEPS)
        bounds = confidence_sequence(differences[: len(verdict.results)], test)
        crossed += bounds.lower > bounds.upper
        assert -1.0 <= verdict.lower <= verdict.upper <= 1.0
        assert (verdict.lower > -margin) == (verdict.outcome == "pass")
        assert (verdict.upper < -margin) == (verdict.outcome == "fail")
    assert crossed


def test_pairs_after_the_decision_change_nothing():
    first = judge_panel("light", "axis", TEST, [(True, True)] * 200, 800, STEPS)
    assert judge_panel("light", "axis", TEST, [(True, True)] * 200 + [(False, True)] * 300, 800, STEPS) == first


@pytest.mark.parametrize(("name", "kind", "count"), [("moon", "axis", 1), ("light", "other", 1), ("light", "axis", 5)])
def test_a_panel_that_was_not_agreed_is_refused(name, kind, count):
    with pytest.raises(BadPanel, match=r"expected|twice"):
        judge_panel(name, kind, TEST, [(True, True)] * count, 4, STEPS)
