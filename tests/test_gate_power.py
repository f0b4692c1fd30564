# SPDX-License-Identifier: Apache-2.0
"""The planner: what a gate will find before it is run; named margins."""

from __future__ import annotations

import json

import numpy as np
import pytest

from compress.cli import main
from compress.gate.margins import MARGINS, margin_of
from compress.gate.power import PlanImpossible, Truth, draw, forecast, population_counts, truths
from compress.gate.spec import GateSpec, GateSpecError
from compress.gate.stats import PairedTest

RELEASE = PairedTest(0.03, 0.05, 2000, 800)


def test_a_release_gate_promotes_equals_and_not_what_is_a_margin_worse():
    equal, half, at, bad = (forecast(truth, RELEASE, 800, runs=500) for truth in truths(0.97, 0.05, 0.03))
    assert equal.promoted[0] >= 0.95
    assert equal.mean_pairs < 350
    assert at.promoted[1][0] <= 0.05
    assert at.promoted[0] < half.promoted[0] < equal.promoted[0]
    assert (bad.passed, bad.failed) == (0, 500)
    assert bad.pairs90 <= bad.most_pairs <= 100
    planted = forecast(Truth("14 % against 97 %", 0.83, 0.004), RELEASE, 800, runs=500)
    assert (planted.failed, planted.most_pairs <= 60) == (500, True)


def test_the_same_question_gets_the_same_numbers():
    truth = Truth("equal", 0.025, 0.025)
    assert forecast(truth, RELEASE, 800, runs=100) == forecast(truth, RELEASE, 800, runs=100)


def test_a_simulated_population_has_exactly_its_rates_and_is_never_better_than_asked():
    assert population_counts(Truth("a margin worse", 0.04, 0.01), 210) == (9, 2)  # 6.3 more lost than gained: 7
    whole = draw(Truth("a margin worse", 0.04, 0.01), PairedTest(0.03, 0.05, 200), 200, 3, np.random.default_rng(0))
    assert (whole.sum(axis=1) == -6).all()
    assert not (whole[0] == whole[1]).all()


@pytest.mark.parametrize(
    ("rates", "said"),
    [((0.97, 0.2), "differ in at most 0.06"), ((1.5, 0.1), "expected fractions"), ((0.5, -0.1), "exp")],
)
def test_policies_that_cannot_be_are_refused(rates, said):
    with pytest.raises(PlanImpossible, match=said):
        truths(*rates, 0.03)


def test_a_worse_policy_has_at_least_the_discordant_pairs_that_it_must():
    assert [(t.lost, t.gained) for t in truths(0.97, 0.02, 0.03)] == [
        (0.01, 0.01), (pytest.approx(0.0175), pytest.approx(0.0025)), (0.03, 0.0), (pytest.approx(0.3), 0.0),
    ]  # fmt: skip


def test_plan_prints_a_table_and_the_same_as_json(capsys):
    arguments = ["gate", "--plan", "--margin", "strict", "--pairs", "60", "--pairs-per-minute", "20"]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert "margin 2 points" in text
    assert "Monte Carlo error" in text
    assert main([*arguments, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)["plan"]
    assert [item["policy"] for item in plan["forecasts"]] == ["equal", "half a margin worse", "a margin worse", "bad"]
    for item in plan["forecasts"]:
        assert item["promoted"] + item["failed"] + item["undecided"] == pytest.approx(1.0)
        assert item["mean_minutes"] == pytest.approx(item["mean_pairs"] / 20)
    assert plan["margin"] == 0.02


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--plan", "--candidate", "a"], "--plan runs no gate"),
        (["--plan", "--margin", "relaese"], "release (0.03), strict (0.02)"),
        (["--plan", "--pairs", "0"], "at least 1"),
        (["--plan", "--pairs-per-minute", "0"], "above 0"),
        (["--plan", "--discordance", "0.5"], "differ in at most"),
        (["--discordance", "0.5"], "only with --plan"),
    ],
)
def test_a_plan_without_sense_is_refused(arguments, said, capsys):
    assert main(["gate", *arguments]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(("given", "margin"), [("release", 0.03), ("strict", 0.02), (0.1, 0.1), ("0.05", 0.05)])
def test_a_margin_is_a_name_or_a_number(given, margin):
    spec = GateSpec(margin=given)
    assert (spec.margin, spec.protocol()["margin"], margin_of(given)) == (margin, margin, margin)
    assert set(MARGINS) == {"release", "strict"}


@pytest.mark.parametrize("bad", ["loose", "nan", True, None, 0.0, 0.6])
def test_a_margin_without_sense_is_refused(bad):
    with pytest.raises(GateSpecError, match="`margin` is"):
        GateSpec(margin=bad)
