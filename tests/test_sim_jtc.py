# SPDX-License-Identifier: Apache-2.0
"""The simulated joint trajectory controller keeps the rules that were read in ros2_controllers, the unpleasant ones
too."""

from __future__ import annotations

import numpy as np
import pytest
from dropgate_sim.jtc import JointTrajectoryController, JtcSettings, Trajectory, TrajectoryRefused
from dropgate_sim.jtc_spline import Point, interpolate
from hypothesis import given, settings
from hypothesis import strategies as st

MS, S = 1_000_000, 1_000_000_000
NAMES, START = ("a", "b"), 10 * S


def points(*rows, velocities=True, accelerations=False):
    """(milliseconds, position of a, velocity of a) -> points; b does the opposite."""
    return tuple(
        Point(
            int(t * MS), np.array([p, -p]), np.array([v, -v]) if velocities else None,
            np.zeros(2) if accelerations else None,
        )
        for t, p, v in rows
    )  # fmt: skip


def controller(**changes) -> JointTrajectoryController:
    made = JointTrajectoryController(NAMES, JtcSettings(**{"interpolate_from_desired_state": True, **changes}))
    made.activate(np.zeros(2))
    return made


def play(jtc, cycles, start_ns=START, measured=None):
    """Positions of joint a that the hardware is told in `cycles` of 2 ms from `start_ns` on."""
    found = []
    for k in range(cycles):
        at = np.zeros(2) if measured is None else measured
        found.append(jtc.update(start_ns + 2 * MS * k, at).positions[0])
    return np.array(found)


def test_degree_follows_from_what_the_points_carry():
    one, two = points((0, 0.0, 0.0), (100, 1.0, 0.0))
    line = [Point(p.time_ns, p.positions) for p in (one, two)]
    rest = [Point(p.time_ns, p.positions, p.velocities, np.zeros(2)) for p in (one, two)]

    def quarter(a, b):
        found = interpolate(a, 0, b, 100 * MS, 25 * MS)
        return found.positions[0], found.velocities[0]

    u = 0.25
    assert quarter(*line) == pytest.approx((u, 10.0))
    assert quarter(one, two) == pytest.approx((3 * u**2 - 2 * u**3, (6 * u - 6 * u**2) / 0.1))
    assert quarter(*rest) == pytest.approx(
        (10 * u**3 - 15 * u**4 + 6 * u**5, (30 * u**2 - 60 * u**3 + 30 * u**4) / 0.1)
    )
    assert quarter(line[0], two) == pytest.approx((u, 10.0)), "one point without velocities makes a line"


@given(st.lists(st.floats(-3, 3), min_size=6, max_size=6), st.floats(0.01, 2.0), st.floats(0.0, 1.0))
@settings(max_examples=60, deadline=None)
def test_quintic_meets_its_ends_and_its_derivatives_agree(values, span, share):
    p0, v0, a0, p1, v1, a1 = (np.array([value]) for value in values)
    end = int(span * S)
    one, two = Point(0, p0, v0, a0), Point(0, p1, v1, a1)
    for time, want in ((0, (p0, v0, a0)), (end, (p1, v1, a1))):
        found = interpolate(one, 0, two, end, time)
        got = (found.positions, found.velocities, found.accelerations)
        assert np.allclose(got, want, rtol=1e-5, atol=1e-4 / min(span, 1.0) ** 2)
    middle, h = int(share * end), max(2, end // 2000)
    middle = min(max(middle, h), end - h)
    left, here, right = (interpolate(one, 0, two, end, t) for t in (middle - h, middle, middle + h))
    slope = (right.positions - left.positions) / (2 * h * 1e-9)
    assert np.allclose(here.velocities, slope, rtol=1e-2, atol=1e-2 * max(1.0, float(np.abs(slope).max())) + 0.5)


def test_joints_are_sorted_by_name_not_by_index():
    jtc = controller()
    swapped = tuple(
        Point(p.time_ns, p.positions[::-1], p.velocities[::-1]) for p in points((100, 0.3, 0.0), (200, 0.5, 0.0))
    )
    jtc.accept(Trajectory(("b", "a"), swapped), START)
    assert play(jtc, 110)[-1] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("trajectory", "word"),
    [
        (Trajectory(("a", "c"), points((100, 0.1, 0.0))), "joints are"),
        (Trajectory(("a",), (Point(MS, np.zeros(1)),)), "joints are"),
        (Trajectory(NAMES, ()), "no points"),
        (Trajectory(NAMES, points((100, 0.1, 0.2))), "expected rest"),
        (Trajectory(NAMES, points((100, 0.1, 0.0), (100, 0.2, 0.0))), "not after"),
        (Trajectory(NAMES, points((100, 0.1, 0.0)), START - 101 * MS), "ended"),
        (Trajectory(NAMES, (Point(MS, np.zeros(3)),)), "3 positions"),
        (Trajectory(NAMES, (Point(MS, np.zeros(2), np.zeros(1)),)), "1 velocities"),
    ],
)
def test_what_the_original_refuses_is_refused_and_the_old_motion_goes_on(trajectory, word):
    jtc = controller()
    jtc.accept(Trajectory(NAMES, points((100, 1.0, 0.0))), START)
    play(jtc, 10)
    with pytest.raises(TrajectoryRefused, match=word):
        jtc.accept(trajectory, START)
    assert play(jtc, 60, START + 20 * MS)[-1] == pytest.approx(1.0)


