# SPDX-License-Identifier: Apache-2.0
"""Curves of constant jerk: each piece is its Taylor polynomial, and no operation changes the motion but as it says."""

from __future__ import annotations

import numpy as np
import pytest

from runtime.safety.curve import Curve, of_jerks, resting
from runtime.safety.profiles import SPARE, StopPlanner

RATE, JERK = np.array([3.0, 2.0, 1.0]), np.array([30.0, 20.0, 10.0])


def wild(seed: int = 0, pieces: int = 6) -> Curve:
    rng = np.random.default_rng(seed)
    return of_jerks(2.0, tuple(rng.normal(size=(3, 2))), rng.uniform(0.01, 0.3, pieces), rng.normal(size=(pieces, 2)))


def agree(found, wanted, tolerance: float = 1e-11) -> None:
    for a, b in zip(found, wanted, strict=True):
        assert a == pytest.approx(b, abs=tolerance)


def test_each_piece_is_the_taylor_polynomial_of_its_own_knot():
    curve = wild()
    for k in range(6):
        p, v, a, j = curve.positions[k], curve.velocities[k], curve.accelerations[k], curve.jerks()[k]
        for t in np.linspace(0.0, curve.times[k + 1] - curve.times[k], 5):
            found = curve.at(curve.times[k] + t)
            assert [x.shape for x in found] == [(1, 2)] * 3
            agree([x[0] for x in found], [p + v * t + a * t**2 / 2 + j * t**3 / 6, v + a * t + j * t**2 / 2, a + j * t])


def test_jerks_are_given_and_found_again():
    rng = np.random.default_rng(1)
    spans, jerks = rng.uniform(0.1, 0.3, 4), rng.normal(size=(4, 3))
    curve = of_jerks(5.0, tuple(np.ones((3, 3))), spans, jerks)
    assert curve.jerks() == pytest.approx(jerks)
    assert curve.times == pytest.approx(5.0 + np.append(0.0, np.cumsum(spans)))
    assert (curve.start_s, curve.end_s) == (5.0, pytest.approx(5.0 + spans.sum()))


def test_beyond_its_ends_a_curve_stays_at_them():
    curve = wild()
    agree(curve.at(np.array([-1.0, 2.0])), [np.tile(x[0], (2, 1)) for x in curve._arrays])
    agree(curve.at(np.array([curve.end_s, 99.0])), [np.tile(x[-1], (2, 1)) for x in curve._arrays])
    one = Curve(np.ones(1), *np.arange(6.0).reshape(3, 1, 2))
    agree(one.at(np.array([0.0, 1.0, 2.0])), [np.tile(x, (3, 1)) for x in one._arrays])


def test_a_time_within_a_millisecond_of_a_knot_is_that_knot():
    curve = wild()
    for knot in curve.times:
        for off in (-0.9e-3, 0.0, 0.9e-3):
            assert curve.snap(knot + off) == knot
        for off in (-1.1e-3, 1.1e-3):
            assert curve.snap(knot + off) == knot + off


def test_a_cut_has_the_knots_between_its_ends_and_the_motion_there():
    curve = wild()
    start, end = curve.times[1] + 0.004, curve.times[4] - 0.004
    part = curve.cut(start, end)
    assert part.times == pytest.approx([start, *curve.times[2:4], end])
    times = np.linspace(start, end, 40)
    agree(part.at(times), curve.at(times))
    assert curve.cut(curve.times[1] + 0.9e-3, curve.times[3] - 0.9e-3).times == pytest.approx(curve.times[1:4])


def test_a_cut_that_ends_with_the_curve_ends_exactly_as_the_curve():
    curve = wild().at_rest()
    for end in (curve.end_s, curve.end_s - 0.5e-3, curve.end_s + 1.0):
        part = curve.cut(curve.times[2], end)
        assert not part.velocities[-1].any()
        assert part.positions[-1].tolist() == curve.positions[-1].tolist()
    before = curve.cut(curve.times[2], curve.end_s - 2e-3)
    assert before.velocities[-1].any()


def test_nothing_is_left_of_a_cut_that_ends_before_it_begins():
    curve = wild()
    assert len(curve.since(curve.end_s, curve.end_s).times) == 1
    for start, end in ((2.3, 2.3), (2.4, 2.3), (curve.times[1], curve.times[1] + 0.9e-3)):
        part = curve.cut(start, end)
        assert len(part.times) == 1
        agree(part.at(0.0), curve.at(part.times))


def test_slowed_speeds_and_accelerations_are_those_of_the_slower_motion():
    curve = wild()
    slow = curve.slowed(0.5, 7.0, 2.1)
    times = np.linspace(2.0, curve.end_s, 30)
    p, v, a = curve.at(times)
    agree(slow.at(7.0 + (times - 2.1) / 0.5), (p, 0.5 * v, 0.25 * a))
    assert slow.jerks() == pytest.approx(0.125 * curve.jerks())


def test_moved_and_joined_are_the_same_motion():
    curve, times = wild(), np.linspace(2.0, wild().end_s, 30)
    agree(curve.moved(3.0).at(times + 3.0), curve.at(times))
    whole = curve.cut(2.0, 2.25).joined(curve.cut(2.25, curve.end_s))
    agree(whole.at(times), curve.at(times))
    assert np.all(np.diff(whole.times) > 0)


