# SPDX-License-Identifier: Apache-2.0
"""Twists: what a chunk means in metres and seconds, how it is slowed, where it must not lead, and how it stops."""

from dataclasses import replace

import numpy as np
import pytest
from artifact_factory import action_spec

from runtime.contract.chunk import ActionChunk
from runtime.contract.conventions import ActionKind, GripperSign, HoldRule, RotationConvention, Unit
from runtime.errors import ContractError
from runtime.safety.limits import CartesianLimits, Timing
from runtime.safety.motion import ChunkRejected, Measured, Motion, Situation
from runtime.safety.twist import TwistPath
from runtime.telemetry import StopCause

DELTA = action_spec()  # command 1.0: 0.05 m or 0.5 rad in 0.05 s
LIMITS = CartesianLimits(0.5, 4.0, 8.0, 80.0, (-0.5, -0.5, 0.0), (0.5, 0.5, 0.8), 0.05, 0.3)
TIMING = Timing(max_time_scale=4.0, command_timeout_s=0.1)
FREE = replace(LIMITS, workspace_low=(-99.0,) * 3, workspace_high=(99.0,) * 3)


def at(now: float, place=(0.0, 0.0, 0.4), rotation=(0.0, 0.0, 0.0)) -> Situation:
    measured = Measured(now, {}, np.array(place, float), np.array(rotation, float))
    return Situation(now, measured, measured)


def chunk(rows, spec=DELTA) -> ActionChunk:
    values = np.broadcast_to(np.asarray(rows, np.float32), (spec.horizon, spec.dim))
    return ActionChunk(values, 0.0, spec.dt_s, spec.names)


def along(axis: int, size: float = 1.0) -> np.ndarray:
    return size * np.eye(7)[axis]


def path(spec=DELTA, limits=FREE) -> TwistPath:
    return TwistPath(spec, limits, TIMING)


def moving(twist, now: float = 0.0, limits=FREE) -> TwistPath:
    """One that has commanded `twist`."""
    made = path(limits=limits)
    made.commanded(motion(twist), now)
    return made


def motion(twist, scale: float = 1.0) -> Motion:
    return Motion(np.zeros(1), np.asarray(twist, float)[None], None, None, scale)


def six(axis: int, size: float) -> np.ndarray:
    return size * np.eye(6)[axis]


def velocity_spec():
    dims = tuple(
        replace(dim, unit=unit, low=-1.0, high=1.0, scale=1.0)
        for dim, unit in zip(DELTA.dims[:6], [Unit.METRE_PER_SECOND] * 3 + [Unit.RADIAN_PER_SECOND] * 3, strict=True)
    )
    return replace(DELTA, dims=dims, kind=ActionKind.VELOCITY, gripper=GripperSign.NONE)


def test_velocities_are_taken_as_they_are_and_an_arm_without_gripper_has_none():
    made = path(velocity_spec())
    admitted = made.admit(chunk([0.1, -0.2, 0.3, 0.4, -0.5, 0.6], velocity_spec()), at(0.0))
    assert admitted.rows[0] == pytest.approx([0.1, -0.2, 0.3, 0.4, -0.5, 0.6])
    assert admitted.gripper is None
    assert made.names == ("linear.x", "linear.y", "linear.z", "angular.x", "angular.y", "angular.z")


def test_axes_go_by_their_role_wherever_they_stand():
    mixed = replace(DELTA, dims=(DELTA.dims[6], *DELTA.dims[3:6], *DELTA.dims[:3]))
    admitted = path(mixed).admit(chunk([1.0, 0.1, 0, 0, 0.2, 0, 0], mixed), at(0.0))
    assert admitted.rows[0] == pytest.approx([0.2, 0, 0, 1.0, 0, 0])
    assert admitted.gripper.tolist() == [0.0] * DELTA.horizon


@pytest.mark.parametrize(("sign", "opening"), [(GripperSign.NEGATIVE_OPENS, 0.75), (GripperSign.POSITIVE_OPENS, 0.25)])
def test_gripper_opens_by_the_sign_that_the_policy_declares(sign, opening):
    made = path(replace(DELTA, gripper=sign))
    admitted = made.admit(chunk(along(6, -0.5)), at(0.0))
    assert made.toward(admitted, 0.0, at(0.0), 1.0).gripper == opening


