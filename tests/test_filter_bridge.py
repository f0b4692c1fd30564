# SPDX-License-Identifier: Apache-2.0
"""The way onto a path: within every limit all along, the shortest there is, and with no piece that is too short."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from runtime.safety.bridge import _ALONG, DURATIONS, LOOKS, bridge
from runtime.safety.curve import Curve, of_jerks
from runtime.safety.reference import Reach, gained, path_of, stretch

D = 3
REACH = Reach(np.full(D, -2.0), np.full(D, 2.0), np.full(D, 1.0), np.full(D, 4.0), np.full(D, 40.0))


def wavy(seed: int = 0, rows: int = 40, dt_s: float = 0.05) -> Curve:
    """Slow enough to be reached."""
    rng = np.random.default_rng(seed)
    t = np.arange(1, rows + 1)[:, None] * dt_s
    return path_of(rng.uniform(-1, 1, D) + rng.uniform(0, 0.25, D) * np.sin(rng.uniform(0.3, 1.5, D) * t), dt_s)


def standing(place: float = 0.0) -> Curve:
    """A path that rests."""
    return path_of(np.full((40, D), place), 0.05)


def keeps(way: Curve, reach: Reach = REACH, samples: int = 600) -> bool:
    """Sampled; nothing of the module is used but the curve."""
    p, v, a = way.at(np.linspace(0.0, way.end_s, samples))
    jerk = np.abs(np.diff(way.accelerations, axis=0) / np.diff(way.times)[:, None])
    top = np.maximum(np.abs(v), np.abs(v + a * np.abs(a) / (2 * reach.jerk)))
    slack = 1 + 1e-2  # between the instants that are looked at
    return bool(
        np.all(p >= reach.low - 1e-3) and np.all(p <= reach.high + 1e-3) and np.all(top <= reach.speed * slack)
        and np.all(np.abs(a) <= reach.rate * slack) and np.all(jerk <= reach.jerk * (1 + 1e-9))
    )  # fmt: skip


def forced(state, path: Curve, from_s: float, rate: float, duration: float) -> Curve:
    """Three equal pieces of constant jerk that meet the path after `duration`: their three conditions, solved."""
    h = duration / 3.0
    p1, v1, a1 = (x[0] for x in path.at(from_s + rate * duration))
    if from_s + rate * duration >= path.end_s:
        v1, a1 = 0.0 * v1, 0.0 * a1
    columns = []
    for k in range(3):
        jerk = np.eye(3)[k][:, None] * np.ones(D)
        end = of_jerks(0.0, (np.zeros(D),) * 3, np.full(3, h), jerk)
        columns.append([end.positions[-1, 0], end.velocities[-1, 0], end.accelerations[-1, 0]])
    p0, v0, a0 = state
    wanted = [p1 - p0 - duration * v0 - duration**2 * a0 / 2, rate * v1 - v0 - duration * a0, rate**2 * a1 - a0]
    return of_jerks(0.0, state, np.full(3, h), np.linalg.solve(np.array(columns).T, np.array(wanted)))


def cases(count: int):
    rng = np.random.default_rng(5)
    for seed in range(count):
        path, rate = wavy(seed), float(rng.choice([1.0, 0.6, 0.3, 0.12]))
        from_s = float(rng.uniform(0, 1.9))
        p, v, a = (x[0] for x in path.at(from_s))
        size = 10.0 ** rng.uniform(-3, -0.3)
        state = tuple(x + size * rng.normal(size=D) for x in (p, v, a))
        yield state, path, from_s, rate


def test_the_way_is_the_shortest_of_the_durations_and_keeps_every_limit_all_along():
    found = set()
    for state, path, from_s, rate in cases(150):
        way = bridge(state, path, from_s, rate, REACH)
        longest = DURATIONS[-1] if way is None else way.end_s - 0.01  # its end may have been moved to a knot
        for duration in DURATIONS[longest > DURATIONS]:
            assert not keeps(forced(state, path, from_s, rate, duration), shrunk(0.98)), f"{duration} s would have done"
        if way is None:
            continue
        assert keeps(way)
        assert len(way.times) == 4
        assert np.diff(way.times) == pytest.approx(np.full(3, way.end_s / 3.0))
        same = forced(state, path, from_s, rate, way.end_s)
        assert way.positions == pytest.approx(same.positions, abs=1e-9)
        assert way.velocities == pytest.approx(same.velocities, abs=1e-8)
        found.add(round(way.end_s, 1))
    assert len(found) >= 5, "ways of many lengths"


def test_a_way_is_looked_at_along_itself_and_at_its_end():
    """Position, speed and acceleration at 24 instants, from what the way is made of."""
    rng = np.random.default_rng(2)
    for total in (0.06, 0.7, 3.0):
        state, jerks = tuple(rng.normal(size=(3, D))), rng.normal(size=(3, D))
        made_of = np.stack([state[0], state[1] * total, state[2] * total**2, *(jerks * total**3)])
        found = np.tensordot(_ALONG, made_of, 1) / np.array([1.0, total, total**2])[:, None, None]
        way = of_jerks(0.0, state, np.full(3, total / 3.0), jerks)
        for seen, there in zip(found, way.at(total * np.arange(1, LOOKS + 1) / LOOKS), strict=True):
            assert seen == pytest.approx(there, abs=1e-9)


def shrunk(share: float) -> Reach:
    return replace(REACH.scaled(share, share, share), low=REACH.low + 0.002, high=REACH.high - 0.002)


def test_a_way_ends_on_a_knot_or_well_beside_it():
    """So that the piece of the path that follows it is not shorter than a millisecond."""
    path = wavy(1)
    for from_s in np.linspace(0.0, 1.5, 400):
        state = tuple(x[0] for x in path.at(from_s))
        for rate in (1.0, 0.12):
            way = bridge(state, path, from_s, rate, REACH)
            ends = from_s + rate * way.end_s
            beside = np.abs(path.times - ends).min()
            assert beside < 1e-9 or beside >= 1e-3, (from_s, rate)


def test_a_slow_way_takes_long_enough_for_three_pieces_of_path():
    path = wavy(2)
    state = tuple(x[0] for x in path.at(0.51))
    assert bridge((state[0], 0.01 * state[1], 1e-4 * state[2]), path, 0.51, 0.01, REACH).end_s >= 0.003 / 0.01 - 1e-9


@pytest.mark.parametrize("from_s", [1.95, 1.999, 2.0, 2.5])
def test_beyond_its_end_the_path_rests_where_it_ends(from_s):
    path = wavy(3)
    assert np.abs(path.velocities[-1]).max() > 1e-3
    way = bridge((path.positions[-1] - 1e-3, 0.0 * np.zeros(D), np.zeros(D)), path, from_s, 1.0, REACH)
    if from_s + way.end_s > path.end_s - 1e-3:
        assert way.positions[-1] == pytest.approx(path.positions[-1])
        assert np.abs(way.velocities[-1]).max() < 1e-12
        assert np.abs(way.accelerations[-1]).max() < 1e-12


@pytest.mark.parametrize(("name", "at"), [("low", -0.5), ("high", 0.5)])
def test_a_range_is_not_left_on_the_way_even_where_both_ends_are_inside(name, at):
    sign = np.sign(at)
    state = (np.full(D, at - sign * 0.02), np.full(D, sign * 0.3), np.zeros(D))  # towards the edge
    free = bridge(state, standing(at - sign * 0.02), 0.0, 1.0, REACH)
    assert (sign * free.at(np.linspace(0, free.end_s, 99))[0]).max() > abs(at)
    edge = replace(REACH, **{name: np.full(D, at)})
    way = bridge(state, standing(at - sign * 0.02), 0.0, 1.0, edge)
    assert way is None or keeps(way, edge)


def test_one_joint_that_cannot_is_enough():
    state = (np.zeros(D), np.zeros(D), np.zeros(D))
    assert bridge(state, standing(0.001), 0.0, 1.0, REACH) is not None
    for name, value in (("speed", 1e-4), ("rate", 1e-4), ("jerk", 1e-4), ("high", 5e-4)):
        tight = getattr(REACH, name).copy()
        tight[1] = value
        assert bridge(state, standing(0.001), 0.0, 1.0, replace(REACH, **{name: tight})) is None, name


# ---- how much a path must be slowed ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["speed", "rate", "jerk"])
def test_slowing_is_the_least_that_keeps_the_limit(name):
    """Found again by bisection over slowed paths, each limit alone. Speeds are looked at twice a row: smooth rows."""
    for seed in range(6):
        rng = np.random.default_rng(seed)
        rows = rng.uniform(0.3, 0.6, D) * np.sin(
            rng.uniform(0.15, 0.3, D) * np.arange(30)[:, None] + rng.normal(size=D)
        )
        if name != "speed":
            rows += 0.05 * rng.normal(size=rows.shape)
        free = {key: np.full(D, 1e9) for key in ("speed", "rate", "jerk")}
        free[name] = np.array([1.0, 2.0, 1.5]) * {"speed": 0.2, "rate": 1.0, "jerk": 20.0}[name]
        reach = Reach(np.full(D, -1e9), np.full(D, 1e9), **free)
        slow, fast = 1.0, 100.0
        while fast - slow > 1e-7:
            middle = (slow + fast) / 2
            slow, fast = (slow, middle) if allowed(path_of(rows, 0.05 * middle), reach) else (middle, fast)
        assert fast > 1.5
        assert stretch(path_of(rows, 0.05), reach) == pytest.approx(fast, rel=1e-3)


def allowed(path: Curve, reach: Reach) -> bool:
    times = np.sort(np.append(path.times, np.linspace(0, path.end_s, 500)))
    (_, v, a), j = path.at(times), path.jerks()
    return bool(
        np.all(np.abs(v) <= reach.speed) and np.all(np.abs(a) <= reach.rate) and np.all(np.abs(j) <= reach.jerk)
    )


def test_slowing_for_one_limit_counts_for_the_others():
    """Where acceleration or jerk ask for more than the speed does, the speed asks for nothing on top."""
    for seed in range(30):
        rng = np.random.default_rng(seed)
        rows = rng.uniform(0.2, 0.9, D) * np.sin(rng.uniform(0.1, 0.5, D) * np.arange(30)[:, None] + rng.normal(size=D))
        rows += 10.0 ** rng.uniform(-4, -1.5) * rng.normal(size=rows.shape)
        slower = stretch(path_of(rows, 0.05), REACH)
        slow = path_of(rows, 0.05 * slower)
        times = np.sort(np.append(slow.times, (slow.times[1:] + slow.times[:-1]) / 2.0))
        _, v, a = slow.at(times)
        shares = [
            np.abs(slow.jerks() / REACH.jerk).max(), np.abs(slow.accelerations / REACH.rate).max(),
            (gained(v, a, REACH.jerk) / REACH.speed).max(),
        ]  # fmt: skip
        assert max(shares) <= 1 + 1e-9
        assert slower == 1.0 or max(shares) > 0.9, shares


def test_shares_of_limits_are_of_each_its_own_and_the_range_stays():
    half = REACH.scaled(0.5, 0.25, 0.1)
    assert (half.low.tolist(), half.high.tolist()) == (REACH.low.tolist(), REACH.high.tolist())
    assert half.speed == pytest.approx(0.5 * REACH.speed)
    assert half.rate == pytest.approx(0.25 * REACH.rate)
    assert half.jerk == pytest.approx(0.1 * REACH.jerk)


def test_what_rests_is_not_slowed_however_low_the_limits():
    low = REACH.scaled(1e-3, 1e-3, 1e-4)
    assert stretch(standing(), low) == 1.0
    assert stretch(path_of(np.zeros((1, D)), 0.05), low) == 1.0


def test_a_path_within_its_limits_is_not_slowed():
    path = wavy(1)
    assert stretch(path, REACH) == 1.0
    assert stretch(path_of(np.zeros((1, D)), 0.05), REACH) == 1.0


def test_speed_counts_with_what_it_gains_while_the_acceleration_is_taken_back():
    """Speeding up at a: v + a^2 / 2j is what is reached; slowing down, the speed itself or what lies beyond 0."""
    jerk = np.array([10.0])
    for v, a, most in ((1.0, 2.0, 1.2), (-1.0, -2.0, 1.2), (1.0, -2.0, 1.0), (0.1, -4.0, 0.7), (0.0, 0.0, 0.0)):
        assert gained(np.array([v]), np.array([a]), jerk) == pytest.approx([most])


def test_one_row_is_a_place_for_its_time():
    path = path_of(np.array([[0.1, 0.2, 0.3]]), 0.25)
    assert (path.start_s, path.end_s) == (0.0, 0.25)
    for time in (0.0, 0.1, 0.25):
        place, speed, rate = path.at(time)
        assert place[0] == pytest.approx([0.1, 0.2, 0.3])
        assert not speed.any()
        assert not rate.any()


def test_path_begins_before_its_first_row_on_the_line_through_the_first_two():
    path = path_of(np.array([[1.0], [1.5], [2.0], [2.5]]), 0.1)
    assert path.at(np.array([0.0, 0.05, 0.1, 0.4]))[0][:, 0] == pytest.approx([0.5, 0.75, 1.0, 2.5])
    assert path.velocities[:, 0] == pytest.approx(np.full(5, 5.0))
    curved = path_of(np.array([[0.0], [0.1], [0.4], [0.9]]), 0.1)
    for k in (0, 1):
        assert curved.velocities[k] == pytest.approx([1.0])
        assert curved.accelerations[k] == pytest.approx([0.0], abs=1e-9)
    assert curved.positions[:2, 0] == pytest.approx([-0.1, 0.0])
    bent = path_of(np.array([[0.0], [0.0], [1.0], [1.0]]), 0.1)
    assert bent.positions[0] == pytest.approx([0.0])
    assert bent.positions[-1] == pytest.approx([1.0])