def test_nan_and_any_distance_pass_as_in_the_original():
    jtc = controller()
    jtc.accept(Trajectory(NAMES, points((100, np.nan, np.nan))), START)
    assert np.isnan(play(jtc, 5)[-1])
    jtc = controller()
    jtc.accept(Trajectory(NAMES, points((2, 50.0, 0.0))), START)
    assert play(jtc, 3)[-1] == 50.0


def test_points_that_are_past_are_not_played_and_the_rest_is_on_time():
    jtc = controller(interpolate_from_desired_state=False)
    rows = points((100, 0.1, 1.0), (200, 0.2, 1.0), (300, 0.3, 0.0))
    jtc.accept(Trajectory(NAMES, rows, START - 150 * MS), START)
    found = play(jtc, 2, measured=np.zeros(2))
    assert found[0] == pytest.approx(0.152), "between the first and the second point, wherever the arm is"


def test_replacement_begins_where_the_last_command_led_or_where_the_arm_is_measured():
    lag = np.array([0.4, -0.4])
    for desired in (True, False):
        jtc = controller(interpolate_from_desired_state=desired)
        jtc.accept(Trajectory(NAMES, points((1000, 1.0, 0.0))), START)
        before = play(jtc, 250, measured=lag)[-1]
        jtc.accept(Trajectory(NAMES, points((1000, 1.0, 0.0)), START + 500 * MS), START + 500 * MS)
        after = play(jtc, 1, START + 500 * MS, measured=lag)[0]
        jump = abs(after - before)
        assert bool(jump < 0.007) is desired, jump


def test_after_the_last_point_it_is_held_for_ever_unless_a_timeout_is_set():
    jtc = controller()
    jtc.accept(Trajectory(NAMES, points((10, 0.1, 0.0))), START)
    assert play(jtc, 1000, measured=np.full(2, 0.09))[-1] == pytest.approx(0.1)
    assert not jtc.holding
    jtc = controller(cmd_timeout_s=0.2)
    jtc.accept(Trajectory(NAMES, points((10, 0.1, 0.0))), START)
    held = play(jtc, 200, measured=np.full(2, 0.09))
    assert held[100] == pytest.approx(0.1)
    assert held[-1] == pytest.approx(0.09), "where the arm is measured, at once"
    assert jtc.holding


def test_scaling_slows_the_trajectorys_own_time():
    ways = {}
    for factor in (1.0, 0.5, 0.0):
        jtc = controller()
        jtc.set_scaling(factor)
        jtc.accept(Trajectory(NAMES, points((0, 0.0, 1.0), (1000, 1.0, 1.0), (1001, 1.001, 0.0))), START)
        ways[factor] = play(jtc, 101)[-1]
    assert ways[1.0] == pytest.approx(0.202, abs=1e-9)
    assert ways[0.5] == pytest.approx(0.102, abs=1e-9)
    assert ways[0.0] == pytest.approx(0.002, abs=1e-9), "the command of one whole cycle, as the original samples it"


def test_a_stamp_in_the_future_keeps_the_old_motion_only_with_replacement():
    found = {}
    for keeps in (True, False):
        jtc = controller(allow_trajectory_replacement=keeps)
        jtc.accept(Trajectory(NAMES, points((500, 0.5, 1.0), (1000, 1.0, 0.0))), START)
        play(jtc, 100)
        new = Trajectory(NAMES, points((100, 0.4, 0.0)), START + 400 * MS)
        jtc.accept(new, START + 200 * MS)
        found[keeps] = play(jtc, 160, START + 200 * MS)
    alone = controller()
    alone.accept(Trajectory(NAMES, points((500, 0.5, 1.0), (1000, 1.0, 0.0))), START)
    old = play(alone, 200)[100:]
    lead = 0.003  # a cycle's way: the original gives the last command the time of the cycle before
    assert np.abs(found[True][:98] - old[:98]).max() < lead
    assert np.abs(found[False][:98] - old[:98]).max() > 5 * lead
    for curve in found.values():
        assert curve[-1] == pytest.approx(0.4)
        assert np.abs(np.diff(curve)).max() < 0.01


def test_a_stamp_in_the_past_is_played_late_by_the_newest_branch_and_on_time_by_the_others():
    """blend_with_active_trajectory takes a past stamp for now: who streams by absolute time must not use it."""
    found = {}
    for keeps in (True, False):
        jtc = controller(allow_trajectory_replacement=keeps)
        jtc.accept(Trajectory(NAMES, points((500, 0.5, 1.0), (1000, 1.0, 0.0))), START)
        play(jtc, 100)
        rows = points((100, 0.25, 1.0), (200, 0.35, 1.0), (300, 0.4, 0.0))
        jtc.accept(Trajectory(NAMES, rows, START + 100 * MS), START + 200 * MS)
        found[keeps] = play(jtc, 51, START + 200 * MS)[-1]
    assert found[False] == pytest.approx(0.352, abs=2e-3)
    assert found[True] == pytest.approx(0.25, abs=5e-3)