@pytest.mark.parametrize(
    ("rows", "slower"),
    [
        (along(0, 0.4), 1.0),
        (along(1, -1.0), 2.0),  # 1 m/s of 0.5
        (along(0, 0.8) + along(1, 0.6), 2.0),  # together 1 m/s
        (along(3, 1.0), 2.5),  # 10 rad/s of 4
        (along(4, -0.8) + along(3, 0.6), 2.5),  # together 10 rad/s
        (np.outer([1, -1] * 4, along(2, 0.3)), 1.5**0.5),  # 0.6 m/s in 0.05 s: 12 m/s2 of 8
        (np.outer([1, -1] * 4, along(5, 0.3)), 1.5**0.5),  # 6 rad/s in 0.05 s: 120 rad/s2 of 80
        (along(0, 1.0) + along(4, 1.0), 2.5),  # the worse of both
    ],
)
def test_chunk_is_slowed_by_what_its_worst_limit_asks(rows, slower):
    admitted = path().admit(chunk(rows), at(0.0))
    assert admitted.time_scale == pytest.approx(slower)
    assert admitted.dt_s == pytest.approx(0.05 * slower)
    assert admitted.rows == pytest.approx(
        np.broadcast_to(rows, (8, 7))[:, :6] * [1, 1, 1, 10, 10, 10] / slower, abs=1e-6
    )


def test_chunk_is_slowed_by_its_fastest_row_and_a_steady_one_not_for_its_changes():
    rows = np.outer([0.1, 0.2, 1.0, 0.5, 0.1, 0, 0, 0], along(0))
    assert path(limits=replace(FREE, linear_m_s2=1e3)).admit(chunk(rows), at(0.0)).time_scale == pytest.approx(2.0)
    assert path(limits=replace(FREE, linear_m_s2=0.1)).admit(chunk(along(0, 0.4)), at(0.0)).time_scale == 1.0


def test_slowed_as_much_as_allowed_is_allowed_and_no_more():
    assert path().admit(chunk(along(0, 2.0)), at(0.0)).time_scale == 4.0
    with pytest.raises(ChunkRejected, match=r"slowed 4\.1 times") as refused:
        path().admit(chunk(along(0, 2.05)), at(0.0))
    assert refused.value.cause is StopCause.CHUNK_REJECTED


def test_command_is_the_row_that_is_due_at_the_speed_that_is_asked_and_none_after_the_last():
    made = path(limits=replace(FREE, linear_m_s2=1e3))
    admitted = made.admit(chunk(np.outer(np.arange(8) / 20, along(0))), at(0.0))
    found = made.toward(admitted, 0.26, at(0.0), 0.5)
    assert found.velocities[0] == pytest.approx(six(0, 0.5 * 0.25))
    assert found.scale == 0.5
    assert (found.times_s.tolist(), found.positions) == ([0.0], None)
    assert made.toward(admitted, 0.4, at(0.0), 1.0) is None
    slowed = made.admit(chunk(along(0, 1.0)), at(0.0))
    assert made.toward(slowed, 0.0, at(0.0), 0.5).scale == 0.25


# ---- the way there --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("axis", "most"), [(0, 8.0), (3, 80.0), (5, 80.0)])
def test_speed_rises_at_the_allowed_rate_from_what_is_being_played(axis, most):
    row = along(axis, 0.45 if axis == 0 else 0.38)
    wanted = row[axis] * (1.0 if axis == 0 else 10.0)
    made = path()
    admitted = made.admit(chunk(row), at(0.0))
    first = made.toward(admitted, 0.0, at(0.0), 1.0)
    assert first.velocities[0] == pytest.approx(six(axis, min(wanted, most * 0.05))), "a row's time from rest"
    made = moving(six(axis, 0.1))
    later = made.toward(admitted, 0.02, at(0.02), 1.0)
    assert later.velocities[0] == pytest.approx(six(axis, 0.1 + most * 0.02))
    assert made.toward(admitted, 0.0, at(0.0), 1.0).velocities[0] == pytest.approx(six(axis, 0.1)), "no time has passed"
    long = made.toward(admitted, 0.1, at(0.11), 1.0)
    assert long.velocities[0] == pytest.approx(six(axis, min(wanted, most * 0.05))), "timed out: from rest again"


