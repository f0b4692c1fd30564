# SPDX-License-Identifier: Apache-2.0
"""Plans: every way to say how much, the stack's own rules, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.plan import Costs, Plan, PlanError, PlanSpec, load_plans, make_plan, save_plans
from compress.scores import Scores, Subject

MODEL = "a" * 64


def scores(
    *values: float, unit: int = 1, pinned: tuple[int, ...] = (), blocks: tuple[int, ...] | None = None, **more: object
) -> Scores:
    live = blocks or tuple(range(len(values)))
    return Scores("gateprobe", Subject("language", "block", max(live) + 1, live, unit, pinned, MODEL), values, **more)  # type: ignore[arg-type]


def costs(count: int, timed: bool = True) -> Costs:
    ms = (tuple(float(i + 1) for i in range(count)), 20.0, "cpu") if timed else ((), None, "")
    return Costs(
        "language", "block", tuple(range(count)), (100,) * count, (10,) * count, 1000, 100, MODEL, ms[0], ms[1], ms[2]
    )


@pytest.mark.parametrize(
    ("amount", "dropped"),
    [
        ({"keep": 3}, (1,)),
        ({"drop": 2}, (1, 3)),
        ({"drop": 0}, ()),
        ({"keep_fraction": 0.5}, (1, 3)),
        ({"keep_fraction": 0.6}, (1, 3)),  # 2.4 blocks are nearer to 2 than to 3
        ({"keep_fraction": 0.625}, (1,)),  # halfway: more is kept
        ({"keep_fraction": 1.0}, ()),
        ({"parameter_budget": 800}, (1, 3)),
        ({"parameter_budget": 899}, (1, 3)),
        ({"parameter_budget": 900}, (1,)),
        ({"latency_budget_ms": 14.0}, (1, 3)),  # 20 - 2 - 4
        ({"latency_budget_ms": 18.0}, (1,)),
    ],
)
def test_lowest_scores_leave_until_the_amount_is_met(amount: dict[str, float], dropped: tuple[int, ...]) -> None:
    plan = make_plan(scores(4.0, 1.0, 3.0, 2.0), PlanSpec(**amount), costs(4))  # type: ignore[arg-type]
    assert plan.dropped == dropped
    assert plan.kept == tuple(b for b in range(4) if b not in dropped)


def test_prediction_subtracts_what_was_measured() -> None:
    plan = make_plan(scores(4.0, 1.0, 3.0, 2.0), PlanSpec(drop=2), costs(4))
    assert plan.predicted == {"parameters": 800, "flops_share": 0.8, "latency_ms": 14.0}


def test_unit_leaves_as_a_whole_by_its_sum() -> None:
    plan = make_plan(scores(0.1, 9.0, 1.0, 1.0, unit=2), PlanSpec(drop=2))
    assert plan.dropped == (2, 3)
    with pytest.raises(PlanError, match=r"drop is 1, but language has 4 blocks; possible here: \[0, 2\]"):
        make_plan(scores(0.1, 9.0, 1.0, 1.0, unit=2), PlanSpec(drop=1))


def test_pinned_block_stays_and_holds_its_unit() -> None:
    assert make_plan(scores(0.0, 1.0, 2.0, pinned=(0,)), PlanSpec(keep=1)).kept == (0,)
    assert make_plan(scores(0.0, 0.0, 2.0, 2.0, unit=2, pinned=(0,)), PlanSpec(drop=2)).dropped == (2, 3)


def test_last_block_is_never_dropped() -> None:
    with pytest.raises(PlanError, match=r"drop is 3.*possible here: \[0, 1, 2\]"):
        make_plan(scores(1.0, 2.0, 3.0), PlanSpec(drop=3))


def test_second_plan_counts_in_original_indices() -> None:
    plan = make_plan(scores(3.0, 1.0, 2.0, blocks=(0, 4, 5)), PlanSpec(drop=1))
    assert (plan.depth, plan.kept, plan.dropped) == (6, (0, 5), (4,))
    assert "[#...-#]" in plan.map_text()


def test_cut_through_a_tie_is_told() -> None:
    tied = scores(1.0, 1.0, 2.0, ties=((0, 1),))
    assert make_plan(tied, PlanSpec(drop=1)).close_call == (0, 1)
    assert make_plan(tied, PlanSpec(drop=2)).close_call == ()
    assert "tie of [0, 1]" in make_plan(tied, PlanSpec(drop=1)).map_text()


@pytest.mark.parametrize(
    ("amount", "message"),
    [
        ({}, "set exactly one of keep, drop, .*; found none"),
        ({"keep": 1, "drop": 1}, "found keep, drop"),
        ({"keep": 0}, "keep is 0, expected > 0"),
        ({"drop": -1}, "drop is -1, expected >= 0"),
        ({"keep_fraction": 1.5}, r"keep_fraction is 1.5, expected in \(0, 1\]"),
        ({"latency_budget_ms": float("nan")}, "latency_budget_ms is nan"),
        ({"keep": 1, "part": "head"}, "part is 'head', expected one of: block, attention, mlp"),
    ],
)
def test_amount_that_says_nothing_is_refused(amount: dict[str, float], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        PlanSpec(**amount)  # type: ignore[arg-type]


def test_budget_that_cannot_be_met_says_what_can() -> None:
    with pytest.raises(PlanError, match=r"parameter_budget is 600, .* leaves 700 \(now 1,000\): raise the budget"):
        make_plan(scores(1.0, 2.0, 3.0, 4.0), PlanSpec(parameter_budget=600), costs(4))
    with pytest.raises(PlanError, match=r"keep is 9, but language has 4 blocks; possible here: \[1, 2, 3, 4\]"):
        make_plan(scores(1.0, 2.0, 3.0, 4.0), PlanSpec(keep=9))


def test_costs_must_be_there_timed_and_of_this_model() -> None:
    four = scores(1.0, 2.0, 3.0, 4.0)
    for given_costs in (None, costs(4, timed=False)):
        with pytest.raises(PlanError, match="latency_budget_ms needs latency_ms measured"):
            make_plan(four, PlanSpec(latency_budget_ms=1.0), given_costs)
    with pytest.raises(PlanError, match="measure again"):
        make_plan(four, PlanSpec(drop=1), replace(costs(4), model_identity="b" * 64))
    with pytest.raises(PlanError, match=r"the plan wants vision\.siglip/block: probe that one"):
        make_plan(four, PlanSpec(role="vision.siglip", drop=1))


def test_file_round_trip_and_diff(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    plans = (make_plan(scores(4.0, 1.0, 3.0, 2.0), PlanSpec(drop=1), costs(4)),)
    save_plans(path, plans)
    assert load_plans(path) == plans
    assert load_plans(path)[0].digest() == plans[0].digest()
    first = path.read_text().splitlines()
    save_plans(path, (make_plan(scores(4.0, 1.0, 3.0, 2.0), PlanSpec(drop=2), costs(4)),))
    assert 0 < len(set(path.read_text().splitlines()) ^ set(first)) < 14  # a plan's change is a few lines


def test_broken_plan_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    with pytest.raises(PlanError, match="not a plan file"):
        load_plans(path)
    for text in ("{", "[]", '{"plans": [{"role": "language"}]}'):
        path.write_text(text)
        with pytest.raises(PlanError, match="run the plan stage again"):
            load_plans(path)
    data = json.loads(json.dumps(make_plan(scores(1.0, 2.0), PlanSpec(drop=1)).to_json()))
    with pytest.raises(PlanError, match="not disjoint indices below 2"):
        Plan.from_json({**data, "kept": [0, 1]})


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 10), min_size=2, max_size=12), st.data())
def test_kept_scores_are_never_below_dropped_ones(values: list[float], data: st.DataObject) -> None:
    plan = make_plan(scores(*values), PlanSpec(keep=data.draw(st.integers(1, len(values)))))
    assert sorted([*plan.kept, *plan.dropped]) == list(range(len(values)))
    if plan.dropped:
        assert max(values[i] for i in plan.dropped) <= min(values[i] for i in plan.kept)
