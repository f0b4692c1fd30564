# SPDX-License-Identifier: Apache-2.0
"""What joint commands are made of: two places compared, two states compared, and who turns rows into joints."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from arm_models import PANDA_JOINTS, seven, seven_joints
from filter_world import joint_spec

from runtime.contract.action import ActionDim, ActionSpec
from runtime.contract.chunk import ActionChunk
from runtime.contract.conventions import ActionKind, DimRole, Frame, GripperSign, HoldRule, RotationConvention, Unit
from runtime.errors import ContractError
from runtime.safety.joint_plan import near, same
from runtime.safety.joint_rows import row_source
from runtime.safety.kinematics import Frames, Kinematics
from runtime.safety.motion import ChunkRejected

ARM = seven()


def test_joint_that_is_beyond_what_it_may_be_by_most_is_named():
    """And not the one that is furthest away."""
    near(("a", "b"), np.zeros(2), np.array([0.1, -0.3]), np.array([0.1, 0.3]), "seen")
    with pytest.raises(ChunkRejected, match=r"begins 0\.300 away from where a is seen, at most 0\.100"):
        near(("a", "b"), np.zeros(2), np.array([0.3, -0.4]), np.array([0.1, 0.35]), "seen")


@pytest.mark.parametrize("part", [0, 1, 2])
@pytest.mark.parametrize("joint", [0, 1])
def test_states_differ_if_one_joint_does_in_one_of_place_speed_and_acceleration(part, joint):
    """1e-12 rad, 1e-10 rad/s, 1e-7 rad/s^2 are rounding."""
    state = (np.array([0.1, 0.2]), np.array([0.3, 0.4]), np.array([0.5, 0.6]))
    assert same(state, tuple(values[None] for values in state))
    for times, one in ((0.5, True), (1.5, False)):
        other = [values[None].copy() for values in state]
        other[part][0, joint] += times * (1e-12, 1e-10, 1e-7)[part]
        assert same(state, tuple(other)) is one


def test_kinematics_of_another_arm_or_order_are_refused():
    other = Kinematics(seven_joints(), PANDA_JOINTS[::-1], Frames("tool", "base", "elbow"))
    with pytest.raises(ContractError, match=r"kinematics: its joints are .*'j7'.* the limits' .*'j1'"):
        row_source(joint_spec(ARM), ARM.limits, other)
    row_source(joint_spec(ARM), replace(ARM.limits, tool=None), None)


def test_gripper_beside_a_tools_motion_does_not_make_it_one_of_joints():
    dims = [ActionDim("grip", DimRole.GRIPPER, Unit.RATIO, -1.0, 1.0)]
    dims += [ActionDim(n, DimRole.TRANSLATION, Unit.METRE, -1.0, 1.0) for n in ("x", "y", "z")]
    dims += [ActionDim(n, DimRole.ROTATION, Unit.RADIAN, -1.0, 1.0) for n in ("rx", "ry", "rz")]
    spec = ActionSpec(
        tuple(dims), ActionKind.DELTA, Frame.BASE, RotationConvention.AXIS_ANGLE, GripperSign.NEGATIVE_OPENS, 4, 0.05,
        HoldRule.ZERO_MOTION,
    )  # fmt: skip
    values = np.tile([1.0, 0.002, 0.0, 0.0, 0.0, 0.0, 0.0], (4, 1)).astype(np.float32)
    chunk = ActionChunk(values, 0.0, 0.05, spec.names)
    rows, why = row_source(spec, ARM.limits, ARM.kinematics).positions(chunk, ARM.home)
    assert why == ""
    moved = ARM.kinematics.pose(rows[-1])[0] - ARM.kinematics.pose(ARM.home)[0]
    assert moved == pytest.approx([0.008, 0.0, 0.0], abs=5e-4)
