# SPDX-License-Identifier: Apache-2.0
"""Joint commands piece by piece: what of a chunk is used, what follows the last command, and how time is counted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from arm_models import seven
from filter_world import joint_spec
from joint_world import DT, LIMITS, NAMES, TIMING, ZERO, Driven, H, at, chunk, made, rows, seen, spec

from runtime.contract.chunk import ActionChunk
from runtime.contract.conventions import ActionKind, GripperSign, Unit
from runtime.errors import ContractError
from runtime.safety.joints import JointPath
from runtime.safety.motion import AdmittedChunk, ChunkRejected, Measured, Situation
from runtime.safety.trajectory import hermite
from runtime.telemetry import StopCause

pytest.importorskip("ruckig", reason="joint commands need ruckig. Next: make install-dev")


def refused(path: JointPath, values, situation: Situation, stamp: float = 0.0) -> ChunkRejected:
    with pytest.raises(ChunkRejected) as refusal:
        path.admit(chunk(values, stamp=stamp), situation)
    return refusal.value


# ---- what of a chunk is used ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [ActionKind.DELTA, ActionKind.VELOCITY])
def test_steps_and_rates_are_added_up_from_where_the_chunk_was_seen(kind):
    values = np.tile([0.01, -0.005] if kind is ActionKind.DELTA else [0.2, -0.1], (H, 1))
    path = JointPath(spec(kind), LIMITS, TIMING)
    admitted = path.admit(chunk(values, spec(kind)), at(0.1, (0.32, 0.09), (0.3, 0.1)))
    assert admitted.rows == pytest.approx(rows(start=(0.3, 0.1)), abs=1e-6)
    assert (admitted.time_scale, admitted.ended_by, admitted.gripper) == (1.0, "", None)


@pytest.mark.parametrize(("sign", "opening"), [(GripperSign.NEGATIVE_OPENS, 0.25), (GripperSign.POSITIVE_OPENS, 0.75)])
def test_gripper_goes_with_its_row(sign, opening):
    of = spec(gripper=sign)
    values = np.hstack([rows(), np.linspace(-1, 1, H)[:, None]])
    values[3, 2] = 0.5
    path = JointPath(of, LIMITS, TIMING)
    admitted = path.admit(chunk(values, of), at())
    assert len(admitted.gripper) == H
    assert path.toward(admitted, 0.16, at(), 1.0).gripper == opening
    assert path.toward(admitted, 0.0, at(), 1.0).gripper == admitted.gripper[0] in (0.0, 1.0)


def test_rows_before_the_first_one_out_of_range_are_used():
    for joint, sign, end in ((0, 1, 1.0), (0, -1, -1.0), (1, 1, 2.0), (1, -1, -2.0)):
        values = np.zeros((H, 2))
        values[:, joint] = end - sign * 0.2 + sign * 0.4 * np.arange(1, H + 1) * DT * 1.1
        start = values[0] - values[1] + values[0]
        admitted = made().admit(chunk(values), at(0.0, start, start))
        kept = len(admitted.rows)
        assert 0 < kept < H
        assert np.all(sign * admitted.rows[:, joint] <= sign * end)
        assert sign * values[kept, joint] > sign * end
        assert admitted.ended_by == (
            f"row {kept} takes {NAMES[joint]} to {np.float32(values[kept, joint]):.4g}, allowed are "
            f"{LIMITS.low[joint]:g} to {LIMITS.high[joint]:g}"
        )


def test_ends_of_the_range_are_inside():
    values = np.tile(np.array(LIMITS.high), (H, 1))
    assert made().admit(chunk(values), at(0.0, LIMITS.high, LIMITS.high)).ended_by == ""


def test_chunk_of_which_nothing_is_left_in_range_is_refused_with_what_ended_it():
    values = rows((0.0, 0.0), (0.5, 0.0))
    values[5:, 0] = 1.5
    place = (0.5, 0.0)
    assert len(made().admit(chunk(values), at(0.24, place, place)).rows) == 5
    for now in (0.25, 0.3):
        refusal = refused(made(), values, at(now, place, place))
        assert refusal.cause is StopCause.CHUNK_REJECTED
        assert "row 5 takes a to 1.5" in str(refusal)
    values[:, 0] = 1.5
    assert "row 0 takes a" in str(refused(made(), values, at(0.0, place, place)))
    assert "over already" in str(refused(made(), rows(), at(1.0, rows()[-1])))


def test_chunk_is_slowed_as_a_whole_and_not_more_than_allowed():
    assert made().admit(chunk(rows((0.94, 0.0))), at()).time_scale == 1.0
    fast = rows((0.0, 3.79)) - [0.0, 2.0]
    start = np.array([0.0, -2.0])
    admitted = made(low=(-1.0, -9.0), high=(1.0, 9.0), max_start_jump_rad=0.2).admit(chunk(fast), at(0.0, start, start))
    assert admitted.time_scale == pytest.approx(3.79 / 0.95, rel=1e-5)
    assert admitted.dt_s == pytest.approx(admitted.time_scale * DT)
    assert admitted.rows == pytest.approx(fast, abs=1e-6)
    assert admitted.path.end_s == pytest.approx(H * admitted.dt_s)
    faster = rows((0.0, 3.9)) - [0.0, 2.0]
    refusal = refused(made(low=(-1.0, -9.0), high=(1.0, 9.0), max_start_jump_rad=0.2), faster, at(0.0, start, start))
    assert "slowed 4.1 times" in str(refusal)
    assert refusal.cause is StopCause.CHUNK_REJECTED


@pytest.mark.parametrize("joint", [0, 1])
@pytest.mark.parametrize("who", ["seen", "measured", "commanded"])
def test_chunk_begins_near_where_the_arm_was_seen_and_is_and_is_commanded_to_be(joint, who):
    """0.1 rad, and what a joint may move in a row: 0.05 rad."""
    for off, objected in ((0.149, False), (0.151, True)):
        place = off * np.eye(2)[joint]
        path = made()
        held = {name: 0.0 for name in NAMES}
        if who == "seen":
            situation = at(0.0, ZERO, place)
        elif who == "measured":
            situation = at(0.0, place, ZERO)
        else:
            path._held = ZERO
            situation, held = at(0.0, place, ZERO), held
            path._rest = lambda s, place=place: place
            situation = at(0.0, ZERO, ZERO)
        if not objected:
            path.admit(chunk(rows((0.0, 0.0))), situation)
            continue
        refusal = refused(path, rows((0.0, 0.0)), situation)
        assert f"0.151 away from where {NAMES[joint]} is {who}" in str(refusal)


def test_late_chunk_is_compared_where_it_is_now():
    """At 0.9 rad/s a chunk that is 0.5 s old is 0.45 rad further."""
    line = rows((0.9, 0.0), (-0.5, 0.0))
    start = np.array([-0.5, 0.0])
    made().admit(chunk(line), at(0.5, start + np.array([0.45, 0.0]), start))
    assert "measured" in str(refused(made(), line, at(0.5, start + np.array([0.25, 0.0]), start)))
    assert "measured" in str(refused(made(), line, at(0.5, start, start)))


def test_robot_that_was_not_seen_or_does_not_report_a_joint_gets_no_motion():
    assert refused(made(), rows(), at(observed=None)).cause is StopCause.OBSERVATION_MISSING
    half = Measured(0.0, {"a": 0.0})
    assert "['b'] are not reported" in str(refused(made(), rows(), Situation(0.0, half, seen())))
    odd = Measured(0.0, {"a": 0.0, "b": float("nan")})
    assert refused(made(), rows(), Situation(0.0, odd, seen())).cause is StopCause.OBSERVATION_INVALID


def test_actions_of_other_joints_or_units_are_refused():
    other = replace(spec(), dims=(replace(spec().dims[0], name="x"), spec().dims[1]))
    with pytest.raises(ContractError, match="the policy moves"):
        JointPath(other, LIMITS, TIMING)
    wrong = replace(spec(), dims=(replace(spec().dims[0], unit=Unit.RADIAN_PER_SECOND), spec().dims[1]))
    with pytest.raises(ContractError, match=r"\['a'\] of absolute actions are not in rad"):
        JointPath(wrong, LIMITS, TIMING)


# ---- the next command -----------------------------------------------------------------------------------------------


def test_command_is_the_splice_the_committed_piece_and_a_stop():
    driven = Driven()
    driven.go(25)
    before = driven.place
    motion = driven.path.toward(driven.admitted, driven.now, driven.situation(), 1.0)
    assert motion.times_s[0] <= 0.0 < motion.times_s[1]
    assert motion.positions[0] == pytest.approx(before, abs=1e-3)
    moving = motion.times_s[np.abs(motion.velocities - [0.2, -0.1]).max(axis=1) < 1e-6]
    assert moving[-1] == pytest.approx(TIMING.commit_s, abs=2e-3), "committed so far"
    assert not motion.velocities[-1].any()
    assert motion.times_s[-1] < TIMING.commit_s + 0.25
    assert motion.scale == 1.0


def test_chunk_that_is_over_has_no_command():
    driven = Driven()
    assert driven.path.toward(driven.admitted, H * DT, driven.situation(), 1.0) is None


@pytest.mark.parametrize(("speed", "factor"), [(1.0, 1.0), (0.5, 1.0), (1.0, 0.4), (0.5, 0.4)])
def test_scale_is_the_share_of_the_policys_own_speed(speed, factor):
    driven = Driven()
    motion = driven.path.toward(driven.admitted, 0.0, driven.situation(factor), speed)
    assert motion.scale == pytest.approx(speed * factor)
    fast = AdmittedChunk(0.0, 2 * DT, rows(), None, 2.0, driven.admitted.path.slowed(0.5, 0.0, 0.0))
    assert made().toward(fast, 0.0, at(speed_factor=factor), speed).scale == pytest.approx(speed * factor / 2.0)


def test_slower_is_tried_where_the_stop_would_leave_the_range():
    """The chunk runs into the end of the range; the arm gets there slower and slower, and never beyond."""
    start = np.array([0.6, 0.0])
    path = made()
    admitted = path.admit(chunk(rows((0.4, 0.0), start)), at(0.0, start, start))
    rates, progress, place = [], 0.0, start
    for k in range(200):
        situation = at(0.02 * k, place, start)
        motion = path.toward(admitted, progress, situation, 1.0)
        if motion is None:
            break
        assert motion.positions[:, 0].max() <= 1.0
        assert path.breach(motion, situation) == ""
        path.commanded(motion, situation.now_s)
        rates.append(motion.scale)
        progress += 0.02 * motion.scale
        place = path._last.curve.at(path._played_s + 0.02)[0][0]
    assert rates[0] == 1.0
    assert min(rates) < 1.0
    assert place[0] > 0.96


def test_nothing_new_is_the_last_command_unchanged():
    driven = Driven()
    driven.go(10)
    last = driven.path._last
    driven.path._plan = lambda *given: None
    motion = driven.path.toward(driven.admitted, driven.now, driven.situation(), 1.0)
    times = np.linspace(0.0, motion.times_s[-1] - 1e-6, 50)
    there = last.curve.at(driven.path._played_s + times)

    for k, time in enumerate(times):
        place, speed = hermite(motion.times_s, motion.positions, motion.velocities, time)
        assert place == pytest.approx(there[0][k], abs=1e-8)
        assert speed == pytest.approx(there[1][k], abs=1e-6)
    assert motion.scale == 1.0, "what is committed is the chunk at its speed"
    assert driven.path.breach(motion, driven.situation()) == ""


def test_last_command_goes_on_into_its_stop_and_says_how_fast_it_still_is():
    driven = Driven()
    driven.go(10)
    driven.path._plan = lambda *given: None
    scales = []
    while (motion := driven.path.toward(driven.admitted, driven.now, driven.situation(), 1.0)) is not None:
        scales.append(motion.scale)
        driven.take(motion)
        assert len(scales) < 40
    assert scales[:4] == [1.0] * 4
    assert np.all(np.diff(scales[4:]) <= 1e-9)
    assert 0.0 <= scales[-1] < 0.2
    assert np.abs(driven.path._last.curve.at(driven.path._played_s)[1]).max() < 0.05


def test_first_command_without_a_way_is_none():
    path = made()
    admitted = path.admit(chunk(rows()), at())
    path._plan = lambda *given: None
    assert path.toward(admitted, 0.0, at(), 1.0) is None


# ---- stopping -------------------------------------------------------------------------------------------------------


def test_stop_begins_after_the_splice_and_not_where_the_committed_piece_ended():
    driven = Driven()
    driven.go(10)
    tail = driven.path._last.curve.end_s - driven.path._played_s
    motion = driven.path.braking(driven.situation())
    assert (motion.scale, motion.gripper) == (0.0, None)
    assert motion.times_s[-1] < tail - 0.03, "sooner than by itself"
    assert driven.path.breach(motion, driven.situation()) == ""
    driven.take(motion)
    again = driven.path.braking(driven.situation())
    assert again.times_s[-1] == pytest.approx(motion.times_s[-1] - 0.02, abs=1e-6), "a stop goes on as it is"
    while driven.take(driven.path.braking(driven.situation())) is not None:
        pass
    assert driven.played == pytest.approx(0.2 + motion.times_s[-1], abs=0.05)
    assert made().braking(at()) is None


def test_stop_that_cannot_be_made_is_the_one_that_was_released():
    driven = Driven()
    driven.go(10)
    last = driven.path._last
    driven.path._with_stop = lambda *given: None
    motion = driven.path.braking(driven.situation())
    assert motion.times_s[-1] == pytest.approx(last.curve.end_s - driven.path._played_s, abs=1e-8)
    assert motion.positions[-1] == pytest.approx(last.curve.positions[-1])
    assert motion.scale == 0.0


# ---- the last look --------------------------------------------------------------------------------------------------


def test_arm_that_is_not_where_it_was_commanded_gets_no_motion_but_a_stop():
    driven = Driven()
    driven.go(5)
    for off, objected in ((0.099, False), (0.102, True)):
        for joint in (0, 1):
            there = at(driven.now, driven.place + off * np.eye(2)[joint])
            motion = driven.path.toward(driven.admitted, driven.now, there, 1.0)
            said = driven.path.breach(motion, there)
            assert bool(said) is objected
            if objected:
                assert f"{NAMES[joint]} is commanded 0.10" in said
                assert "away from where it is measured" in said
    stop = driven.path.braking(there)
    assert driven.path.breach(stop, there) == ""


def test_only_the_motion_of_this_tick_can_be_released():
    driven = Driven()
    old = driven.path.toward(driven.admitted, 0.0, driven.situation(), 1.0)
    new = driven.path.toward(driven.admitted, 0.0, driven.situation(), 1.0)
    assert "not planned for this tick" in driven.path.breach(old, driven.situation())
    with pytest.raises(ValueError, match="not made by this path"):
        driven.path.commanded(old, 0.0)
    driven.path.commanded(new, 0.0)
    assert "not planned for this tick" in driven.path.breach(new, driven.situation()), "and once"
    with pytest.raises(ValueError, match="not made by this path"):
        made().commanded(new, 0.0)


# ---- time and rest --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [-0.1, 1.1, float("nan")])
def test_speed_factor_is_a_share(factor):
    driven = Driven()
    with pytest.raises(ValueError, match="speed_factor is"):
        driven.path.toward(driven.admitted, 0.0, at(speed_factor=factor), 1.0)


def test_played_time_runs_as_fast_as_the_controller_plays_and_never_backwards():
    path = made()
    for now, factor, played in (
        (5.0, 1.0, 0.0),
        (5.5, 1.0, 0.5),
        (6.5, 0.25, 0.75),
        (6.0, 1.0, 0.75),
        (7.0, 0.0, 0.75),
    ):
        assert path._time(at(now, speed_factor=factor)) == pytest.approx(played)


def test_first_command_begins_where_the_controller_holds_the_arm_if_that_is_near():
    for held, begins in (((0.009, 0.0), 0.009), ((0.011, 0.0), 0.0), (None, 0.0)):
        path = made()
        situation = at(held=None if held is None else dict(zip(NAMES, held, strict=True)))
        admitted = path.admit(chunk(rows((0.0, 0.0))), situation)
        assert path.toward(admitted, 0.0, situation, 1.0).positions[0, 0] == pytest.approx(begins)


def test_after_all_is_forgotten_the_arm_is_held_where_its_motion_ended():
    driven = Driven()
    driven.go(10)
    while driven.take(driven.path.braking(driven.situation())) is not None:
        pass
    ended = driven.place
    driven.path.forget()
    assert driven.path.braking(driven.situation()) is None
    near, far = ended + np.array([0.008, 0.0]), ended + np.array([0.02, 0.0])
    for place, begins in ((near, ended), (far, far)):
        situation = at(driven.now, place, place)
        admitted = driven.path.admit(chunk(np.tile(ended, (H, 1)), stamp=driven.now), situation)
        assert driven.path.toward(admitted, 0.0, situation, 1.0).positions[0] == pytest.approx(begins, abs=1e-9)


def test_what_is_still_played_when_all_is_forgotten_is_where_the_next_motion_begins():
    driven = Driven()
    driven.go(10)
    driven.path.forget()
    assert driven.path.braking(driven.situation()) is not None, "it is still moving"
    there = driven.place
    line = rows((0.1, 0.0), there)
    admitted = driven.path.admit(chunk(line, stamp=driven.now), at(driven.now, there, there))
    motion = driven.path.toward(admitted, 0.0, driven.situation(), 1.0)
    assert np.abs(motion.velocities[0]).max() > 0.05
    assert driven.path.breach(motion, driven.situation()) == ""
    while driven.path._played_s < driven.path._last.curve.end_s:
        driven.path._time(at(driven.now))
        driven.now += 0.02
    assert driven.path.braking(at(driven.now, driven.place)) is None


def test_clock_that_is_set_back_does_not_move_the_played_time():
    driven = Driven()
    driven.go(10)
    played, ends = driven.path._time(at(driven.now, driven.place)), driven.path._last.curve.end_s
    driven.path.clock_stepped(-50.0)
    driven.now -= 50.0
    assert driven.path._time(at(driven.now, driven.place)) == pytest.approx(played)
    assert driven.path._last.curve.end_s == ends
    motion = driven.path.braking(driven.situation())
    assert driven.path.breach(motion, driven.situation()) == ""


def test_what_was_sent_plays_until_the_end_of_its_stop_in_the_controllers_own_time():
    driven = Driven()
    assert not driven.path.playing(driven.situation())
    driven.go(10)
    left = driven.path._last.curve.end_s - driven.path._time(driven.situation())
    now = driven.now
    assert driven.path.playing(at(now + left, driven.place, speed_factor=0.5))
    assert driven.path.playing(at(now + left + 2 * (left / 2 - 0.01), driven.place, speed_factor=0.5))
    assert not driven.path.playing(at(now + left + 2 * (left / 2), driven.place, speed_factor=0.5))


def test_way_onto_a_path_stays_below_the_limits_and_comes_near_to_each():
    """So that the monitor, which looks at the limits themselves, has nothing to refuse."""
    reached = np.zeros(3)
    for far in np.linspace(0.005, 1.9, 150):
        path = made(max_start_jump_rad=2.0)
        goal = np.array([0.0, far])
        admitted = path.admit(chunk(np.tile(goal, (H, 1))), at())
        plan = path._plan(admitted, 0.0, path._head(at()), 1.0)
        if plan is None:
            continue
        _, v, a = plan.curve.at(np.linspace(plan.curve.start_s, plan.curve.end_s, 400))
        top = np.array([np.abs(v).max() / 1.0, np.abs(a).max() / 4.0, np.abs(plan.curve.jerks()).max() / 40.0])
        assert np.all(top <= np.array([0.98, 0.95, 0.95]))
        reached = np.maximum(reached, top)
    assert np.all(reached > 0.85)


def test_arm_without_tool_limits_has_its_joint_limits_alone():
    arm = seven()
    limits = replace(arm.limits, tool=None)
    path = JointPath(joint_spec(arm), limits, TIMING, arm.kinematics)
    home = dict(zip(limits.names, arm.home, strict=True))
    rest = Situation(0.0, Measured(0.0, home), Measured(0.0, home))
    values = np.tile(arm.home, (joint_spec(arm).horizon, 1)).astype(np.float32)
    admitted = path.admit(ActionChunk(values, 0.0, DT, limits.names), rest)
    assert (admitted.time_scale, admitted.ended_by) == (1.0, "")


def test_chunk_whose_tool_is_outside_its_box_from_the_first_is_refused_with_where_it_is():
    arm = seven()
    high = float(arm.kinematics.places(arm.home[None]).tcp[0, 2])
    tool = replace(arm.limits.tool, workspace_high=(9.0, 9.0, high - 0.01))
    path = JointPath(joint_spec(arm), replace(arm.limits, tool=tool), TIMING, arm.kinematics)
    home = dict(zip(arm.limits.names, arm.home, strict=True))
    values = np.tile(arm.home, (joint_spec(arm).horizon, 1)).astype(np.float32)
    with pytest.raises(ChunkRejected, match="the tool would be at"):
        path.admit(
            ActionChunk(values, 0.0, DT, arm.limits.names), Situation(0.0, Measured(0.0, home), Measured(0.0, home))
        )


def test_path_of_a_chunk_that_is_cut_at_the_tools_box_ends_with_its_last_row():
    arm = seven()
    spec_ = joint_spec(arm)
    line = arm.home + np.arange(1, spec_.horizon + 1)[:, None] * DT * 0.1 * np.eye(7)[1]
    heights = arm.kinematics.places(line).tcp[:, 2]
    assert heights[-1] < heights[0]
    tool = replace(arm.limits.tool, workspace_low=(-9.0, -9.0, float(heights[30])), workspace_high=(9.0, 9.0, 9.0))
    path = JointPath(spec_, replace(arm.limits, tool=tool), TIMING, arm.kinematics)
    seen_ = Measured(0.0, dict(zip(arm.limits.names, arm.home, strict=True)))
    admitted = path.admit(ActionChunk(line.astype(np.float32), 0.0, DT, arm.limits.names), Situation(0.0, seen_, seen_))
    assert admitted.time_scale == 1.0, "slow enough as it is"
    assert 25 <= len(admitted.rows) <= 30
    assert admitted.path.end_s == pytest.approx(len(admitted.rows) * DT)


def test_arm_that_was_moved_by_hand_after_its_forgotten_motion_ended_begins_where_it_is():
    driven = Driven()
    driven.go(10)
    driven.path.forget()
    for _ in range(40):
        driven.path._time(at(driven.now))
        driven.now += 0.02
    there = driven.path._last.curve.positions[-1] + np.array([0.05, 0.0])
    rest = at(driven.now, there, there)
    admitted = driven.path.admit(chunk(rows((0.1, 0.0), there), stamp=driven.now), rest)
    motion = driven.path.toward(admitted, 0.0, rest, 1.0)
    assert motion.positions[0] == pytest.approx(there)
    assert driven.path.breach(motion, rest) == ""
