# SPDX-License-Identifier: Apache-2.0
"""Rows by time, grippers by their sign, angles between rotations, and the curve of a released trajectory."""

import numpy as np
import pytest

from runtime.errors import ContractError
from runtime.safety.motion import AdmittedChunk, Situation, gripper_ratio, rotation_between
from runtime.safety.trajectory import _FILTER, CommandKind, SafeTrajectory


def matrix(rotation: np.ndarray) -> np.ndarray:
    """Rodrigues' formula."""
    angle = np.linalg.norm(rotation)
    if angle == 0.0:
        return np.eye(3)
    x, y, z = rotation / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def test_angle_between_rotations_is_that_of_their_matrices():
    rng = np.random.default_rng(0)
    for _ in range(50):
        a, b = rng.normal(size=3), rng.normal(size=3) * rng.choice([0.0, 1e-3, 1.0, 3.0])
        between = matrix(a).T @ matrix(b)
        assert rotation_between(a, b) == pytest.approx(np.arccos(np.clip((np.trace(between) - 1) / 2, -1, 1)), abs=1e-6)


def test_angle_counts_the_short_way_round_and_is_0_for_the_same():
    turn = np.array([0.0, 0.0, 1.0])
    assert rotation_between(3.0 * turn, -3.0 * turn) == pytest.approx(2 * np.pi - 6.0)
    assert rotation_between(0.7 * turn, 0.7 * turn) == pytest.approx(0.0, abs=1e-7)
    for same in np.random.default_rng(1).normal(size=(500, 3)):  # some of these are 1 + 2e-16 alike
        assert rotation_between(same, same) == pytest.approx(0.0, abs=1e-7)
    assert rotation_between(0.0 * turn, 0.5 * turn) == pytest.approx(0.5)
    assert rotation_between(0.0 * turn, 0.0 * turn) == 0.0
    assert rotation_between(0.0 * turn, 1e-9 * turn) == pytest.approx(0.0, abs=1e-7)


@pytest.mark.parametrize(
    ("negative_opens", "ratios"), [(True, [1, 1, 0.75, 0.5, 0, 0]), (False, [0, 0, 0.25, 0.5, 1, 1])]
)
def test_gripper_ratio_is_0_closed_to_1_open_and_held_at_the_ends(negative_opens, ratios):
    found = gripper_ratio(np.array([-7.0, -1.0, -0.5, 0.0, 1.0, 3.0]), negative_opens)
    assert found.tolist() == ratios


def test_row_holds_from_its_begin_until_the_next_and_there_is_none_outside():
    chunk = AdmittedChunk(5.0, 0.25, np.zeros((4, 2)), None, 1.0)
    assert chunk.length_s == 1.0
    times = [-0.01, 0.0, 0.24, 0.25, 0.5, 0.99, 1.0]
    assert [chunk.index_at(time) for time in times] == [None, 0, 0, 1, 2, 3, None]
    assert chunk.index_at(0.25 - 1e-8) == 1, "a clock that is early by rounding"
    assert chunk.index_at(0.25 - 1e-6) == 0


def test_controller_plays_at_full_speed_unless_its_driver_says_otherwise():
    assert Situation(0.0, None).speed_factor == 1.0


def trajectory(velocities=((0.0,), (2.0,), (0.0,)), positions=((0.0,), (1.0,), (1.5,))) -> SafeTrajectory:
    return SafeTrajectory(
        CommandKind.JOINT_TRAJECTORY, ("a",), 10.0, np.array([0.0, 1.0, 1.5]), np.array(velocities, float),
        np.array(positions, float), None, 1.0, seal=_FILTER,
    )  # fmt: skip


def test_curve_between_knots_is_the_cubic_that_meets_places_and_speeds():
    made = trajectory()
    cubic = np.linalg.solve(  # 1, t, t2, t3 at 0 and 1: places 0 and 1, speeds 0 and 2
        np.array([[1, 0, 0, 0], [0, 1, 0, 0], [1, 1, 1, 1], [0, 1, 2, 3]], float), np.array([0, 0, 1, 2], float)
    )
    for t in np.linspace(0, 1, 11):
        place, speed = made.at(10.0 + t)
        assert place == pytest.approx([np.polyval(cubic[::-1], t)], abs=1e-12)
        assert speed == pytest.approx([np.polyval(np.polyder(cubic[::-1]), t)], abs=1e-12)
    place, speed = made.at(11.25)  # half a second long: the speeds count by its length
    assert place == pytest.approx([0.5 * (1.0 + 1.5) + 0.5 * (2.0 - 0.0) / 8.0])
    assert speed == pytest.approx([1.5 * (1.5 - 1.0) / 0.5 - 0.25 * (2.0 + 0.0)])


def test_before_and_after_there_is_rest():
    made = trajectory(velocities=((0.5,), (2.0,), (0.3,)))
    assert made.end_s == 11.5
    for time, place in ((9.0, 0.0), (11.5, 1.5), (12.0, 1.5)):
        assert made.at(time)[0] == pytest.approx([place])
    assert made.at(11.5)[1].tolist() == made.at(20.0)[1].tolist() == [0.0]


def test_one_knot_is_a_place():
    made = SafeTrajectory(
        CommandKind.JOINT_TRAJECTORY, ("a",), 1.0, np.zeros(1), np.zeros((1, 1)), np.full((1, 1), 0.7), None, 0.0,
        seal=_FILTER,
    )  # fmt: skip
    for time in (0.0, 1.0, 2.0):
        place, speed = made.at(time)
        assert (place.tolist(), speed.tolist()) == ([0.7], [0.0])
    assert not made.moves
    assert made.end_s == 1.0


def test_motion_of_any_joint_is_motion_and_its_numbers_are_its_own():
    assert not trajectory(velocities=((0.0,), (0.0,), (0.0,))).moves
    assert trajectory(velocities=((0.0,), (1e-9,), (0.0,))).moves
    values = np.zeros((2, 1))
    made = SafeTrajectory(
        CommandKind.JOINT_TRAJECTORY, ("a",), 0.0, np.arange(2.0), values, values, None, 1.0, values, seal=_FILTER
    )
    values[1] = 9.0
    assert not made.moves, "a copy: whoever made it cannot change it later"
    for name in ("times_s", "velocities", "positions", "accelerations"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(made, name)[0] = 1.0


@pytest.mark.parametrize("name", ["times_s", "velocities", "positions", "accelerations"])
def test_not_even_the_filter_can_release_what_is_not_finite(name):
    given = dict.fromkeys(("velocities", "positions", "accelerations"), np.zeros((2, 1))) | {"times_s": np.arange(2.0)}
    spoiled = given[name].copy()
    spoiled[-1] = np.inf
    given[name] = spoiled
    with pytest.raises(ContractError, match=f"{name}: found values that are not finite"):
        SafeTrajectory(CommandKind.JOINT_TRAJECTORY, ("a",), 0.0, gripper=None, scale=1.0, seal=_FILTER, **given)


def test_a_twist_has_no_places():
    made = SafeTrajectory(CommandKind.TWIST, ("x",), 0.0, np.zeros(1), np.ones((1, 1)), None, None, 1.0, seal=_FILTER)
    assert made.moves
    with pytest.raises(ContractError, match="no positions"):
        made.at(0.0)