def test_way_to_a_twist_is_straight_the_slower_part_waits_for_none():
    """Linear needs 0.06 m/s at 8 m/s2 (fits), angular 3 rad/s at 80 rad/s2 in 20 ms: 1.6 of it."""
    made = moving(np.zeros(6))
    admitted = made.admit(chunk(along(0, 0.06) + along(4, 0.3)), at(0.0))
    found = made.toward(admitted, 0.0, at(0.02), 1.0).velocities[0]
    assert found == pytest.approx((six(0, 0.06) + six(4, 3.0)) * 1.6 / 3.0, abs=1e-6)


# ---- stopping -------------------------------------------------------------------------------------------------------


def test_stop_falls_at_the_allowed_rate_keeps_the_grip_and_ends_in_silence():
    made = moving(six(0, 0.2))
    found = made.braking(at(0.02))
    assert found.velocities[0] == pytest.approx(six(0, 0.2 - 8.0 * 0.02))
    assert (found.gripper, found.scale) == (None, 0.0)
    assert (found.times_s.tolist(), found.positions) == ([0.0], None)
    made.commanded(found, 0.02)
    last = made.braking(at(0.04))
    assert not last.velocities.any()
    made.commanded(last, 0.04)
    assert made.braking(at(0.06)) is None


def test_nothing_is_left_to_stop_once_the_receiver_has_timed_out_or_all_is_forgotten():
    assert moving(six(0, 0.2)).braking(at(0.1)) is not None
    assert moving(six(0, 0.2)).braking(at(0.101)) is None
    assert path().braking(at(0.0)) is None
    made = moving(six(0, 0.2))
    made.forget()
    assert made.braking(at(0.02)) is None


def test_a_twist_is_played_until_its_receiver_times_out():
    assert not path().playing(at(0.0))
    made = moving(six(4, 0.2))
    assert made.playing(at(0.1))
    assert not made.playing(at(0.101))
    assert not moving(np.zeros(6)).playing(at(0.0))


# ---- the last look --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("twist", "said"),
    [
        (six(0, 0.5), ""), (six(2, -0.51), "linear speed 0.51 is above 0.5"), (six(3, 4.0), ""),
        (six(5, 4.1), "angular speed 4.1 is above 4"), (six(3, -4.1), "angular speed 4.1"), 
        (six(0, np.nan), "linear speed nan"),
        ((0.4, 0.4, 0.0, 0, 0, 0), "linear speed"),
    ],
)  # fmt: skip
def test_speed_of_what_is_released_is_looked_at_once_more(twist, said):
    assert path().breach(motion(twist), at(0.0)).startswith(said)
    assert bool(path().breach(motion(twist), at(0.0))) is bool(said)


def test_stop_may_point_outwards_and_must_not_speed_up():
    edge = at(0.02, (0.499, 0.0, 0.4))
    made = moving(six(0, 0.2), limits=LIMITS)
    assert made.breach(motion(six(0, 0.1)), edge) == "the arm could not stop inside the workspace"
    assert made.breach(motion(six(0, 0.2), scale=0.0), edge) == ""
    assert made.breach(motion(six(0, 0.21), scale=0.0), edge) == "a stop that speeds up"
    assert made.breach(motion(six(0, 0.01), scale=0.0), at(0.2)) == "a stop that speeds up", "it had timed out"


@pytest.mark.parametrize("axis", [3, 4, 5])
def test_stop_must_not_turn_faster_either(axis):
    made = moving(six(axis, 1.0) + six(0, 0.2))
    assert made.breach(motion(six(axis, 1.0) + six(0, 0.1), scale=0.0), at(0.02)) == ""
    assert made.breach(motion(six(axis, 1.1), scale=0.0), at(0.02)) == "a stop that speeds up"
    assert made.breach(motion(six(0, 0.21), scale=0.0), at(0.02)) == "a stop that speeds up"


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("side", [-1, 1])
def test_arm_that_could_not_stop_inside_gets_nothing_and_one_that_comes_back_does(axis, side):
    """At 0.4 m/s: 0.1 s until the receiver drops it, then 0.4 / 16 s to stop."""
    reach = 0.4 * (0.1 + 0.4 / 16.0)
    edge = np.array((LIMITS.workspace_low, LIMITS.workspace_high)[side > 0])[axis]
    spec = replace(DELTA, dt_s=0.05)
    for beyond, inside in ((-1e-4, True), (1e-4, False)):
        place = np.array([0.0, 0.0, 0.4])
        place[axis] = edge + side * (beyond - reach)
        made = path(spec, LIMITS)
        admitted = made.admit(chunk(along(axis, side * 0.4)), at(0.0, place))
        assert (made.toward(admitted, 0.0, at(0.0, place), 1.0) is not None) is inside
        assert (made.breach(motion(six(axis, side * 0.4)), at(0.0, place)) == "") is inside
    outside = np.array([0.0, 0.0, 0.4])
    outside[axis] = edge + side * 0.2
    assert path(limits=LIMITS).breach(motion(six(axis, -side * 0.4)), at(0.0, outside)) == ""
    sideways = path(limits=LIMITS).breach(motion(six((axis + 1) % 3, 0.1)), at(0.0, outside))
    assert sideways == "", "what does not lead further out is allowed"