def test_rest_is_painted_on_the_end_alone_and_the_curve_itself_stays():
    curve = wild()
    rest = curve.at_rest()
    assert not rest.velocities[-1].any()
    assert not rest.accelerations[-1].any()
    agree([x[:-1] for x in rest._arrays], [x[:-1] for x in curve._arrays])
    assert rest.positions[-1] == pytest.approx(curve.positions[-1])
    assert curve.velocities[-1].all()


@pytest.mark.parametrize("origin", [0.0, 2.0 - 1e-10, 1.7])
def test_a_message_says_the_state_at_its_own_whole_nanoseconds(origin):
    curve = wild()
    said = curve.rounded(origin)
    ticks = (said.times - origin) / 1e-9
    assert ticks == pytest.approx(np.round(ticks), abs=1e-4)
    assert np.abs(said.times - curve.times).max() <= 1.01e-9
    assert said.times[0] >= curve.times[0] - 1e-15
    agree([x[:-1] for x in said._arrays], [x[:-1] for x in curve.at(said.times)], 1e-15)
    agree([x[-1] for x in said._arrays], [x[-1] for x in curve._arrays], 0.0)


def test_nothing_moves_while_resting():
    rest = resting(np.array([0.1, 0.2]), 3.0, 0.5)
    assert rest.times.tolist() == [3.0, 3.5]
    for time in (3.0, 3.2, 3.5):
        place, speed, rate = rest.at(time)
        assert place.tolist() == [[0.1, 0.2]]
        assert not speed.any()
        assert not rate.any()


# ---- stops ----------------------------------------------------------------------------------------------------------


def stop(velocity, acceleration=(0.0, 0.0, 0.0)) -> Curve:
    found = StopPlanner(RATE, JERK).stop(1.0, (np.zeros(3), np.array(velocity, float), np.array(acceleration, float)))
    assert found is not None
    return found


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_a_long_stop_is_as_short_as_its_limits_allow(sign):
    """From v with a and j: v/a + a/j, of the slowest joint."""
    found = stop((sign * 0.9, 0.0, sign * 0.6))
    slowest = max(v / (SPARE * a) + a / j for v, a, j in ((0.9, 3.0, 30.0), (0.6, 1.0, 10.0)))
    assert found.end_s - 1.0 == pytest.approx(slowest, rel=1e-6)
    assert 0.02 / 1.1 <= np.diff(found.times).max() <= 0.02 + 1e-9
    assert len(found.times) % 2 == 1, "two halves"
    assert np.diff(found.times) == pytest.approx(np.full(len(found.times) - 1, slowest / (len(found.times) - 1)))


def test_a_stop_of_medium_length_still_has_sixteen_pieces():
    found = stop((0.02, 0.0, 0.0))
    assert 0.032 < found.end_s - 1.0 < 0.32
    assert len(found.times) == 17


def test_a_very_short_stop_has_two_pieces_that_are_not_too_short():
    for size in (1e-8, 1e-6, 1e-4, 1e-3):
        found = stop((size, -size, 0.5 * size), (0.01 * size, 0.0, 0.0))
        assert len(found.times) == 3
        spans = np.diff(found.times)
        assert spans[0] == pytest.approx(spans[1])
        assert 0.002 - 1e-12 <= spans[0] <= 0.05
        assert np.all(np.abs(found.jerks()) <= SPARE * JERK * (1 + 1e-9))
        assert not found.velocities[-1].any()
        led = found.velocities[1] + spans[1] * (found.accelerations[1] + spans[1] * found.jerks()[1] / 2)
        assert np.abs(led).max() < 1e-12


def test_a_very_short_stop_is_hardly_longer_than_it_must_be():
    """Two pieces of jerk j take the speed v back in 2 sqrt(v / j); the search for them steps by a quarter."""
    for size in (1e-3, 3e-3):
        least = max(0.004, 2.0 * (size / (SPARE * 30.0)) ** 0.5)
        assert least * (1 - 1e-9) <= stop((size, 0.0, 0.0)).end_s - 1.0 <= 1.26 * least


def test_what_barely_moves_is_stopped_and_what_does_not_is_at_rest():
    assert len(stop((2e-9, 0.0, 0.0)).times) > 1
    assert len(stop((0.0, 0.0, 0.0), (0.0, 0.0, 2e-9)).times) > 1
    rest = stop((0.5e-9, 0.0, 0.0), (0.0, -0.5e-9, 0.0))
    assert rest.times.tolist() == [1.0]
    assert not rest.velocities.any()
    assert not rest.accelerations.any()
    assert rest.positions.tolist() == [[0.0, 0.0, 0.0]]
    assert rest.velocities.shape == rest.accelerations.shape == (1, 3)


def test_what_ruckig_refuses_has_no_stop():
    class Refuses:
        def calculate(self, ask, result):
            return "error"

    planner = StopPlanner(RATE, JERK)
    planner._planner = Refuses()
    assert planner.stop(0.0, (np.zeros(3), np.ones(3), np.zeros(3))) is None
