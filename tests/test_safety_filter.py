# SPDX-License-Identifier: Apache-2.0
"""No chunk, however wild, late or misnamed, gets a command out of the filter that breaks the station's limits."""

import ast
import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from artifact_factory import action_spec
from hypothesis import given, settings
from hypothesis import strategies as st

import runtime
from runtime.contract.action import ActionDim
from runtime.contract.chunk import ActionChunk
from runtime.contract.conventions import (
    ActionKind,
    DimRole,
    Frame,
    GripperSign,
    HoldRule,
    RotationConvention,
    Unit,
)
from runtime.errors import ContractError
from runtime.safety.filter import SafetyFilter
from runtime.safety.limits import CartesianLimits, JointLimits, Timing
from runtime.safety.motion import ChunkRejected, Measured, Situation
from runtime.safety.trajectory import CommandKind, SafeTrajectory
from runtime.telemetry import StopCause

DELTA = action_spec()
BOX = CartesianLimits(
    linear_m_s=0.5, angular_rad_s=4.0, linear_m_s2=8.0, angular_rad_s2=80.0, workspace_low=(-0.5, -0.5, 0.0),
    workspace_high=(0.5, 0.5, 0.8), max_start_jump_m=0.05, max_start_jump_rad=0.3,
)  # fmt: skip
JOINT_NAMES = ("shoulder", "elbow", "wrist")
JOINTS = JointLimits(
    JOINT_NAMES, (-2.0, -1.5, -3.0), (2.0, 1.5, 3.0), (1.0, 1.5, 2.0), (4.0, 6.0, 8.0), (40.0, 60.0, 80.0),
    max_start_jump_rad=0.3,
)  # fmt: skip
ABSOLUTE = replace(
    DELTA, dims=tuple(ActionDim(n, DimRole.JOINT, Unit.RADIAN, -3.0, 3.0) for n in JOINT_NAMES),
    kind=ActionKind.ABSOLUTE, frame=Frame.JOINT, rotation=RotationConvention.NONE, gripper=GripperSign.NONE,
    hold=HoldRule.REPEAT_LAST,
)  # fmt: skip
TICK = 0.02


def at(now: float, place=(0.0, 0.0, 0.4), joints=(0.0, 0.0, 0.0)) -> Situation:
    measured = Measured(now, dict(zip(JOINT_NAMES, joints, strict=True)), np.array(place, float), np.zeros(3))
    return Situation(now, measured, measured)


def chunk(values, stamp: float = 0.0, spec=DELTA) -> ActionChunk:
    rows = np.broadcast_to(np.asarray(values, np.float32), (spec.horizon, spec.dim))
    return ActionChunk(rows, stamp, spec.dt_s, spec.names)


def gentle(x: float = 0.2) -> np.ndarray:
    return np.array([x, 0, 0, 0, 0, 0, 1.0])


def test_a_delta_becomes_the_twist_that_covers_it_in_its_own_time():
    limits = replace(BOX, linear_m_s2=100.0)
    filter_ = SafetyFilter(DELTA, limits)
    admitted = filter_.admit(chunk(gentle()), at(0.0))
    command = filter_.command(admitted, 0.0, at(0.0))
    assert command is not None
    assert command.kind is CommandKind.TWIST
    assert command.velocities[0] == pytest.approx([0.2 * 0.05 / 0.05, 0, 0, 0, 0, 0], abs=1e-6)
    assert command.gripper == 0.0  # +1 closes
    assert command.scale == 1.0


def test_too_fast_a_chunk_is_slowed_as_a_whole_and_keeps_its_direction():
    filter_ = SafetyFilter(DELTA, BOX)
    admitted = filter_.admit(chunk([1.0, 0.5, 0, 0, 0, 0, 0]), at(0.0))
    speed = np.hypot(1.0, 0.5)  # m/s, nominal
    assert admitted.time_scale == pytest.approx(speed / BOX.linear_m_s, rel=1e-6)
    assert admitted.dt_s == pytest.approx(DELTA.dt_s * admitted.time_scale)
    assert admitted.rows[0, :3] / np.linalg.norm(admitted.rows[0, :3]) == pytest.approx([2 / 5**0.5, 1 / 5**0.5, 0])
    path = admitted.rows[:, :3].sum(axis=0) * admitted.dt_s
    assert path == pytest.approx(np.array([1.0, 0.5, 0]) * 0.05 * DELTA.horizon, rel=1e-5)


