# SPDX-License-Identifier: Apache-2.0
"""Joint commands: what is refused at the last look, how one ends and the next begins, what a stop says of itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from joint_world import TIMING, Driven, H, at, chunk, rows

from runtime.safety.curve import resting
from runtime.safety.motion import ChunkRejected

pytest.importorskip("ruckig", reason="joint commands need ruckig. Next: make install-dev")


def braked(driven: Driven, left_s: float = 0.0) -> Driven:
    """Stopped, and played until so much of the stop is left; not forgotten."""
    driven.take(driven.path.braking(driven.situation()))
    return played_out(driven, left_s)


def played_out(driven: Driven, left_s: float = 0.0) -> Driven:
    """Nothing more is sent until so much of the last command is left."""
    span = driven.path._last.curve.end_s - driven.played - left_s
    driven.now, driven.played = driven.now + span, driven.played + span
    return driven


# ---- the last look --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ticks", [20, 21, 22, 23])
def test_arm_is_compared_with_where_it_is_commanded_to_be_now(ticks):
    """And not with where it will be a knot later, which may be a millisecond."""
    driven = Driven(rows((0.6, 0.0)))
    driven.go(ticks)
    for off, objected in ((0.0999, False), (-0.0999, False), (0.1001, True), (-0.1001, True)):
        there = at(driven.now, driven.place + np.array([off, 0.0]))
        motion = driven.path.toward(driven.admitted, driven.now, there, 1.0)
        assert bool(driven.path.breach(motion, there)) is objected


def test_motion_that_departs_before_the_splice_is_over_is_refused():
    """It may be on its way for so long; what the controller plays by then is the motion before."""
    driven = Driven()
    driven.go(10)
    driven.path._timing = replace(TIMING, splice_s=0.003)
    motion = driven.path.braking(driven.situation())
    assert driven.path.breach(motion, driven.situation()) == ""
    driven.path._timing = TIMING
    assert "does not continue what was commanded before" in driven.path.breach(motion, driven.situation())


def test_motion_that_begins_elsewhere_than_the_last_one_ended_is_refused():
    driven = Driven()
    driven.go(10)
    braked(driven)
    ended = driven.place
    for away, objected in ((0.0, False), (0.05, True)):
        driven.path._head = lambda s, away=away: resting(ended + np.array([away, 0.0]), driven.path._time(s), 0.021)
        held = driven.path.admit(chunk(np.tile(ended, (H, 1)), stamp=driven.now), driven.situation())
        motion = driven.path.toward(held, 0.0, driven.situation(), 1.0)
        assert bool(driven.path.breach(motion, driven.situation())) is objected


# ---- stopping and rest ----------------------------------------------------------------------------------------------


def test_nothing_is_sent_once_the_stop_has_been_played():
    driven = Driven()
    driven.go(10)
    for left, sent in ((0.0011, True), (0.0005, False), (0.0, False), (-0.0005, False)):
        ends = driven.path._last.curve.end_s
        driven.now, driven.played = 0.2 + ends - left - 0.2, ends - left
        assert (driven.path.braking(driven.situation()) is not None) is sent


@pytest.mark.parametrize("planned", [True, False], ids=["a stop made now", "the stop that was released"])
def test_stop_that_goes_on_while_a_chunk_has_no_way_makes_no_progress_on_it(planned):
    driven = Driven()
    driven.go(10)
    if not planned:
        driven.path._with_stop = lambda *given: None
    driven.take(driven.path.braking(driven.situation()))
    driven.path._plan = lambda *given: None
    motion = driven.path.toward(driven.admitted, driven.now, driven.situation(), 1.0)
    assert motion.scale == 0.0
    assert driven.path.breach(motion, driven.situation()) == ""


@pytest.mark.parametrize("left_s", [0.015, 0.005, 0.0015])
def test_next_motion_waits_for_the_splice_where_the_stop_before_ends_within_it(left_s):
    driven = Driven()
    driven.go(10)
    braked(driven, left_s)
    ended = driven.path._last.curve.positions[-1]
    line = rows((0.2, 0.0), ended)
    onward = driven.path.admit(chunk(line, stamp=driven.now), driven.situation())
    motion = driven.path.toward(onward, 0.0, driven.situation(), 1.0)
    assert driven.path.breach(motion, driven.situation()) == ""
    curve = driven.path._made[1].curve
    until = curve.at(driven.path._played_s + np.linspace(left_s, TIMING.splice_s, 20))
    assert until[0] == pytest.approx(np.tile(ended, (20, 1)), abs=1e-12)
    assert np.abs(curve.at(driven.path._played_s + TIMING.splice_s + 0.01)[1]).max() > 1e-4, "and no longer"


def test_next_motion_begins_where_the_last_one_ended_and_not_where_the_arm_is_measured():
    driven = Driven()
    driven.go(10)
    braked(driven)
    driven.now, driven.played = driven.now + 0.1, driven.played + 0.1
    ended, there = driven.place, driven.place + np.array([0.03, 0.0])
    situation = at(driven.now, there, there)
    held = driven.path.admit(chunk(np.tile(ended, (H, 1)), stamp=driven.now), situation)
    motion = driven.path.toward(held, 0.0, situation, 1.0)
    assert motion.positions[0] == pytest.approx(ended, abs=1e-12)
    assert driven.path.breach(motion, situation) == ""


@pytest.mark.parametrize("forgotten", [False, True])
@pytest.mark.parametrize("over", [False, True])
def test_chunk_is_compared_with_what_is_played_or_held_and_after_it_was_forgotten_with_where_the_arm_is(
    forgotten, over
):
    """0.15 rad are allowed: the chunk begins 0.1 from the measured arm, which is 0.1 from what was commanded."""
    driven = Driven()
    driven.go(10)
    if forgotten:
        driven.path.forget()
    if over:
        played_out(driven, -0.02)
    there = driven.place + np.array([0.1, 0.0])
    begins = there + np.array([0.1, 0.0])
    situation = at(driven.now, there, there)
    held = chunk(np.tile(begins, (H, 1)), stamp=driven.now)
    if forgotten and over:
        driven.path.admit(held, situation)
        return
    with pytest.raises(ChunkRejected, match="a is commanded"):
        driven.path.admit(held, situation)


@pytest.mark.parametrize("by_s", [0.6, 100.0])
def test_what_was_sent_has_played_to_its_stop_once_the_clock_was_set_ahead(by_s):
    driven = Driven()
    driven.go(10)
    driven.path.clock_stepped(by_s)
    driven.now += by_s
    assert driven.path.braking(at(driven.now, driven.place)) is None
    assert driven.path._played_s == pytest.approx(0.2 + by_s)


# ---- the last command goes on ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("speed", [(0.3, 0.0), (0.3, -0.1)])
@pytest.mark.parametrize(("factor", "time_scale"), [(1.0, 1.0), (0.4, 1.0), (1.0, 2.0)])
def test_scale_of_a_stop_is_that_of_the_fastest_joint_against_what_was_committed(speed, factor, time_scale):
    """Each joint's speed as a share of its own limit; the controller's slowing and the chunk's come on top."""
    driven = Driven(rows(speed), velocity=(1.0, 0.25))
    driven.go(20)
    last, most = driven.path._last, np.array([1.0, 0.25])
    driven.path._plan = lambda *given: None
    chunk_ = replace(driven.admitted, time_scale=time_scale)
    stop_s = last.curve.end_s - last.commit_s
    for share in (0.2, 0.5, 0.8):
        driven.played = last.commit_s + share * stop_s
        driven.path._played_s, driven.path._now_s = driven.played, driven.now
        fastest = [np.abs(last.curve.at(t)[1][0] / most).max() for t in (last.commit_s, driven.played)]
        motion = driven.path.toward(chunk_, driven.now, driven.situation(factor), 1.0)
        assert motion.scale == pytest.approx(fastest[1] / fastest[0] * factor / time_scale, rel=1e-9)


def test_scale_is_never_above_the_tempo_although_a_stop_may_gain_speed_at_first():
    driven = Driven(rows((0.9, 0.0)))
    driven.go(3)
    last = driven.path._last
    speeds = np.abs(last.curve.at(np.linspace(last.commit_s, last.curve.end_s, 50))[1]).max(axis=1)
    assert speeds.max() > 1.05 * speeds[0]
    driven.path._plan = lambda *given: None
    for since in np.linspace(0.0, 0.02, 21):
        driven.path._played_s, driven.path._now_s = last.commit_s + since, driven.now
        motion = driven.path.toward(driven.admitted, driven.now, driven.situation(), 1.0)
        assert motion.scale <= 1.0


def test_last_command_that_is_over_does_not_go_on():
    driven = Driven()
    driven.go(10)
    braked(driven)
    ends = driven.played
    driven.path._plan = lambda *given: None
    for left, sent in ((0.0011, True), (0.0005, False), (0.0, False), (-0.0005, False)):
        driven.path._played_s, driven.path._now_s = ends - left, driven.now
        motion = driven.path.toward(driven.admitted, driven.now, driven.situation(), 1.0)
        assert (motion is not None) is sent
