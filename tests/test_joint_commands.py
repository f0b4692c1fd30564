# SPDX-License-Identifier: Apache-2.0
"""Joint commands: how much a chunk is slowed, when a plan is made anew, what is refused at the last look, and rest."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from arm_models import seven
from filter_world import joint_spec
from joint_world import DT, LIMITS, TIMING, Driven, H, at, chunk, made, rows

from runtime.contract.chunk import ActionChunk
from runtime.safety.curve import Curve, resting
from runtime.safety.joints import JointPath
from runtime.safety.motion import ChunkRejected, Measured, Situation

pytest.importorskip("ruckig", reason="joint commands need ruckig. Next: make install-dev")

BOTH_ENDS = pytest.mark.parametrize("side", [-1.0, 1.0], ids=["low", "high"])


def braked(driven: Driven, left_s: float = 0.0) -> Driven:
    """Stopped, and played until so much of the stop is left; not forgotten."""
    driven.take(driven.path.braking(driven.situation()))
    return played_out(driven, left_s)


def played_out(driven: Driven, left_s: float = 0.0) -> Driven:
    """Nothing more is sent until so much of the last command is left."""
    span = driven.path._last.curve.end_s - driven.played - left_s
    driven.now, driven.played = driven.now + span, driven.played + span
    return driven


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


# ---- the last look --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ticks", [4, 5, 6, 7])
def test_arm_is_compared_with_where_it_is_commanded_to_be_now(ticks):
    """And not with where it will be a knot later."""
    driven = Driven(rows((0.6, 0.0)))
    driven.go(ticks)
    for off, objected in ((0.0985, False), (-0.0985, False), (0.102, True), (-0.102, True)):
        there = at(driven.now, driven.place + np.array([off, 0.0]))
        motion = driven.path.toward(driven.admitted, driven.now, there, 1.0)
        assert bool(driven.path.breach(motion, there)) is objected


def test_motion_that_departs_before_the_splice_is_over_is_refused():
    """It may be on its way for so long; what the controller plays by then is the motion before."""
    driven = Driven()
    driven.go(10)
    driven.path._timing = replace(TIMING, splice_s=0.003)
    motion = driven.path.braking(driven.situation())
    assert driven.path.breach(motion, driven.situation()) == ""
    driven.path._timing = TIMING
    assert "does not continue what was commanded before" in driven.path.breach(motion, driven.situation())


def test_motion_that_begins_elsewhere_than_the_last_one_ended_is_refused():
    driven = Driven()
    driven.go(10)
    braked(driven)
    ended = driven.place
    for away, objected in ((0.0, False), (0.05, True)):
        driven.path._head = lambda s, away=away: resting(ended + np.array([away, 0.0]), driven.path._time(s), 0.021)
        held = driven.path.admit(chunk(np.tile(ended, (H, 1)), stamp=driven.now), driven.situation())
        motion = driven.path.toward(held, 0.0, driven.situation(), 1.0)
        assert bool(driven.path.breach(motion, driven.situation())) is objected


# ---- stopping and rest ----------------------------------------------------------------------------------------------


def test_nothing_is_sent_once_the_stop_has_been_played():
    driven = Driven()
    driven.go(10)
    for left, sent in ((0.0011, True), (0.0005, False), (0.0, False), (-0.0005, False)):
        ends = driven.path._last.curve.end_s
        driven.now, driven.played = 0.2 + ends - left - 0.2, ends - left
        assert (driven.path.braking(driven.situation()) is not None) is sent


@pytest.mark.parametrize("planned", [True, False], ids=["a stop made now", "the stop that was released"])
def test_stop_that_goes_on_while_a_chunk_has_no_way_makes_no_progress_on_it(planned):
    driven = Driven()
    driven.go(10)
    if not planned:
        driven.path._with_stop = lambda *given: None
    driven.take(driven.path.braking(driven.situation()))
    driven.path._plan = lambda *given: None
    motion = driven.path.toward(driven.admitted, driven.now, driven.situation(), 1.0)
    assert motion.scale == 0.0
    assert driven.path.breach(motion, driven.situation()) == ""


@pytest.mark.parametrize("left_s", [0.015, 0.005, 0.0015])
def test_next_motion_waits_for_the_splice_where_the_stop_before_ends_within_it(left_s):
    driven = Driven()
    driven.go(10)
    braked(driven, left_s)
    ended = driven.path._last.curve.positions[-1]
    line = rows((0.2, 0.0), ended)
    onward = driven.path.admit(chunk(line, stamp=driven.now), driven.situation())
    motion = driven.path.toward(onward, 0.0, driven.situation(), 1.0)
    assert driven.path.breach(motion, driven.situation()) == ""
    curve = driven.path._made[1].curve
    until = curve.at(driven.path._played_s + np.linspace(left_s, TIMING.splice_s, 20))
    assert until[0] == pytest.approx(np.tile(ended, (20, 1)), abs=1e-12)
    assert np.abs(curve.at(driven.path._played_s + TIMING.splice_s + 0.01)[1]).max() > 1e-4, "and no longer"


def test_next_motion_begins_where_the_last_one_ended_and_not_where_the_arm_is_measured():
    driven = Driven()
    driven.go(10)
    braked(driven)
    driven.now, driven.played = driven.now + 0.1, driven.played + 0.1
    ended, there = driven.place, driven.place + np.array([0.03, 0.0])
    situation = at(driven.now, there, there)
    held = driven.path.admit(chunk(np.tile(ended, (H, 1)), stamp=driven.now), situation)
    motion = driven.path.toward(held, 0.0, situation, 1.0)
    assert motion.positions[0] == pytest.approx(ended, abs=1e-12)
    assert driven.path.breach(motion, situation) == ""


@pytest.mark.parametrize("forgotten", [False, True])
@pytest.mark.parametrize("over", [False, True])
def test_chunk_is_compared_with_what_is_played_or_held_and_after_it_was_forgotten_with_where_the_arm_is(
    forgotten, over
):
    """0.15 rad are allowed: the chunk begins 0.1 from the measured arm, which is 0.1 from what was commanded."""
    driven = Driven()
    driven.go(10)
    if forgotten:
        driven.path.forget()
    if over:
        played_out(driven, -0.02)
    there = driven.place + np.array([0.1, 0.0])
    begins = there + np.array([0.1, 0.0])
    situation = at(driven.now, there, there)
    held = chunk(np.tile(begins, (H, 1)), stamp=driven.now)
    if forgotten and over:
        driven.path.admit(held, situation)
        return
    with pytest.raises(ChunkRejected, match="a is commanded"):
        driven.path.admit(held, situation)


def test_clock_set_ahead_by_less_than_a_second_has_been_played_too():
    driven = Driven()
    driven.go(10)
    driven.path.clock_stepped(0.6)
    driven.now += 0.6
    assert driven.path.braking(at(driven.now, driven.place)) is None
    assert driven.path._played_s == pytest.approx(0.8)


# ---- the last command goes on ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("speed", [(0.3, 0.0), (0.3, -0.1)])
@pytest.mark.parametrize(("factor", "time_scale"), [(1.0, 1.0), (0.4, 1.0), (1.0, 2.0)])
def test_scale_of_a_stop_is_that_of_the_fastest_joint_against_what_was_committed(speed, factor, time_scale):
    """Each joint's speed as a share of its own limit; the controller's slowing and the chunk's come on top."""
    driven = Driven(rows(speed), velocity=(1.0, 0.25))
    driven.go(20)
    last, most = driven.path._last, np.array([1.0, 0.25])
    driven.path._plan = lambda *given: None
    chunk_ = replace(driven.admitted, time_scale=time_scale)
    stop_s = last.curve.end_s - last.commit_s
    for share in (0.2, 0.5, 0.8):
        driven.played = last.commit_s + share * stop_s
        driven.path._played_s, driven.path._now_s = driven.played, driven.now
        fastest = [np.abs(last.curve.at(t)[1][0] / most).max() for t in (last.commit_s, driven.played)]
        motion = driven.path.toward(chunk_, driven.now, driven.situation(factor), 1.0)
        assert motion.scale == pytest.approx(fastest[1] / fastest[0] * factor / time_scale, rel=1e-9)


def test_scale_is_never_above_the_tempo_although_a_stop_may_gain_speed_at_first():
    driven = Driven(rows((0.9, 0.0)))
    driven.go(3)
    last = driven.path._last
    speeds = np.abs(last.curve.at(np.linspace(last.commit_s, last.curve.end_s, 50))[1]).max(axis=1)
    assert speeds.max() > 1.05 * speeds[0]
    driven.path._plan = lambda *given: None
    while (motion := driven.path.toward(driven.admitted, driven.now, driven.situation(), 1.0)) is not None:
        assert motion.scale <= 1.0
        driven.take(motion)


def test_last_command_that_is_over_does_not_go_on():
    driven = Driven()
    driven.go(10)
    braked(driven)
    ends = driven.played
    driven.path._plan = lambda *given: None
    for left, sent in ((0.0011, True), (0.0005, False), (0.0, False), (-0.0005, False)):
        driven.path._played_s, driven.path._now_s = ends - left, driven.now
        motion = driven.path.toward(driven.admitted, driven.now, driven.situation(), 1.0)
        assert (motion is not None) is sent
