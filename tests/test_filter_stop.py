# SPDX-License-Identifier: Apache-2.0
"""A stop ends at rest in time, within its limits, and every controller plays exactly what was planned."""

import numpy as np
import pytest

from runtime.errors import ContractError
from runtime.safety import profiles
from runtime.safety.curve import Curve, of_jerks
from runtime.safety.profiles import SPARE, StopPlanner
from runtime.safety.trajectory import hermite

RATE = np.array([3.75, 1.875, 2.5, 3.125, 3.75, 5.0, 5.0])
JERK = 10.0 * RATE
SPEED = np.array([0.54, 0.54, 0.54, 0.54, 0.65, 0.65, 0.65])


def states(count: int):
    """Speeds and accelerations of all sizes, some joints at rest."""
    rng = np.random.default_rng(7)
    for _ in range(count):
        size = 10.0 ** rng.uniform(-6, 0, 2)
        speed = rng.uniform(-1, 1, 7) * SPEED * size[0] * (rng.random(7) < 0.8)
        rate = rng.uniform(-0.94, 0.94, 7) * RATE * size[1] * (rng.random(7) < 0.8)
        yield rng.uniform(-2, 2, 7), speed, rate


def bound(speed: np.ndarray, rate: np.ndarray) -> float:
    """Take the acceleration back, then v/a + a/j from the speed that this leaves; at least what two pieces need."""
    a, j = SPARE * RATE, SPARE * JERK
    peak = np.abs(speed) + rate**2 / (2 * j)
    return max(0.15, float(np.max(np.abs(rate) / j) + np.max(peak / a) + np.max(a / j)))


def test_a_stop_ends_at_rest_within_its_bound_and_limits():
    planner = StopPlanner(RATE, JERK)
    for state in states(300):
        curve = planner.stop(3.0, state)
        assert curve is not None
        assert not curve.velocities[-1].any()
        assert not curve.accelerations[-1].any()
        assert curve.end_s - 3.0 <= bound(*state[1:]) + 1e-9
        if len(curve.times) > 1:
            assert np.all(np.abs(curve.jerks()) <= JERK * 0.99)
            assert np.all(np.abs(curve.accelerations) <= RATE * 0.99)
            assert np.diff(curve.times).min() >= 1e-3


def test_the_zero_at_the_end_is_where_the_motion_leads_not_painted_on():
    planner = StopPlanner(RATE, JERK)
    for state in states(100):
        curve = planner.stop(0.0, state)
        if len(curve.times) < 2:
            continue
        span, jerk = np.diff(curve.times)[-1], curve.jerks()[-1]
        led = curve.velocities[-2] + span * (curve.accelerations[-2] + span * jerk / 2)
        assert np.abs(led).max() < 1e-12


def quintic(t0, t1, start, end, t):
    """Solved from its six conditions, not from anybody's formula."""
    rows = [[0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 1, 0], [0, 0, 0, 2, 0, 0]]
    h = t1 - t0
    rows += [
        [h**5, h**4, h**3, h**2, h, 1],
        [5 * h**4, 4 * h**3, 3 * h**2, 2 * h, 1, 0],
        [20 * h**3, 12 * h**2, 6 * h, 2, 0, 0],
    ]
    return np.polyval(np.linalg.solve(np.array(rows, float), np.array([*start, *end])), t - t0)


def test_a_controllers_cubic_and_its_quintic_are_the_planned_curve():
    state = (np.array([0.3]), np.array([0.4]), np.array([-0.2]))
    curve = of_jerks(0.0, state, np.array([0.05, 0.02, 0.1]), np.array([[5.0], [-8.0], [2.0]]))
    for t in np.linspace(0.0, 0.169, 40):
        place, speed, _ = curve.at(t)
        cubic_place, cubic_speed = hermite(curve.times, curve.positions, curve.velocities, t)
        k = int(np.searchsorted(curve.times[1:-1], t, side="right"))
        knots = [[a[i, 0] for a in (curve.positions, curve.velocities, curve.accelerations)] for i in (k, k + 1)]
        assert cubic_place == pytest.approx(place[0], abs=1e-12)
        assert cubic_speed == pytest.approx(speed[0], abs=1e-10)
        assert quintic(curve.times[k], curve.times[k + 1], *knots, t) == pytest.approx(place[0, 0], abs=1e-10)


def test_a_cut_is_the_same_motion_and_never_leaves_a_piece_that_is_too_short():
    rng = np.random.default_rng(3)
    state = tuple(rng.normal(size=(3, 2)))
    curve = of_jerks(1.0, state, np.full(9, 0.02), rng.normal(size=(9, 2)))
    for start, end in ((1.0, 1.18), (1.0205, 1.1), (1.03, 1.0595), (1.05, 1.07)):
        part = curve.cut(start, end)
        assert np.diff(part.times).min() >= 1e-3
        times = np.linspace(part.start_s, part.end_s, 50)
        for found, wanted in zip(part.at(times), curve.at(times), strict=True):
            assert found == pytest.approx(wanted, abs=1e-12)


def test_what_is_left_of_a_curve_begins_at_or_before_now_however_near_a_knot_is():
    rng = np.random.default_rng(5)
    spans = rng.choice([0.001, 0.0015, 0.002, 0.02], 40)
    curve = of_jerks(1.0, tuple(rng.normal(size=(3, 2))), spans, rng.normal(size=(40, 2)))
    near = np.concatenate(
        [curve.times[1:-1] + offset for offset in (-1.1e-3, -1e-3, -4e-4, -1e-9, 0.0, 1e-9, 4e-4, 1e-3)]
    )
    for now in (*near[near > 1.0], *rng.uniform(1.0, curve.end_s, 200)):
        part = curve.since(float(now), curve.end_s)
        assert now - 2.1e-3 < part.start_s <= now
        assert np.diff(part.times).min() >= 1e-3 - 1e-9
        times = np.linspace(part.start_s, part.end_s, 50)
        for found, wanted in zip(part.at(times), curve.at(times), strict=True):
            assert found == pytest.approx(wanted, abs=1e-9)


def test_slowing_a_curve_leaves_its_path():
    rng = np.random.default_rng(4)
    curve = of_jerks(0.0, tuple(rng.normal(size=(3, 4))), np.full(5, 0.1), rng.normal(size=(5, 4)))
    slow = curve.slowed(0.25, 7.0, 0.1)
    times = np.linspace(0.1, 0.5, 30)
    assert slow.at(7.0 + (times - 0.1) / 0.25)[0] == pytest.approx(curve.at(times)[0], abs=1e-12)


def test_without_ruckig_there_is_no_joint_command(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ruckig", None)
    with pytest.raises(ContractError, match=r'pip install -e "\.\[control\]"'):
        StopPlanner(RATE, JERK)


def test_rest_needs_no_stop():
    zero = np.zeros(7)
    curve = StopPlanner(RATE, JERK).stop(2.0, (zero, zero, zero))
    assert isinstance(curve, Curve)
    assert len(curve.times) == 1
    assert profiles.SPARE < 1.0
