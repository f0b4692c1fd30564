# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import numpy as np
import pytest

from compress.gate.plan import GatePlan, PlanMismatch, SuiteTask, make_plan, register
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
    assert (outcome == 1).mean() < 0.05 + 3 * (0.05 * 0.95 / 400) ** 0.5  # alpha, and the luck of 400 orders


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
    swapped = make_plan(GateSpec(panels={"instruction_swap": {}}), suite(), ARMS).panels["instruction_swap"]
    assert {pair for pair, _ in swapped} == {(task, state, 0) for task in range(4) for state in range(50)}
    assert all(told != pair.task and 0 <= told < 4 for pair, told in swapped)
    assert len({told - pair.task for pair, told in swapped}) > 3
    one_task = make_plan(GateSpec(panels={"instruction_swap": {}}), suite(tasks=1), ARMS)
    assert one_task.panels == {"instruction_swap": ()}


def test_every_panel_has_all_scenes_in_an_order_of_its_own():
    spec = GateSpec(panels={"camera": {}, "robot_pose": {}})
    plan = make_plan(spec, suite(), ARMS)
    assert list(plan.panels) == ["robot_pose", "camera"]
    orders = [[pair for pair, _ in scenes] for scenes in plan.panels.values()]
    assert set(orders[0]) == set(orders[1]) == set(plan.order)
    assert len({tuple(order) for order in (*orders, plan.order)}) == 3
    assert all(told == pair.task for scenes in plan.panels.values() for pair, told in scenes)


def test_a_plan_with_panels_comes_back_from_json_and_an_edited_one_does_not():
    plan = make_plan(GateSpec(panels={"camera": {"pairs": 7, "margin": "strict"}}), suite(), ARMS)
    data = json.loads(json.dumps(plan.to_json()))
    assert GatePlan.from_json(data) == plan
    assert data["protocol"]["panels"]["camera"] == {
        "pairs": 7, "margin": 0.02, "alpha": 0.05, "strength": 8.0, "advisory": False,
    }  # fmt: skip
    with pytest.raises(PlanMismatch, match="panels"):
        GatePlan.from_json({**data, "panels": {"camera": data["panels"]["camera"][::-1]}})


@pytest.mark.parametrize(
    ("panels", "said"),
    [
        ({"gravity": {}}, "no panel 'gravity'. Available: robot_pose, camera"),
        ({"camera": {"strength": 400}}, "degrees of orbit"), ({"camera": {"strength": 0}}, "above 0"),
        ({"language": {"strength": 1.5}}, "expected 1 or 2"), ({"instruction_swap": {"strength": 1}}, "leave it out"),
        ({"camera": {"pairs": 0}}, "pairs"), ({"camera": {"margin": 0.7}}, "margin"), ({"camera": {"size": 1}}, "size"),
        ({"in_distribution": {}}, "the gate itself"), ({"camera": {"alpha": float("nan")}}, "alpha"), ([], "mapping"),
    ],
)  # fmt: skip
def test_panels_without_sense_are_refused_by_name(panels, said):
    with pytest.raises(GateSpecError, match="`panels`") as caught:
        GateSpec(panels=panels)
    assert said in str(caught.value)


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


@pytest.mark.parametrize(
    "field", ["margin", "alpha", "pairs", "floor_gap", "min_baseline", "open_loop", "env_seed", "panels"]
)
def test_what_is_asked_changes_the_plan(field):
    values = {
        "margin": 0.05,
        "alpha": 0.01,
        "pairs": 50,
        "floor_gap": 0.5,
        "min_baseline": 0.7,
        "open_loop": 4,
        "env_seed": 3,
        "panels": {"light": {}},
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
