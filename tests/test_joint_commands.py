# SPDX-License-Identifier: Apache-2.0
"""Joint commands: how much a chunk is slowed, when a plan is made anew, and that no command ends beyond the range."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from arm_models import seven
from filter_world import joint_spec
from joint_world import DT, LIMITS, TIMING, Driven, H, at, chunk, made, rows

from runtime.contract.chunk import ActionChunk
from runtime.safety.curve import Curve
from runtime.safety.joints import JointPath
from runtime.safety.motion import Measured, Situation

pytest.importorskip("ruckig", reason="joint commands need ruckig. Next: make install-dev")

BOTH_ENDS = pytest.mark.parametrize("side", [-1.0, 1.0], ids=["low", "high"])


# ---- what of a chunk is used ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("power", "jerk"), [(2, 4000.0), (3, 40.0)])
def test_along_a_path_a_tenth_of_acceleration_and_of_jerk_more_is_left_free(power, jerk):
    """For the ways onto a path and the stops off it, which need some."""
    t = np.arange(1, H + 1) * DT
    values = np.stack([(t - 0.5) ** power * (3.0 if power == 2 else 9.0) / power, 0.0 * t], axis=1)
    path = made(low=(-9.0, -9.0), high=(9.0, 9.0), velocity=(20.0, 20.0), jerk=(jerk, jerk), acceleration=(2.9, 2.9))
    if power == 3:
        path = made(low=(-9.0, -9.0), high=(9.0, 9.0), velocity=(20.0,) * 2, jerk=(jerk,) * 2, acceleration=(90.0,) * 2)
    start = 2 * values[0] - values[1]
    admitted = path.admit(chunk(values), at(0.0, start, start))
    padded = np.vstack([2 * values[0] - values[1], values, 2 * values[-1] - values[-2]])
    rate = np.abs(np.diff(padded, n=2, axis=0)).max() / DT**2 / (0.9 * path._limits.acceleration[0])
    change = np.abs(np.diff(padded, n=3, axis=0)).max() / DT**3 / (0.85 * jerk)
    expected = np.sqrt(rate) if power == 2 else np.cbrt(change)
    assert expected > 1.02
    assert admitted.time_scale == pytest.approx(expected, rel=1e-4)


def test_path_of_a_chunk_that_is_slowed_a_little_is_slowed_too():
    admitted = made().admit(chunk(rows((1.0, 0.0), (-0.5, 0.0))), at(0.0, (-0.5, 0.0), (-0.5, 0.0)))
    assert admitted.time_scale == pytest.approx(1.0 / 0.95, rel=1e-5)
    assert admitted.path.end_s == pytest.approx(H * DT / 0.95, rel=1e-5)
    assert np.abs(admitted.path.velocities).max() <= 0.95 + 1e-6


@pytest.mark.parametrize("slow", ["joints", "tool"])
def test_the_slower_of_what_joints_and_tool_allow_counts(slow):
    arm = seven()
    spec, limits = joint_spec(arm), arm.limits
    line = arm.home + np.arange(1, spec.horizon + 1)[:, None] * DT * 0.2 * np.eye(7)[0]
    tool = replace(limits.tool, workspace_low=(-9.0,) * 3, workspace_high=(9.0,) * 3, elbow_low=(), elbow_high=())
    place = arm.kinematics.places(arm.home[None], 0.2 * np.eye(7)[:1])
    if slow == "joints":
        limits, expected = replace(limits, velocity=(0.1,) * 7), 2.0 / 0.95
    else:
        fastest = float(np.linalg.norm(place.linear))
        tool, expected = replace(tool, linear_m_s=fastest / 2.0), 2.0 / 0.94
    path = JointPath(spec, replace(limits, tool=tool), TIMING, arm.kinematics)
    home = Measured(0.0, dict(zip(limits.names, arm.home, strict=True)))
    admitted = path.admit(ActionChunk(line.astype(np.float32), 0.0, DT, limits.names), Situation(0.0, home, home))
    assert admitted.time_scale == pytest.approx(expected, rel=1e-3)


@BOTH_ENDS
def test_both_ends_of_the_range_are_inside_and_may_be_held(side):
    end = side * np.array(LIMITS.high)
    path = made()
    admitted = path.admit(chunk(np.tile(end, (H, 1))), at(0.0, end, end))
    assert admitted.ended_by == ""
    motion = path.toward(admitted, 0.0, at(0.0, end, end), 1.0)
    assert motion is not None
    assert path.breach(motion, at(0.0, end, end)) == ""


@BOTH_ENDS
def test_joint_that_leaves_its_range_is_named_and_not_one_that_stands_at_its_end(side):
    values = np.tile([side * 1.0, 0.0], (H, 1))
    values[10:, 1] = side * 2.5
    admitted = made().admit(chunk(values), at(0.0, values[0], values[0]))
    assert admitted.ended_by.startswith("row 10 takes b to")


# ---- plans ----------------------------------------------------------------------------------------------------------


def test_plan_is_kept_as_long_as_nothing_changes():
    """A tick has no time for a new one; rounding may cost one or two."""
    driven = Driven()
    driven.go(10)
    driven.admitted = driven.path.admit(chunk(rows()), driven.situation())
    plans = set()
    for _ in range(30):
        driven.go()
        plans.add(driven.path._last.plan)
    assert len(plans) <= 3


def test_new_chunk_is_followed_although_it_comes_with_the_same_stamp_and_tempo():
    driven = Driven()
    driven.go(10)
    back = rows((0.0, 0.0), driven.place)
    driven.admitted = driven.path.admit(chunk(back), driven.situation())
    driven.go(38)
    assert driven.place == pytest.approx(back[-1], abs=0.03), "on the way back; the old one is at 0.18"


def test_new_tempo_counts_from_the_next_command_on():
    driven = Driven()
    assert driven.go(1).scale == 1.0
    assert driven.go(1, speed=0.97).scale == 0.97


def test_arm_that_is_behind_the_plan_goes_back_to_where_the_chunk_is():
    driven = Driven()
    driven.go(10)
    for _ in range(25):
        behind = driven.now - 0.05
        driven.take(driven.path.toward(driven.admitted, behind, driven.situation(), 1.0))
    assert driven.place == pytest.approx(driven.admitted.path.at(driven.now - 0.05)[0][0], abs=1e-5)


@BOTH_ENDS
def test_no_command_ends_beyond_the_range(side):
    """The chunk runs into an end of the range at full speed; what would stop beyond it is not made."""
    start = np.array([side * 0.6, 0.0])
    driven = Driven.__new__(Driven)
    driven.path, driven.now, driven.played, driven.last = made(), 0.0, 0.0, None
    driven.admitted = driven.path.admit(chunk(rows((side * 0.4, 0.0), start)), at(0.0, start, start))
    place = start
    for k in range(60):
        situation = at(0.02 * k, place, start)
        motion = driven.path.toward(driven.admitted, 0.02 * k, situation, 1.0)
        if motion is None:
            break
        assert np.abs(motion.positions[:, 0]).max() <= 1.0
        driven.path.commanded(motion, situation.now_s)
        place = driven.path._last.curve.at(driven.path._played_s + 0.02)[0][0]
    assert np.abs(place[0]) > 0.9


@BOTH_ENDS
@pytest.mark.parametrize("joint", [0, 1])
def test_command_that_leaves_the_range_only_between_two_knots_is_not_made(side, joint):
    """Slow and turning round: 17 micrometres further before it comes back, in the first piece of its stop."""
    zero, one = np.zeros(2), side * np.eye(2)[joint]
    for spare, made_it in ((5e-6, False), (2e-5, True)):
        place = (LIMITS.high[joint] - spare) * one
        states = np.vstack([place, place]), np.vstack([zero, 0.01 * one]), np.vstack([zero, -3.0 * one])
        head = Curve(np.array([5.0, 5.02]), *states)
        command = made()._with_stop(head, None)
        assert (command is not None) is made_it
        if command is not None:
            knots = np.abs(command.curve.positions[1:, joint])
            assert knots.max() <= LIMITS.high[joint] - spare, "seen at the knots alone it never came nearer"
