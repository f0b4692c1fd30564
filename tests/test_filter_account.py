# SPDX-License-Identifier: Apache-2.0
"""What the filter counts, how old a chunk may be, and in which order chunks may come."""

from __future__ import annotations

import numpy as np
import pytest
from artifact_factory import action_spec

from runtime.contract.chunk import ActionChunk
from runtime.safety.filter import SafetyFilter
from runtime.safety.limits import CartesianLimits, Timing
from runtime.safety.motion import ChunkRejected, Measured, Situation
from runtime.telemetry import StopCause

SPEC = action_spec()  # 8 rows of 0.05 s
LIMITS = CartesianLimits(0.5, 4.0, 8.0, 80.0, (-0.5, -0.5, 0.0), (0.5, 0.5, 0.8), 0.05, 0.3)


def made(**timing) -> SafetyFilter:
    return SafetyFilter(SPEC, LIMITS, Timing(**timing) if timing else None)


def at(now: float) -> Situation:
    measured = Measured(now, {}, np.array([0.0, 0.0, 0.4]), np.zeros(3))
    return Situation(now, measured, measured)


def chunk(stamp: float, speed: float = 0.2) -> ActionChunk:
    values = np.tile(np.array([speed, 0, 0, 0, 0, 0, 1.0], np.float32), (SPEC.horizon, 1))
    return ActionChunk(values, stamp, SPEC.dt_s, SPEC.names)


def refusal(filter_: SafetyFilter, stamp: float, now: float = 0.0) -> StopCause:
    with pytest.raises(ChunkRejected) as refused:
        filter_.admit(chunk(stamp), at(now))
    return refused.value.cause


def test_chunk_may_be_as_old_as_the_station_says():
    assert made(max_chunk_age_s=0.125).admit(chunk(-0.125), at(0.0))
    assert refusal(made(max_chunk_age_s=0.125), -0.126) is StopCause.CHUNK_LATE
    assert made().admit(chunk(-0.39), at(0.0))


def test_chunk_of_which_nothing_is_left_is_late_whatever_its_age_may_be():
    assert made(max_chunk_age_s=9.0).admit(chunk(-0.39), at(0.0))
    for age in (0.4, 0.5, 8.0):
        assert refusal(made(max_chunk_age_s=9.0), -age) is StopCause.CHUNK_LATE


def test_chunk_from_the_future_is_a_jump_of_the_clock_and_rounding_is_not():
    assert made().admit(chunk(1e-7), at(0.0))
    assert refusal(made(), 1e-3) is StopCause.CLOCK_JUMP


def test_observation_is_useful_for_half_the_time_that_its_chunk_is():
    assert made().useful_age_s == pytest.approx(0.2), "8 rows of 0.05 s"
    assert made(max_chunk_age_s=0.3).useful_age_s == pytest.approx(0.15)


def test_chunks_come_in_the_order_of_their_observations_until_all_is_forgotten():
    filter_ = made()
    filter_.admit(chunk(1.0), at(1.0))
    for stamp in (1.0, 0.95):
        with pytest.raises(ChunkRejected, match=r"is not newer than the one in use \(1\.000 s\)") as refused:
            filter_.admit(chunk(stamp), at(1.0))
        assert refused.value.cause is StopCause.CHUNK_LATE
    filter_.admit(chunk(1.01), at(1.01))
    filter_.forget()
    filter_.admit(chunk(1.0), at(1.01))


def test_chunk_that_was_refused_is_not_the_one_in_use():
    filter_ = made()
    with pytest.raises(ChunkRejected):
        filter_.admit(chunk(1.0, speed=99.0), at(1.0))
    filter_.admit(chunk(0.9), at(1.0))


def test_chunks_are_counted_and_refusals_by_cause():
    filter_ = made()
    assert (filter_.admitted, filter_.trips, sum(filter_.rejected.values())) == (0, 0, 0)
    for stamp in (1.0, 1.1, 1.2):
        filter_.admit(chunk(stamp), at(1.2))
    for stamp in (1.1, 1.2):
        refusal(filter_, stamp, 1.2)
    refusal(filter_, 3.0, 1.2)
    assert filter_.admitted == 3
    assert filter_.rejected == {StopCause.CHUNK_LATE: 2, StopCause.CLOCK_JUMP: 1}


@pytest.mark.parametrize("speed", [0.0, -0.1, 1.001, float("nan")])
def test_speed_is_a_share(speed):
    filter_ = made()
    admitted = filter_.admit(chunk(0.0), at(0.0))
    with pytest.raises(ValueError, match="speed is"):
        filter_.command(admitted, 0.0, at(0.0), speed)
    assert filter_.command(admitted, 0.0, at(0.0), 1.0) is not None


def test_nothing_is_braked_after_all_is_forgotten():
    filter_ = made()
    filter_.command(filter_.admit(chunk(0.0), at(0.0)), 0.0, at(0.0))
    filter_.forget()
    assert filter_.brake(at(0.02)) is None


def test_what_was_commanded_is_played_until_it_is_over():
    filter_ = made(command_timeout_s=0.1)
    assert not filter_.playing(at(0.0))
    filter_.command(filter_.admit(chunk(0.0), at(0.0)), 0.0, at(0.0))
    assert filter_.playing(at(0.05))
    assert not filter_.playing(at(0.11))


def test_what_the_monitor_stops_is_counted_unless_the_arm_itself_is_elsewhere():
    """A trip is a fault of the planner; an arm that does not follow is none. A stop is never refused for that."""
    filter_ = made()
    admitted = filter_.admit(chunk(0.0), at(0.0))
    for objection, trips in (("too fast", 1), ("j1 is away from where it is measured", 1), ("too fast", 2)):
        filter_._path.breach = lambda motion, situation, text=objection: text
        assert filter_.command(admitted, 0.0, at(0.0)) is None
        assert (filter_.refused, filter_.trips) == (objection, trips)
    del filter_._path.breach
    filter_.command(admitted, 0.0, at(0.0))
    filter_._path.breach = lambda motion, situation: "elsewhere than measured"
    assert filter_.brake(at(0.02)) is None
    assert filter_.trips == 3


def test_refusal_says_its_words_and_nothing_else():
    assert str(ChunkRejected(StopCause.CHUNK_LATE, "too old")) == "too old"