@pytest.mark.parametrize(
    ("spoil", "cause"),
    [
        (lambda c: replace_chunk(c, names=(*c.names[:-1], "grip")), StopCause.CHUNK_REJECTED),
        (lambda c: ActionChunk(c.values[:-1], c.stamp_s, c.dt_s, c.names), StopCause.CHUNK_REJECTED),
        (lambda c: ActionChunk(c.values, c.stamp_s, c.dt_s * 2, c.names), StopCause.CHUNK_REJECTED),
        (lambda c: ActionChunk(c.values, c.stamp_s - 1.0, c.dt_s, c.names), StopCause.CHUNK_LATE),
        (lambda c: ActionChunk(c.values, c.stamp_s + 1.0, c.dt_s, c.names), StopCause.CLOCK_JUMP),
        (lambda c: ActionChunk(c.values * 1000, c.stamp_s, c.dt_s, c.names), StopCause.CHUNK_REJECTED),
    ],
)
def test_what_is_wrong_with_a_chunk_is_named_and_nothing_of_it_is_used(spoil, cause):
    with pytest.raises(ChunkRejected) as refused:
        SafetyFilter(DELTA, BOX).admit(spoil(chunk(gentle())), at(0.0))
    assert refused.value.cause is cause


def replace_chunk(whole: ActionChunk, names) -> ActionChunk:
    return ActionChunk(whole.values, whole.stamp_s, whole.dt_s, names)


def test_a_chunk_of_nan_cannot_even_be_made_and_one_that_was_tampered_with_is_refused():
    made = chunk(gentle())
    made.values.flags.writeable = False
    tampered = np.array(made.values)
    tampered[3, 1] = np.nan
    object.__setattr__(made, "values", tampered)
    with pytest.raises(ChunkRejected, match="not finite"):
        SafetyFilter(DELTA, BOX).admit(made, at(0.0))


def test_a_chunk_made_for_another_place_is_rejected():
    here, there = at(0.0).measured, at(0.0, place=(0.1, 0.0, 0.4)).measured
    with pytest.raises(ChunkRejected, match=r"0\.100 m from where"):
        SafetyFilter(DELTA, BOX).admit(chunk(gentle()), Situation(0.0, here, there))


def test_no_pose_no_chunk():
    with pytest.raises(ChunkRejected) as refused:
        SafetyFilter(DELTA, BOX).admit(chunk(gentle()), Situation(0.0, Measured(0.0), Measured(0.0)))
    assert refused.value.cause is StopCause.OBSERVATION_MISSING


def test_the_workspace_is_not_left_but_may_be_reentered():
    filter_ = SafetyFilter(DELTA, BOX)
    edge = at(0.0, place=(0.49, 0.0, 0.4))
    outward = filter_.admit(chunk(gentle(0.4), stamp=-0.01), edge)
    assert filter_.command(outward, 0.0, edge) is None
    assert filter_.refused
    outside = at(0.0, place=(0.6, 0.0, 0.4))
    assert filter_.command(filter_.admit(chunk(gentle(-0.4)), outside), 0.0, outside) is not None


def test_a_stop_falls_at_the_allowed_rate_and_then_is_silent():
    filter_ = SafetyFilter(DELTA, BOX)
    admitted, now = filter_.admit(chunk(gentle(0.4)), at(0.0)), 0.0
    for _ in range(5):
        filter_.command(admitted, now, at(now))
        now += TICK
    speeds = []
    while (command := filter_.brake(at(now))) is not None:
        speeds.append(float(np.linalg.norm(command.velocities[0, :3])))
        assert command.gripper is None  # a stop keeps the grip
        now += TICK
    assert speeds[-1] == 0.0
    assert all(b <= a for a, b in itertools.pairwise(speeds))
    assert max(-np.diff([0.4, *speeds])) <= BOX.linear_m_s2 * TICK + 1e-9
    assert filter_.brake(at(now)) is None


