# SPDX-License-Identifier: Apache-2.0
"""The small mathematics under the simulation: rotations, grasp turns, noise-free seeds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compress.sim.demo_plan import DemoPlan
from compress.sim.envs import axis_angle
from compress.sim.grasp import shortest_turn
from compress.sim.suites import Task
from compress.sim.tabletop.make_init_states import STATES_PER_TASK, STORED_SEED_BASE

ANGLE = st.floats(-20.0, 20.0)


@given(ANGLE, ANGLE)
def test_a_gripper_never_turns_more_than_a_quarter(yaw: float, now: float) -> None:
    turn = shortest_turn(yaw, now)
    assert abs(turn) <= np.pi / 2 + 1e-9
    assert np.sin(now + turn - yaw) == pytest.approx(0.0, abs=1e-6), "the finger axis ends up parallel"


@given(st.lists(st.floats(-1.0, 1.0), min_size=3, max_size=3), st.floats(0.001, 3.1))
def test_axis_angle_inverts_the_quaternion_of_a_rotation_vector(axis: list[float], angle: float) -> None:
    norm = float(np.linalg.norm(axis))
    if norm < 1e-3:
        return
    unit = np.array(axis) / norm
    quaternion = np.array([*(unit * np.sin(angle / 2)), np.cos(angle / 2)])
    assert axis_angle(quaternion) == pytest.approx(unit * angle, abs=1e-6)


def test_no_rotation_is_the_zero_vector() -> None:
    assert axis_angle(np.array([0.0, 0.0, 0.0, 1.0])).tolist() == [0.0, 0.0, 0.0]


def test_training_layouts_can_never_be_stored_ones() -> None:
    tasks = [Task("a", k, "a", Path("a"), 1) for k in range(10)]
    largest = max(DemoPlan(seed=3999).spec(task, 99_999).seed for task in tasks)
    assert largest < STORED_SEED_BASE
    assert STORED_SEED_BASE + 1000 * len(tasks) + STATES_PER_TASK < 2**32, "numpy's seed range"


def test_runs_and_tasks_draw_different_layouts() -> None:
    tasks = [Task("a", k, "a", Path("a"), 1) for k in range(4)]
    seeds = [DemoPlan(seed=s).spec(t, a).seed for s in range(3) for t in tasks for a in (0, 1, 99_999)]
    assert len(set(seeds)) == len(seeds)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seed", -1),
        ("seed", 4000),
        ("episodes_per_task", 0),
        ("noise", -0.1),
        ("noise", float("nan")),
        ("arm_noise", 1.0),
        ("speed", (0.0, 1.0)),
        ("speed", (1.0, 0.8)),
    ],
)
def test_a_plan_out_of_range_is_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        DemoPlan(**{field: value})  # type: ignore[arg-type]
