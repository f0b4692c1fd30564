# SPDX-License-Identifier: Apache-2.0
"""Whatever is handed over, nothing that the controller plays breaks a limit; filters that are known to be bad do.

`benchmarks/filter_property.py` runs the same episodes a million samples long.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from arm_models import seven, six
from filter_world import Cell, Controller500, episode, joint_spec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.contract.chunk import ActionChunk
from runtime.errors import ContractError
from runtime.safety.filter import SafetyFilter
from runtime.safety.limits import Timing
from runtime.safety.motion import AdmittedChunk
from runtime.safety.stream import PositionStream

ARM = seven()
SPEC = joint_spec(ARM)
DT = SPEC.dt_s


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(1000, 2**31), st.sampled_from([six, seven]))
def test_whatever_is_asked_every_limit_holds_and_the_arm_comes_to_rest(seed, make):
    arm = make()
    record = episode(np.random.default_rng(seed), Cell(arm, joint_spec(arm)), 60)
    assert not record.breaches(), record.worst
    assert record.counts["trips"] == 0
    assert record.counts["a way of its own"] == 0  # the first point of a message is never later than now
    assert record.rest_after < 1.35


def smooth(cell: Cell, age_s: float = 0.0) -> ActionChunk:
    """All joints move along one straight line at a comfortable speed."""
    t = (np.arange(SPEC.horizon)[:, None] + 1.0) * DT - age_s
    rows = ARM.home + np.linspace(0.05, 0.12, 7) * t
    return ActionChunk(rows.astype(np.float32), cell.now - age_s, DT, cell.spec.names)


def drive(made, ticks: int = 60, chunk=smooth, spec=SPEC, age_s: float = 0.0) -> Cell:
    """Tick by tick, then silence."""
    cell = Cell(ARM, spec, made)
    cell.offer(chunk(cell) if age_s == 0.0 else chunk(cell, age_s))
    for _ in range(ticks):
        cell.tick()
        cell.advance(0.02)
    cell.silence()
    return cell


# ---- the properties ----------------------------------------------------------------------------------------------


def keeps_the_limits(made) -> bool:
    """A chunk with one NaN, one with a jump in one joint, one that oscillates."""
    return all(not drive(made, chunk=spoil).record.breaches() for spoil in (_with_nan, _with_jump, _shaking))


def rests_when_the_input_stops(made) -> bool:
    cell = drive(made, ticks=200)  # longer than the chunk
    return not cell.record.samples[-1][1][-1].any() and cell.record.rest_after < 1.35


def goes_by_names(made) -> bool:
    """The policy's joints come in another order; the same motion must come out."""
    mixed = replace(SPEC, dims=SPEC.dims[::-1])

    def reversed_chunk(cell: Cell) -> ActionChunk:
        straight = smooth(cell)
        return ActionChunk(straight.values[:, ::-1], straight.stamp_s, DT, mixed.names)

    return bool(np.allclose(drive(made).place, drive(made, chunk=reversed_chunk, spec=mixed).place, atol=1e-3))


def goes_by_time(made) -> bool:
    """A chunk that comes late is entered where it is now, not where it began."""
    cell = drive(made, ticks=50, age_s=0.3)
    age = 50 * 0.02 + 0.3 - 0.3
    curve = cell.record.curve()[0]
    at = curve[int(1.0 / 0.002) - 1]  # one second after the first command
    return bool(np.abs(at - (ARM.home + np.linspace(0.05, 0.12, 7) * age)).max() < 0.5 * 0.05 * DT)


def stays_on_the_path(made) -> bool:
    """Too fast for one joint: all are slowed, the line through joint space is not left."""

    def fast(cell: Cell) -> ActionChunk:
        t = (np.arange(SPEC.horizon)[:, None] + 1.0) * DT
        speeds = np.array([0.9, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1])
        rows = ARM.home + speeds * np.minimum(t, 0.6)
        return ActionChunk(rows.astype(np.float32), cell.now, DT, SPEC.names)

    cell = drive(made, chunk=fast)
    moved = cell.record.curve()[0] - ARM.home
    return bool(np.abs(moved[:, 1:] - moved[:, :1] / 9.0).max() < 2e-3 and np.abs(moved).max() > 0.05)