wild_rows = st.lists(
    st.lists(st.floats(-2.9, 2.9), min_size=7, max_size=7), min_size=8, max_size=8
)  # within the gross range; beyond it the chunk is refused


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(wild_rows, st.floats(0.0, 0.45), st.floats(0.05, 1.0)), min_size=1, max_size=5), st.data())
def test_whatever_is_asked_published_twists_keep_speed_and_its_change(chunks, data):
    filter_, now, place = SafetyFilter(DELTA, BOX), 10.0, np.array([0.0, 0.0, 0.4])
    last, last_s = np.zeros(6), -np.inf
    for values, delay, speed in chunks:
        try:
            admitted = filter_.admit(chunk(np.array(values), stamp=now - delay), at(now, place))
        except ChunkRejected:
            continue
        progress = delay
        for _ in range(data.draw(st.integers(1, 30))):
            command = filter_.command(admitted, progress, at(now, place), speed) or filter_.brake(at(now, place))
            if command is not None:
                twist = command.velocities[0]
                assert np.linalg.norm(twist[:3]) <= BOX.linear_m_s * (1 + 1e-6)
                assert np.linalg.norm(twist[3:]) <= BOX.angular_rad_s * (1 + 1e-6)
                before = last if now - last_s <= 0.1 else np.zeros(6)
                span = now - last_s if now - last_s <= 0.1 else DELTA.dt_s
                assert np.linalg.norm((twist - before)[:3]) <= BOX.linear_m_s2 * span * (1 + 1e-6) + 1e-9
                assert np.linalg.norm((twist - before)[3:]) <= BOX.angular_rad_s2 * span * (1 + 1e-6) + 1e-9
                last, last_s = twist, now
            place = place + (last[:3] if now - last_s <= 0.1 else 0.0) * TICK
            assert np.all(place >= np.array(BOX.workspace_low) - 1e-9)
            assert np.all(place <= np.array(BOX.workspace_high) + 1e-9)
            progress += TICK * speed
            now += TICK


def joint_chunk(rows, stamp: float = 0.0) -> ActionChunk:
    return ActionChunk(np.asarray(rows, np.float32), stamp, ABSOLUTE.dt_s, ABSOLUTE.names)


def line_to(goal, start=(0.0, 0.0, 0.0)) -> np.ndarray:
    steps = np.linspace(0.0, 1.0, ABSOLUTE.horizon + 1)[1:, None]
    return np.array(start) + steps * (np.array(goal) - np.array(start))


def test_a_joint_command_ends_at_rest_inside_its_range():
    filter_ = SafetyFilter(ABSOLUTE, JOINTS)
    admitted = filter_.admit(joint_chunk(line_to((0.2, -0.2, 0.2))), at(0.0))
    command = filter_.command(admitted, 0.0, at(0.0))
    assert command is not None
    assert command.names == JOINT_NAMES
    assert not command.velocities[-1].any()
    assert command.times_s[0] == 0.0
    assert np.all(np.diff(command.times_s) > 0)


def test_policy_joints_in_another_order_still_move_the_right_joints():
    mixed = replace(ABSOLUTE, dims=ABSOLUTE.dims[::-1])
    filter_ = SafetyFilter(mixed, JOINTS)
    rows = line_to((0.1, 0.0, 0.0))[:, ::-1]
    admitted = filter_.admit(ActionChunk(rows.astype(np.float32), 0.0, mixed.dt_s, mixed.names), at(0.0))
    assert admitted.rows[-1] == pytest.approx([0.1, 0.0, 0.0], abs=1e-6)


def test_another_robots_joints_are_refused_at_once():
    with pytest.raises(ContractError, match="the robot's joints are"):
        SafetyFilter(ABSOLUTE, replace(JOINTS, names=("a", "b", "c")))


def test_a_joint_delta_is_anchored_to_the_observation_of_its_own_chunk():
    delta = replace(ABSOLUTE, kind=ActionKind.DELTA, hold=HoldRule.ZERO_MOTION)
    seen, now = at(0.0, joints=(0.5, 0.0, 0.0)).measured, at(0.05, joints=(0.52, 0.0, 0.0)).measured
    rows = np.tile([0.01, 0.0, 0.0], (delta.horizon, 1)).astype(np.float32)
    admitted = SafetyFilter(delta, JOINTS).admit(ActionChunk(rows, 0.0, 0.05, delta.names), Situation(0.05, now, seen))
    assert admitted.rows[0] == pytest.approx([0.51, 0.0, 0.0], abs=1e-6)
    assert admitted.rows[-1] == pytest.approx([0.58, 0.0, 0.0], abs=1e-6)


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        (np.full((ABSOLUTE.horizon, 3), [2.5, 0, 0]), "shoulder to"),
        (line_to((0, 0, 0), (1.0, 0, 0)), "begins 1.000 away from where shoulder is seen"),
    ],
)
def test_out_of_range_and_start_jumps_are_rejected_by_joint(rows, what):
    with pytest.raises(ChunkRejected, match=what):
        SafetyFilter(ABSOLUTE, JOINTS).admit(joint_chunk(rows), at(0.0))


