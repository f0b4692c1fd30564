# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import numpy as np
import pytest

from compress.gate.plan import PlanMismatch, SuiteTask, make_plan, register
from compress.gate.spec import EXECUTION_FIELDS, GateSpec, GateSpecError
from compress.gate.stats import PairedTest, wealth_paths

ARMS = {"candidate": "c" * 64, "baseline": "b" * 64}


def suite(tasks: int = 4, states: int = 50) -> tuple[SuiteTask, ...]:
    return tuple(SuiteTask(i, f"task_{i}", f"do {i}", states, 150) for i in range(tasks))


def test_every_scene_is_in_the_order_exactly_once():
    plan = make_plan(GateSpec(), suite(), ARMS)
    assert len(plan.order) == 200
    assert set(plan.order) == {(task, state, 0) for task in range(4) for state in range(50)}


def test_a_broken_last_task_cannot_hide_behind_the_order():
    """Over many order seeds: a candidate exactly at the margin, because one of ten tasks is broken, seldom passes."""
    runs = []
    for seed in range(400):
        plan = make_plan(GateSpec(order_seed=seed), suite(tasks=10, states=20), ARMS)
        runs.append([-1.0 if pair.task == 9 else 0.0 for pair in plan.order])
    outcome, _ = wealth_paths(np.array(runs), PairedTest(0.10, 0.05, population=200)).decisions()
    assert (outcome == 1).mean() < 0.05


def test_the_order_belongs_to_its_seed():
    first, same, other = (make_plan(GateSpec(order_seed=seed), suite(), ARMS) for seed in (1, 1, 2))
    assert first == same
    assert first.digest() == same.digest()
    assert first.order != other.order


def test_screening_does_not_reuse_the_recorded_scene():
    plan = make_plan(GateSpec(floor_states=8), suite(), ARMS)
    for task in range(4):
        assert len(plan.screen[task]) == 8
        assert not set(plan.screen[task]) & set(plan.record[task])


def test_a_wrong_sentence_is_always_another_tasks():
    plan = make_plan(GateSpec(wrong_instruction=50), suite(), ARMS)
    assert len(plan.wrong) == 50
    assert all(told != pair.task and 0 <= told < 4 for pair, told in plan.wrong)
    assert make_plan(GateSpec(), suite(tasks=1), ARMS).wrong == ()


def test_a_registered_plan_can_be_taken_up_again_but_not_exchanged(tmp_path):
    plan = make_plan(GateSpec(), suite(), ARMS)
    digest = register(plan, tmp_path / "plan.json")
    before = (tmp_path / "plan.json").read_bytes()
    assert register(plan, tmp_path / "plan.json") == digest == json.loads(before)["digest"]
    with pytest.raises(PlanMismatch, match="arms"):
        register(make_plan(GateSpec(), suite(), {**ARMS, "candidate": "d" * 64}), tmp_path / "plan.json")
    with pytest.raises(PlanMismatch, match="order"):
        register(make_plan(GateSpec(order_seed=1), suite(), ARMS), tmp_path / "plan.json")
    assert (tmp_path / "plan.json").read_bytes() == before


def test_an_order_edited_on_disk_is_refused(tmp_path):
    plan = make_plan(GateSpec(), suite(), ARMS)
    register(plan, tmp_path / "plan.json")
    data = json.loads((tmp_path / "plan.json").read_text())
    data["order"].sort()
    (tmp_path / "plan.json").write_text(json.dumps(data))
    with pytest.raises(PlanMismatch, match="order"):
        register(plan, tmp_path / "plan.json")


def test_how_a_run_is_carried_out_does_not_change_the_plan():
    other = GateSpec(workers=7, envs_per_worker=1, episode_timeout_s=5.0, filmstrips=0)
    assert make_plan(other, suite(), ARMS).digest() == make_plan(GateSpec(), suite(), ARMS).digest()
    assert set(EXECUTION_FIELDS) <= set(GateSpec().to_json())


@pytest.mark.parametrize("field", ["margin", "alpha", "pairs", "floor_gap", "min_baseline", "open_loop", "env_seed"])
def test_what_is_asked_changes_the_plan(field):
    values = {
        "margin": 0.05,
        "alpha": 0.01,
        "pairs": 50,
        "floor_gap": 0.5,
        "min_baseline": 0.7,
        "open_loop": 4,
        "env_seed": 3,
    }
    other = GateSpec(**{field: values[field]})
    assert make_plan(other, suite(), ARMS).digest() != make_plan(GateSpec(), suite(), ARMS).digest()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("margin", 0.0), ("margin", 0.5), ("margin", float("nan")), ("alpha", 0.0), ("alpha", "0.05"),
        ("pairs", 0), ("pairs", 2.0), ("pairs", True), ("workers", 0), ("open_loop", 0), ("floor_states", 0),
        ("floor_gap", 0.1), ("min_baseline", 1.0), ("episode_timeout_s", 0.0), ("order_seed", -1),
        ("tasks", ()), ("tasks", (1, 1)), ("suite", ""), ("states", 0), ("max_steps", 0),
    ],
)  # fmt: skip
def test_a_spec_without_sense_is_refused_by_name(field, value):
    with pytest.raises(GateSpecError, match=field):
        GateSpec(**{field: value})


def test_more_states_than_are_stored_are_refused():
    with pytest.raises(GateSpecError, match="50 stored"):
        make_plan(GateSpec(states=51), suite(), ARMS)
    with pytest.raises(GateSpecError, match="at least 2"):
        make_plan(GateSpec(states=1), suite(), ARMS)