def _with_nan(cell: Cell) -> ActionChunk:
    chunk = smooth(cell)
    spoiled = np.array(chunk.values)
    spoiled[7, 2] = np.nan
    object.__setattr__(chunk, "values", spoiled)
    return chunk


def _with_jump(cell: Cell) -> ActionChunk:
    values = np.array(smooth(cell).values)
    values[6:, 3] += 0.2
    return ActionChunk(values, cell.now, DT, SPEC.names)


def _shaking(cell: Cell) -> ActionChunk:
    values = ARM.home + 0.02 * np.where(np.arange(SPEC.horizon)[:, None] % 2, 1.0, -1.0) * np.ones(7)
    return ActionChunk(values.astype(np.float32), cell.now, DT, SPEC.names)


# ---- filters that are known to be bad -----------------------------------------------------------------------------


@dataclass
class Sent:
    """What a bad filter hands over; same fields as SafeTrajectory."""

    times_s: np.ndarray
    positions: np.ndarray
    velocities: np.ndarray
    accelerations: np.ndarray
    scale: float = 1.0


class Follower:
    """Sends the rows that are due as they are: the base of the bad ones."""

    def __init__(self, spec, limits, timing, arm) -> None:
        self.spec, self.limits, self.trips = spec, limits, 0
        self.good = SafetyFilter(spec, limits, timing, arm)
        self.columns = [spec.names.index(name) for name in limits.names]
        self.sent = Controller500(np.zeros(len(limits.names)))

    def rows(self, chunk: ActionChunk) -> np.ndarray:
        return np.asarray(chunk.values, np.float64)[:, self.columns]

    def admit(self, chunk, situation) -> AdmittedChunk:
        return AdmittedChunk(chunk.stamp_s, chunk.dt_s, self.rows(chunk), None, 1.0)

    def command(self, chunk, progress, situation, speed=1.0):
        index = chunk.index_at(progress)
        return self.send(chunk.rows[index : index + 3], situation)

    def send(self, rows, situation):
        here = np.array([situation.held[name] for name in self.limits.names])
        points = np.vstack([here, rows])
        velocities = np.gradient(points, DT, axis=0) if len(points) > 1 else np.zeros_like(points)
        velocities[-1] = 0.0
        times = np.arange(len(points)) * DT
        return Sent(times, points, velocities, np.zeros_like(points))

    def brake(self, situation):
        return None


class ZeroOnNan(Follower):
    def rows(self, chunk):
        return np.nan_to_num(super().rows(chunk), nan=0.0) * (0.0 if np.isnan(chunk.values).any() else 1.0)


class ByIndex(SafetyFilter):
    def admit(self, chunk, situation):
        renamed = replace(self._spec, dims=tuple(sorted(self._spec.dims, key=lambda dim: dim.name)))
        self._spec = renamed
        self._path._rows._columns = list(range(len(renamed.dims)))
        return super().admit(ActionChunk(chunk.values, chunk.stamp_s, chunk.dt_s, renamed.names), situation)


class RepeatLastAction(Follower):
    """Goes on with the last step when nothing is due."""

    def command(self, chunk, progress, situation, speed=1.0):
        here = np.array([situation.held[name] for name in self.limits.names])
        step = chunk.rows[-1] - chunk.rows[-2]
        times = np.arange(2000) * DT
        points = here + np.arange(2000)[:, None] * step
        return Sent(times, points, np.tile(step / DT, (2000, 1)), np.zeros_like(points))


class LatencyOffByOne(SafetyFilter):
    def command(self, chunk, progress, situation, speed=1.0):
        return super().command(chunk, max(0.0, progress - chunk.dt_s), situation, speed)


class ClampOnly(Follower):
    """Each joint on its own is held to its range and its step, and that is all."""

    def send(self, rows, situation):
        here = np.array([situation.held[name] for name in self.limits.names])
        step = np.array(self.limits.velocity) * DT
        held = []
        for row in rows:
            here = np.clip(np.nan_to_num(row), here - step, here + step)
            held.append(np.clip(here, self.limits.low, self.limits.high))
        return super().send(np.array(held), situation)


