# SPDX-License-Identifier: Apache-2.0
"""Tool actions on a joint-controlled arm: the tool goes where it is told, from where the chunk was asked for."""

from dataclasses import replace

import numpy as np
import pytest
from arm_models import seven, six
from filter_world import Cell, joint_spec

from runtime.contract.action import ActionDim, ActionSpec
from runtime.contract.chunk import ActionChunk
from runtime.contract.conventions import ActionKind, DimRole, Frame, GripperSign, HoldRule, RotationConvention, Unit
from runtime.errors import ContractError
from runtime.safety.filter import SafetyFilter
from runtime.safety.inverse import ToolRows
from runtime.safety.rotations import exponential, logarithm, rotation_of

ARMS = pytest.mark.parametrize("arm", [six(), seven()], ids=["six", "seven"])
ROWS = 20


def tool_spec(kind=ActionKind.DELTA, frame=Frame.BASE, rotation=RotationConvention.AXIS_ANGLE, size=3) -> ActionSpec:
    rate = kind is ActionKind.VELOCITY
    metre, radian = (Unit.METRE_PER_SECOND, Unit.RADIAN_PER_SECOND) if rate else (Unit.METRE, Unit.RADIAN)
    turn = radian if rotation is RotationConvention.AXIS_ANGLE else Unit.RATIO
    dims = [ActionDim(n, DimRole.TRANSLATION, metre, -1.0, 1.0) for n in ("x", "y", "z")]
    dims += [ActionDim(f"r{n}", DimRole.ROTATION, turn, -3.2, 3.2) for n in range(size)]
    hold = HoldRule.REPEAT_LAST if kind is ActionKind.ABSOLUTE else HoldRule.ZERO_MOTION
    return ActionSpec(tuple(dims), kind, frame, rotation, GripperSign.NONE, ROWS, 0.05, hold)


def chunk(values, spec) -> ActionChunk:
    return ActionChunk(np.broadcast_to(np.asarray(values, np.float32), (ROWS, spec.dim)), 0.0, spec.dt_s, spec.names)


@ARMS
@pytest.mark.parametrize("frame", [Frame.BASE, Frame.EEF])
def test_deltas_add_up_to_the_pose_they_mean(arm, frame):
    spec = tool_spec(frame=frame)
    step = np.array([0.002, -0.001, 0.0015, 0.004, 0.0, -0.003])
    rows, why = ToolRows(spec, arm.limits, arm.kinematics).positions(chunk(step, spec), arm.home)
    assert why == ""
    place, turn = arm.kinematics.pose(arm.home)
    for _ in range(ROWS):
        place = place + (step[:3] if frame is Frame.BASE else turn @ step[:3])
        small = exponential(step[3:])
        turn = small @ turn if frame is Frame.BASE else turn @ small
    found, facing = arm.kinematics.pose(rows[-1])
    assert found == pytest.approx(place, abs=5e-4)
    assert np.linalg.norm(logarithm(turn @ facing.T)) < 2e-3
    assert np.abs(np.diff(rows, axis=0)).max() < 0.05  # no jump to another branch


def test_velocities_are_deltas_per_second():
    arm, delta, rate = six(), tool_spec(), tool_spec(ActionKind.VELOCITY)
    step = np.array([0.002, 0.001, 0.0, 0.0, 0.004, 0.0])
    a, _ = ToolRows(delta, arm.limits, arm.kinematics).positions(chunk(step, delta), arm.home)
    b, _ = ToolRows(rate, arm.limits, arm.kinematics).positions(chunk(step / 0.05, rate), arm.home)
    assert a == pytest.approx(b, abs=1e-6)


@pytest.mark.parametrize(
    ("rotation", "size"),
    [
        (RotationConvention.AXIS_ANGLE, 3), (RotationConvention.QUATERNION_XYZW, 4),
        (RotationConvention.QUATERNION_WXYZ, 4), (RotationConvention.ROTATION_6D, 6),
    ],
)  # fmt: skip
def test_an_absolute_pose_is_reached(rotation, size):
    arm, spec = seven(), tool_spec(ActionKind.ABSOLUTE, Frame.BASE, rotation, size)
    place, turn = arm.kinematics.pose(arm.home)
    goal, vector = place + np.array([0.0, 0.01, 0.01]), logarithm(turn)
    half = np.linalg.norm(vector) / 2
    quaternion = np.append(vector / (2 * half) * np.sin(half), np.cos(half))
    values = {3: vector, 6: np.append(turn[:, 0], turn[:, 1])}.get(size, quaternion)
    if rotation is RotationConvention.QUATERNION_WXYZ:
        values = np.roll(quaternion, 1)
    rows, why = ToolRows(spec, arm.limits, arm.kinematics).positions(chunk([*goal, *values], spec), arm.home)
    assert why == ""
    assert arm.kinematics.pose(rows[-1])[0] == pytest.approx(goal, abs=5e-4)