def test_arm_whose_place_is_not_known_gets_no_motion():
    nowhere = Situation(0.0, Measured(0.0))
    assert path().breach(motion(six(0, 0.1)), nowhere)
    assert path().breach(motion(six(0, 0.0), scale=0.0), nowhere) == ""


# ---- the start ------------------------------------------------------------------------------------------------------


def between(then: Measured | None, now: Measured) -> Situation:
    return Situation(0.0, now, then)


def test_tool_that_was_moved_or_turned_meanwhile_makes_the_chunk_worthless():
    here = Measured(0.0, {}, np.zeros(3), np.zeros(3))
    for shift, turn, said in (
        (0.05, 0.0, ""), (0.051, 0.0, "the tool is 0.051 m from where"), (0.0, 0.29, ""),
        (0.0, 0.31, "the tool is turned by 0.310 rad"), (np.nan, 0.0, "the tool is nan m from where"),
    ):  # fmt: skip
        then = Measured(0.0, {}, np.array([0.0, shift, 0.0]), np.array([0.0, 0.0, turn]))
        if not said:
            path().admit(chunk(along(0, 0.1)), between(then, here))
            continue
        with pytest.raises(ChunkRejected, match=said) as refused:
            path().admit(chunk(along(0, 0.1)), between(then, here))
        assert refused.value.cause is StopCause.CHUNK_REJECTED


def test_start_that_cannot_be_checked_is_refused_and_a_robot_that_reports_no_rotation_is_not():
    here, nowhere = Measured(0.0, {}, np.zeros(3)), Measured(0.0)
    for then, now in ((None, here), (nowhere, here), (here, nowhere)):
        with pytest.raises(ChunkRejected) as refused:
            path().admit(chunk(along(0, 0.1)), between(then, now))
        assert refused.value.cause is StopCause.OBSERVATION_MISSING
    turned = Measured(0.0, {}, np.zeros(3), np.array([0.0, 0.0, 2.0]))
    for then, now in ((here, here), (turned, here), (here, turned)):
        path().admit(chunk(along(0, 0.1)), between(then, now))


# ---- what is no twist -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spec",
    [
        replace(DELTA, dims=DELTA.dims[1:]),
        replace(DELTA, dims=(*DELTA.dims[:5], DELTA.dims[6])),
        replace(DELTA, dims=(replace(DELTA.dims[0], unit=Unit.METRE_PER_SECOND), *DELTA.dims[1:])),
        replace(DELTA, dims=(*DELTA.dims[:3], replace(DELTA.dims[3], unit=Unit.RADIAN_PER_SECOND), *DELTA.dims[4:])),
        replace(velocity_spec(), dims=(replace(velocity_spec().dims[0], unit=Unit.METRE), *velocity_spec().dims[1:])),
    ],
)
def test_actions_that_are_no_twist_are_refused(spec):
    with pytest.raises(ContractError, match="twist commands: found"):
        path(spec)


def test_rotations_of_another_convention_are_refused():
    other = next(
        kind for kind in RotationConvention if kind not in (RotationConvention.AXIS_ANGLE, RotationConvention.NONE)
    )
    with pytest.raises(ContractError, match="expected axis_angle"):
        path(replace(DELTA, rotation=other))


def test_a_pose_is_no_twist():
    with pytest.raises(ContractError, match="expected delta or velocity"):
        path(replace(DELTA, kind=ActionKind.ABSOLUTE, hold=HoldRule.REPEAT_LAST))