BAD = {
    "zero on NaN": (ZeroOnNan, keeps_the_limits),
    "joints by index": (ByIndex, goes_by_names),
    "repeats the last action": (RepeatLastAction, rests_when_the_input_stops),
    "latency off by one": (LatencyOffByOne, goes_by_time),
    "clamps only, limits": (ClampOnly, keeps_the_limits),
    "clamps only, path": (ClampOnly, stays_on_the_path),
}


@pytest.mark.parametrize("name", BAD)
def test_a_filter_that_is_known_to_be_bad_fails(name):
    made, keeps = BAD[name]
    assert not keeps(made)


PROPERTIES = (keeps_the_limits, rests_when_the_input_stops, goes_by_names, goes_by_time, stays_on_the_path)


@pytest.mark.parametrize("keeps", PROPERTIES, ids=lambda f: f.__name__)
def test_ours_keeps_what_they_break(keeps):
    assert keeps(SafetyFilter)


def test_the_arm_rests_within_committed_motion_and_a_stop_after_the_last_command():
    timing = Timing()
    a, j, v = (np.array(getattr(ARM.limits, name)) for name in ("acceleration", "jerk", "velocity"))
    bound = timing.commit_s + float((v / a).max() + 2 * (a / j).max()) / 0.95
    assert drive(SafetyFilter, ticks=30).record.rest_after <= bound


def test_scaled_time_is_the_same_motion_played_slower():
    """The controller plays at 40 %: progress, splices and stops stay on the same curve."""
    cell = Cell(ARM, SPEC)
    cell.offer(smooth(cell))
    for _ in range(80):
        cell.tick()
        cell.advance(0.02, 0.4)
    played = cell.played
    path = ARM.home + np.linspace(0.05, 0.12, 7) * played
    assert played == pytest.approx(0.64)
    assert cell.place == pytest.approx(path, abs=2e-3)
    cell.silence()
    assert not cell.record.breaches()
    assert cell.filter.trips == 0


def test_a_clock_that_is_set_ahead_ends_the_commands_and_the_arm_plays_its_stop():
    cell = Cell(ARM, SPEC)
    assert cell.offer(smooth(cell)) == ""
    for _ in range(20):
        cell.tick()
        cell.advance(0.02)
    cell.now += 3.0
    cell.filter.clock_stepped(3.0)
    assert cell.tick(brake=True) is None
    cell.silence()
    assert not cell.record.breaches(), cell.record.worst


def test_a_stop_goes_on_where_the_arm_is_although_the_clock_was_set_back():
    by_s = -3.0
    cell = Cell(ARM, SPEC)
    assert cell.offer(smooth(cell)) == ""
    for _ in range(20):
        cell.tick()
        cell.advance(0.02)
    cell.now += by_s
    cell.filter.clock_stepped(by_s)
    for _ in range(5):
        assert cell.tick(brake=True) is not None
        cell.advance(0.02)
    cell.silence()
    assert not cell.record.breaches(), cell.record.worst
    assert cell.filter.trips == 0


@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_the_last_command_plays_until_its_stop_is_over_in_the_controllers_time(factor):
    cell = Cell(ARM, SPEC)
    assert cell.offer(smooth(cell)) == ""
    for _ in range(20):
        command = cell.tick()
        cell.advance(0.02)
    ticks = 0
    cell.factor = factor
    while cell.filter.playing(cell.situation()):
        cell.advance(0.02, factor)
        ticks += 1
    left = (float(command.times_s[-1]) - 0.02) / factor
    assert ticks == pytest.approx(left / 0.02, abs=1.5)
    assert not cell.filter.playing(cell.situation())
    assert cell.filter.brake(cell.situation()) is None


def test_a_stream_of_positions_is_the_command_and_ends_with_it():
    cell = Cell(ARM, SPEC)
    cell.offer(smooth(cell))
    command = cell.tick()
    stream = PositionStream(250.0)
    assert stream.positions(cell.now, 0.0) is None
    stream.take(command)
    sent = []
    while (place := stream.positions(cell.now + (t := len(sent) * stream.period_s), t)) is not None:
        sent.append(place)
    cell.advance(0.0)
    assert sent[0] == pytest.approx(ARM.home, abs=1e-9)
    assert sent[-1] == pytest.approx(command.positions[-1], abs=1e-9)
    assert np.abs(np.diff(sent, axis=0)).max() <= max(ARM.limits.velocity) * stream.period_s
    with pytest.raises(ContractError, match="at least 125"):
        PositionStream(50.0)


