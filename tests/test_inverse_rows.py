# SPDX-License-Identifier: Apache-2.0
"""Row by row from a tool's pose to joints: what counts as reached, why a row is not, and steps near a singularity."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from arm_models import seven, six

from runtime.contract.action import ActionDim, ActionSpec
from runtime.contract.chunk import ActionChunk
from runtime.contract.conventions import ActionKind, DimRole, Frame, GripperSign, HoldRule, RotationConvention, Unit
from runtime.errors import ContractError
from runtime.safety import inverse
from runtime.safety.inverse import ToolRows
from runtime.safety.rotations import exponential, logarithm

ARMS = pytest.mark.parametrize("arm", [six(), seven()], ids=["six", "seven"])
NEAR_M, NEAR_RAD = 5e-4, 2e-3  # docs/filter.md
ROWS = 12


def dims(linear=Unit.METRE, angular=Unit.RADIAN, places=3, turns=3) -> list[ActionDim]:
    found = [ActionDim(f"p{n}", DimRole.TRANSLATION, linear, -9.0, 9.0) for n in range(places)]
    return found + [ActionDim(f"r{n}", DimRole.ROTATION, angular, -9.0, 9.0) for n in range(turns)]


def spec(kind=ActionKind.DELTA, frame=Frame.BASE, rotation=RotationConvention.AXIS_ANGLE, of=None) -> ActionSpec:
    if of is None:
        rate = kind is ActionKind.VELOCITY
        of = dims(*(Unit.METRE_PER_SECOND, Unit.RADIAN_PER_SECOND) if rate else (Unit.METRE, Unit.RADIAN))
    hold = HoldRule.REPEAT_LAST if kind is ActionKind.ABSOLUTE else HoldRule.ZERO_MOTION
    return ActionSpec(tuple(of), kind, frame, rotation, GripperSign.NONE, ROWS, 0.05, hold)


def solver(arm, of=None, **limits) -> ToolRows:
    return ToolRows(of or spec(), replace(arm.limits, **limits), arm.kinematics)


def rows_of(arm, values, of=None, seen=None, **limits) -> tuple[np.ndarray, str]:
    of = of or spec()
    chunk = ActionChunk(np.asarray(values, np.float32), 0.0, of.dt_s, of.names)
    return solver(arm, of, **limits).positions(chunk, arm.home if seen is None else seen)


def away(arm, q, place, turn) -> tuple[float, float]:
    at, facing = arm.kinematics.pose(q)
    return float(np.linalg.norm(place - at)), float(np.linalg.norm(logarithm(turn @ facing.T)))


# ---- what counts as reached -----------------------------------------------------------------------------------------


@ARMS
@pytest.mark.parametrize("axis", [None, 3, 4, 5])
def test_every_row_that_is_used_is_at_its_pose(arm, axis):
    """Steps of up to 5 cm and 0.4 rad, or turns about one axis alone: little of either kind is left."""
    fast, used = {"velocity": (50.0,) * len(arm.home)}, 0
    for seed in range(25):
        rng = np.random.default_rng(seed)
        values = rng.uniform(-1.0, 1.0, (ROWS, 6)) * [0.05, 0.05, 0.05, 0.4, 0.4, 0.4]
        if axis is not None:
            values *= np.eye(6)[axis]
        values = values.astype(np.float32).astype(np.float64)
        rows, why = rows_of(arm, values, **fast)
        assert bool(why) is (len(rows) < ROWS)
        place, turn = arm.kinematics.pose(arm.home)
        for q, step in zip(rows, values, strict=False):
            place, turn = place + step[:3], exponential(step[3:]) @ turn
            metres, radians = away(arm, q, place, turn)
            assert metres < NEAR_M
            assert radians < NEAR_RAD
            used += 1
    assert used > 100


@pytest.mark.parametrize(
    ("shift", "angle", "reached"),
    [
        (0.0, 0.0, True), (4.9e-4, 0.0, True), (0.0, 1.9e-3, True), (4.9e-4, 1.9e-3, True), (5.1e-4, 0.0, False),
        (0.0, 2.1e-3, False), (5.1e-4, 2.1e-3, False), (0.3, 0.0, False), (0.0, 1.0, False),
    ],
)  # fmt: skip
def test_half_a_millimetre_and_two_milliradians_are_reached_and_no_more(monkeypatch, shift, angle, reached):
    monkeypatch.setattr(inverse, "STEPS", 0)
    arm = six()
    place, turn = arm.kinematics.pose(arm.home)
    for k in range(3):
        goal = place + shift * np.eye(3)[k], exponential(angle * np.eye(3)[k]) @ turn
        q, short = solver(arm)._solve(arm.home, *goal)
        assert np.array_equal(q, arm.home)
        assert (short == "") is reached
        if short:
            assert short == f"too far; {shift * 1000:.1f} mm and {angle:.3f} rad are missing"


def test_solving_ends_at_a_quarter_of_that_and_not_before():
    """What is left of one row is where the next one begins."""
    arm = seven()
    place, turn = arm.kinematics.pose(arm.home)
    for k in range(3):
        for shift, angle in ((NEAR_M / 4, 0.0), (0.0, NEAR_RAD / 4)):
            for share, moved in ((0.97, False), (1.03, True)):
                goal = place + share * shift * np.eye(3)[k], exponential(share * angle * np.eye(3)[k]) @ turn
                q, short = solver(arm)._solve(arm.home, *goal)
                assert short == ""
                assert np.any(q != arm.home) == moved


def test_pose_half_a_metre_and_a_radian_away_is_reached_in_one_row():
    arm = seven()
    place, turn = arm.kinematics.pose(arm.home + 0.35)
    q, short = solver(arm)._solve(arm.home, place, turn)
    assert short == ""
    assert away(arm, q, place, turn) < (NEAR_M, NEAR_RAD)


# ---- why a row is not reached ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["low", "high"])
@pytest.mark.parametrize("joint", [0, 5])
def test_joint_at_its_limit_is_the_reason_and_is_not_passed(side, joint):
    arm, sign = six(), 1.0 if side == "high" else -1.0
    bounds = np.array(getattr(arm.limits, side))
    bounds[joint] = arm.home[joint] + sign * 0.01
    goal = arm.kinematics.pose(arm.home + sign * 0.1 * np.eye(6)[joint])
    q, short = solver(arm, **{side: tuple(bounds)})._solve(arm.home, *goal)
    assert short.startswith("a joint is at its limit; ")
    assert np.all(sign * q <= sign * bounds + 1e-12)
    assert solver(arm)._solve(arm.home, *goal)[1] == ""


@pytest.mark.parametrize(("wrist", "why"), [(0.0, "singular"), (0.02, "singular"), (-1.57, "too far")])
def test_singularity_is_the_reason_only_where_there_is_one(monkeypatch, wrist, why):
    monkeypatch.setattr(inverse, "STEPS", 1)
    arm = six()
    q = np.array([*arm.home[:4], wrist, 0.0])
    place, turn = arm.kinematics.pose(q)
    lost = np.linalg.svd(arm.kinematics.jacobian(q))[0][:, -1]
    _, short = solver(arm)._solve(q, place + 0.5 * lost[:3], exponential(0.5 * lost[3:]) @ turn)
    assert short.startswith(f"{why}; ")


def test_chunk_ends_before_the_row_that_is_not_reached_and_says_which():
    arm = six()
    values = np.zeros((ROWS, 6))
    values[4, 0] = -3.0
    rows, why = rows_of(arm, values)
    assert rows == pytest.approx(np.tile(arm.home, (4, 1)), abs=1e-3)
    assert why.startswith("row 4 cannot be reached: ")
    values[0, 0] = -3.0
    rows, why = rows_of(arm, values)
    assert rows.shape == (0, 6)
    assert why.startswith("row 0 cannot be reached: ")


def test_quaternion_of_length_zero_is_no_pose():
    arm, of = six(), spec(ActionKind.ABSOLUTE, rotation=RotationConvention.QUATERNION_XYZW, of=dims(turns=4))
    place = arm.kinematics.pose(arm.home)[0]
    values = np.tile([*place, 0.0, 0.0, 0.0, 0.0], (ROWS, 1))
    rows, why = rows_of(arm, values, of)
    assert rows.shape == (0, 6)
    assert why.startswith("row 0 is no pose: ")


def test_joint_that_would_have_to_move_too_far_in_one_row_is_named():
    """Four times what its own speed allows in 0.05 s, and not the joint that moves furthest."""
    arm = six()
    tool = solver(arm, velocity=(0.5, 2.0, 1.0, 1.0, 1.0, 1.0))
    chunk = ActionChunk(np.zeros((ROWS, 6), np.float32), 0.0, 0.05, spec().names)
    for step, said in (
        ([0.099, 0.399, 0.0, 0.0, 0.0, 0.0], ""),
        ([-0.15, 0.41, 0.0, 0.0, 0.0, 0.0], "row 0 needs j1 to move 0.150 rad at once"),
        ([0.0, 0.0, 0.0, -0.21, 0.0, 0.0], "row 0 needs j4 to move 0.210 rad at once"),
    ):
        tool._solve = lambda q, place, turn, step=step: (q + step if q is arm.home else q, "")
        rows, why = tool.positions(chunk, arm.home)
        assert why.startswith(said)
        assert bool(why) is bool(said)
        assert rows.shape == ((0 if said else ROWS), 6)


# ---- steps near a singularity ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrist", [0.0, 0.01, 0.05, 0.1, 0.3, -1.57])
def test_near_a_singularity_a_step_is_shorter_the_nearer_it_is(monkeypatch, wrist):
    """Damping 0.03 at the singularity itself, none from a singular value of 0.05 on."""
    monkeypatch.setattr(inverse, "STEPS", 1)
    arm = six()
    q = np.array([*arm.home[:4], wrist, 0.0])
    left, values, right = np.linalg.svd(arm.kinematics.jacobian(q))
    smallest = values[-1]
    damping = 0.03**2 * max(0.0, 1.0 - (smallest / 0.05) ** 2)
    error = 1e-3 * left[:, -1] + 2e-3 * left[:, 0]
    place, turn = arm.kinematics.pose(q)
    found, _ = solver(arm)._solve(q, place + error[:3], exponential(error[3:]) @ turn)
    expected = 1e-3 * smallest / (smallest**2 + damping) * right[-1]
    expected += 2e-3 * values[0] / (values[0] ** 2 + damping) * right[0]
    assert found - q == pytest.approx(expected, abs=1e-9 + 1e-6 * np.abs(expected).max())
    assert np.abs(found - q).max() < 1e-3 / (2 * 0.024) + 2e-3


# ---- specs ----------------------------------------------------------------------------------------------------------


def test_velocities_in_the_tools_frame_are_deltas_per_second():
    arm, step = six(), np.array([0.002, 0.001, 0.003, 0.0, 0.004, 0.002])
    delta, why = rows_of(arm, np.tile(step, (ROWS, 1)), spec(frame=Frame.EEF))
    rate, also = rows_of(arm, np.tile(step / 0.05, (ROWS, 1)), spec(ActionKind.VELOCITY, Frame.EEF))
    assert (why, also) == ("", "")
    assert delta == pytest.approx(rate, abs=1e-5)


ABSOLUTE, DELTA, RATE = ActionKind.ABSOLUTE, ActionKind.DELTA, ActionKind.VELOCITY
VECTOR = RotationConvention.AXIS_ANGLE


@pytest.mark.parametrize(
    ("rotation", "turns"),
    [
        (VECTOR, 3), (RotationConvention.EULER_XYZ, 3), (RotationConvention.QUATERNION_XYZW, 4),
        (RotationConvention.QUATERNION_WXYZ, 4), (RotationConvention.ROTATION_6D, 6),
    ],
)  # fmt: skip
def test_absolute_pose_has_the_numbers_of_its_convention(rotation, turns):
    for count in (2, 3, 4, 5, 6):
        of = spec(ABSOLUTE, rotation=rotation, of=dims(turns=count))
        if count == turns:
            solver(six(), of)
            continue
        with pytest.raises(ContractError, match="or an absolute pose"):
            solver(six(), of)


JOINT = [ActionDim("j", DimRole.JOINT, Unit.RADIAN, -1.0, 1.0)]
NO_POSE = [
    (DELTA, VECTOR, dims(linear=Unit.METRE_PER_SECOND)), (DELTA, VECTOR, dims(angular=Unit.RADIAN_PER_SECOND)),
    (RATE, VECTOR, dims()), (RATE, VECTOR, dims(linear=Unit.METRE_PER_SECOND)),
    (ABSOLUTE, VECTOR, dims(angular=Unit.RATIO)), (DELTA, VECTOR, dims() + JOINT), (ABSOLUTE, VECTOR, dims() + JOINT),
    (DELTA, VECTOR, dims(places=2)), (DELTA, VECTOR, dims(places=4)), (DELTA, VECTOR, dims(turns=2)),
    (DELTA, VECTOR, dims(turns=4)), (DELTA, RotationConvention.EULER_XYZ, dims()),
    (DELTA, RotationConvention.NONE, dims(turns=0)), (ABSOLUTE, RotationConvention.NONE, dims(turns=0)),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "rotation", "of"), NO_POSE)
def test_what_is_no_tool_action_is_refused_when_the_filter_is_made(kind, rotation, of):
    with pytest.raises(ContractError, match=r"joint commands: found .* actions \['p0'"):
        solver(six(), spec(kind, rotation=rotation, of=of))


def test_frames_that_a_kind_cannot_be_in_are_refused():
    for kind in (DELTA, RATE, ABSOLUTE):
        for frame in Frame:
            known = frame in (Frame.BASE, Frame.WORLD) or (frame is Frame.EEF and kind is not ABSOLUTE)
            if known:
                solver(six(), spec(kind, frame))
                continue
            with pytest.raises(ContractError, match=f"tool actions in frame {frame.value}"):
                solver(six(), spec(kind, frame))