def test_an_arm_that_does_not_follow_gets_no_further_command():
    filter_ = SafetyFilter(ABSOLUTE, replace(JOINTS, max_start_jump_rad=0.05))
    admitted, now = filter_.admit(joint_chunk(line_to((0.4, 0, 0))), at(0.0)), 0.0
    commands = 0
    while now < 0.4 and filter_.command(admitted, now, at(now)) is not None:  # measured stays at zero
        commands += 1
        now += TICK
    assert 0 < commands < 19
    assert "away from where it is measured" in filter_.refused


joint_rows = st.lists(st.lists(st.floats(-0.4, 0.4), min_size=3, max_size=3), min_size=8, max_size=8)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(joint_rows, st.floats(0.0, 0.3), st.floats(0.1, 1.0)), min_size=1, max_size=5), st.data())
def test_whatever_is_asked_the_joint_curve_that_a_controller_plays_keeps_every_limit(chunks, data):
    """The receiver plays each trajectory until the next one comes; its curve is sampled independently of the filter."""
    filter_, now = SafetyFilter(ABSOLUTE, JOINTS, Timing(max_time_scale=50.0)), 10.0
    playing: SafeTrajectory | None = None
    history: list[np.ndarray] = []

    def place(time: float) -> np.ndarray:
        return np.zeros(3) if playing is None else playing.at(time)[0]

    for values, delay, speed in chunks:
        here = place(now)
        rows = here + np.cumsum(np.array(values) * 0.2, axis=0)
        try:
            admitted = filter_.admit(joint_chunk(rows, now - delay), at(now, joints=here))
        except ChunkRejected:
            continue
        progress = delay
        for _ in range(data.draw(st.integers(1, 20))):
            situation = at(now, joints=place(now))
            command = filter_.command(admitted, progress, situation, speed) or filter_.brake(situation)
            if command is not None:
                assert command.positions is not None
                assert command.positions[0] == pytest.approx(place(now), abs=1e-6)
                playing = command
            history += [place(now + k * TICK / 4) for k in range(4)]
            progress += TICK * speed
            now += TICK
    if playing is None:
        return
    history += [place(now + k * TICK / 4) for k in range(800)]  # nothing more is sent: it stops by itself
    curve, step = np.array(history), TICK / 4
    speed_seen, rate_seen = np.diff(curve, axis=0) / step, np.diff(curve, n=2, axis=0) / step**2
    assert np.all(curve >= np.array(JOINTS.low) - 1e-9)
    assert np.all(curve <= np.array(JOINTS.high) + 1e-9)
    assert np.all(np.abs(speed_seen) <= np.array(JOINTS.velocity) * 1.001)
    assert np.all(np.abs(rate_seen) <= np.array(JOINTS.acceleration) * 1.02)
    assert np.array_equal(curve[-1], curve[-2])


def test_only_the_filter_builds_commands():
    with pytest.raises(ContractError, match="only the safety filter"):
        SafeTrajectory(CommandKind.TWIST, ("x",), 0.0, np.zeros(1), np.zeros((1, 1)), None, None, 1.0)
    filter_ = SafetyFilter(DELTA, BOX)
    command = filter_.command(filter_.admit(chunk(gentle()), at(0.0)), 0.0, at(0.0))
    with pytest.raises(ContractError, match="only the safety filter"):
        replace(command, velocities=np.full((1, 6), 9.0))
    with pytest.raises(ValueError, match="read-only"):
        command.velocities[0, 0] = 9.0
    takers = []
    for path in Path(runtime.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and any(name.name == "_FILTER" for name in node.names):
                takers.append(path.name)
    assert takers == ["filter.py"]


@pytest.mark.parametrize("spoiled", [{"linear_m_s": 0.0}, {"linear_m_s2": float("nan")}, {"workspace_low": (1, 0, 0)}])
def test_limits_that_make_no_sense_are_refused(spoiled):
    with pytest.raises(ContractError, match="limits"):
        replace(BOX, **spoiled)


def test_a_spec_that_cannot_be_a_twist_is_refused():
    with pytest.raises(ContractError, match="joint_trajectory"):
        SafetyFilter(ABSOLUTE, BOX)