@pytest.mark.parametrize("pause_s", [0.02, 0.15, 2.0])
@pytest.mark.parametrize("when", [5, 52])
def test_a_stream_that_was_kept_waiting_skips_nothing_and_ends_where_the_stop_ends(pause_s, when):
    """In the middle of the motion, and in the stop's last milliseconds."""
    cell = Cell(ARM, SPEC)
    cell.offer(smooth(cell))
    for _ in range(15):  # in motion
        command = cell.tick()
        cell.advance(0.02)
    stream, late, sent = PositionStream(250.0), 0.0, []
    stream.take(command)
    while (place := stream.positions(command.start_s + late, late)) is not None:
        sent.append(place)
        late += pause_s if len(sent) == when else stream.period_s
    assert len(sent) > when
    assert sent[-1] == pytest.approx(command.positions[-1], abs=1e-12)
    fastest = np.abs(command.velocities).max()
    assert np.abs(np.diff(sent, axis=0)).max() <= fastest * 2 * stream.period_s * 1.001


def test_a_stream_that_is_behind_changes_over_where_the_next_command_begins():
    cell = Cell(ARM, SPEC)
    cell.offer(smooth(cell))
    stream, sent, began = PositionStream(250.0), [], cell.now
    for turn in range(75):
        if turn % 5 == 0:
            stream.take(cell.tick())
            cell.advance(0.02)
        if not 40 <= turn < 52:  # 48 ms in which the thread was not scheduled, and commands came all the same
            sent.append(stream.positions(began + turn * stream.period_s, turn * stream.period_s))
    steps = np.linalg.norm(np.diff(sent, axis=0), axis=1)
    assert steps.max() < 2.0 * np.median(steps[-20:])
    while (place := stream.positions(began + (t := (turn := turn + 1) * stream.period_s), t)) is not None:
        sent.append(place)
    assert np.linalg.norm(np.diff(sent, axis=0), axis=1).max() < 2.0 * np.median(steps[-20:])


@pytest.mark.parametrize("by_s", [-3.0, 3.0])
def test_a_clock_that_is_set_while_the_stream_is_behind_makes_nothing_jump(by_s):
    cell = Cell(ARM, SPEC)
    cell.offer(smooth(cell))
    for _ in range(10):  # in motion
        first = cell.tick()
        cell.advance(0.02)
    stream = PositionStream(250.0)
    stream.take(first)
    sent = [stream.positions(first.start_s + t, t) for t in (0.0, 0.004, 0.04)]
    assert stream.behind_s == pytest.approx(0.032)
    second = cell.tick()
    object.__setattr__(second, "start_s", second.start_s + by_s)  # made in the new time
    stream.clock_stepped(by_s)
    stream.take(second)
    t = 0.04
    while (place := stream.positions(first.start_s + by_s + (t := t + 0.004), t)) is not None:
        sent.append(place)
    assert sent[-1] == pytest.approx(second.positions[-1], abs=1e-12)
    fastest = np.abs(first.velocities).max()
    assert np.abs(np.diff(sent, axis=0)).max() <= fastest * 1.06 * stream.period_s


def test_a_stream_that_was_late_catches_up_within_the_limits_so_that_stops_are_soon_in_time_again():
    cell, turn_s = Cell(ARM, SPEC), 0.004
    cell.offer(smooth(cell))
    stream, sent, began, behind = PositionStream(250.0), [], cell.now, []
    for turn in range(250):
        if turn % 5 == 0:
            if turn % 50 == 0 and turn:
                cell.offer(smooth(cell))
            stream.take(cell.tick())
            cell.advance(0.02)
        if not 40 <= turn < 45:
            sent.append(stream.positions(began + turn * turn_s, turn * turn_s))
            behind.append(stream.behind_s)
    assert max(behind) == pytest.approx(0.02)
    assert behind[-1] == 0.0
    assert np.all(np.abs(np.diff(sent, axis=0) / turn_s) <= np.array(ARM.limits.velocity))