@pytest.mark.parametrize("values", [[1, 0, 0, 0], [0.5, 0.5, 0.5, 0.5], [0.1, -0.7, 0.2, 0.6]])
def test_a_quaternion_and_its_rotation_vector_are_one_rotation(values):
    turn = rotation_of(np.array(values, float), RotationConvention.QUATERNION_XYZW)
    assert turn @ turn.T == pytest.approx(np.eye(3), abs=1e-12)
    assert exponential(logarithm(turn)) == pytest.approx(turn, abs=1e-9)


def test_out_of_reach_ends_the_chunk_where_it_is_not_reached_any_more():
    arm, spec = six(), tool_spec()
    outward = np.array([-0.03, 0.0, 0.0, 0.0, 0.0, 0.0])
    rows, why = ToolRows(spec, arm.limits, arm.kinematics).positions(chunk(outward, spec), arm.home)
    assert 0 < len(rows) < ROWS
    assert "row" in why
    assert np.abs(np.diff(rows, axis=0)).max() < 4 * 0.78 * 0.05 + 1e-9


def test_at_a_singularity_nothing_is_flung():
    """UR5e with wrist 2 at zero: turning about the lost axis needs infinite joint speed; the chunk ends instead."""
    arm, spec = six(), tool_spec()
    singular = arm.home.copy()
    singular[4] = 0.0
    lost = np.linalg.svd(arm.kinematics.jacobian(singular))[0][:, -1]
    rows, why = ToolRows(spec, arm.limits, arm.kinematics).positions(chunk(0.02 * lost, spec), singular)
    assert why
    assert len(rows) < ROWS
    if len(rows) > 1:
        assert np.abs(np.diff(rows, axis=0)).max() <= 4 * 0.78 * 0.05 + 1e-9


def test_tool_deltas_are_anchored_to_the_observation_of_their_own_chunk():
    arm = seven()
    spec = tool_spec()
    cell = Cell(arm, joint_spec(arm))
    filter_ = SafetyFilter(spec, arm.limits, cell.timing, arm.kinematics)
    here = cell.situation()
    moved = dict(zip(arm.limits.names, arm.home + 0.02, strict=True))
    now = replace(here, now_s=here.now_s + 0.05, measured=replace(here.measured, joints=moved), held=moved)
    still = ActionChunk(np.zeros((ROWS, 6), np.float32), here.now_s, 0.05, spec.names)
    assert filter_.admit(still, now).rows == pytest.approx(np.tile(arm.home, (ROWS, 1)), abs=1e-3)


def test_a_tool_policy_needs_the_arms_kinematics_and_a_convention_that_is_known():
    arm = six()
    with pytest.raises(ContractError, match="need the arm's kinematics"):
        SafetyFilter(tool_spec(), replace(arm.limits, tool=None))
    with pytest.raises(ContractError, match="give its description"):
        SafetyFilter(tool_spec(), arm.limits)
    with pytest.raises(ContractError, match="rotation euler_xyz"):
        ToolRows(tool_spec(rotation=RotationConvention.EULER_XYZ), arm.limits, arm.kinematics)


def test_a_tool_policy_moves_the_tool_through_the_whole_filter():
    arm, spec = seven(), tool_spec()
    cell = Cell(arm, spec)
    start = arm.kinematics.pose(cell.place)[0]
    step = np.array([0.0, 0.002, 0.0, 0.0, 0.0, 0.0])
    assert cell.offer(ActionChunk(np.tile(step, (ROWS, 1)).astype(np.float32), cell.now, 0.05, spec.names)) == ""
    for _ in range(60):
        cell.tick()
        cell.advance(0.02)
    cell.silence(2.0)
    moved = arm.kinematics.pose(cell.place)[0] - start
    assert moved == pytest.approx([0.0, 0.04, 0.0], abs=3e-3)
    assert not cell.record.breaches()
    assert cell.filter.trips == 0
