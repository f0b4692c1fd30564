# SPDX-License-Identifier: Apache-2.0
"""The table of states: nothing leads from a fault to motion but reset, arm and goal; and the scheduler's time."""

import itertools

import numpy as np
import pytest

from runtime.control.scheduler import Pace, Scheduler
from runtime.control.state import MOVING, TABLE, Event, Machine, NotAllowed, State
from runtime.safety.motion import AdmittedChunk


def test_every_way_from_a_fault_to_motion_goes_through_reset_arm_and_goal():
    def ways(state, path, seen):
        if state in MOVING - {State.STOPPING} and path:
            yield path
            return
        for (before, event), after in TABLE.items():
            if before is state and after not in seen:
                yield from ways(after, (*path, event), seen | {after})

    found = list(ways(State.FAULT_LATCHED, (), {State.FAULT_LATCHED}))
    assert found
    for path in found:
        needed = [event for event in path if event in (Event.RESET, Event.ACTIVATED, Event.ARMED, Event.GOAL)]
        assert needed[-2:] == [Event.ARMED, Event.GOAL]
        assert needed[0] in (Event.RESET, Event.ACTIVATED)


def test_every_moving_state_can_fault_and_every_state_can_be_left():
    for state in MOVING - {State.STOPPING}:
        assert TABLE[state, Event.FAULT] is State.STOPPING
    assert {state for state, _ in TABLE} == set(State)
    assert set(TABLE.values()) == set(State)


@pytest.mark.parametrize(("state", "event"), list(itertools.product(State, Event)))
def test_what_is_not_in_the_table_is_refused_and_changes_nothing(state, event):
    machine = Machine()
    machine.state = state
    if (state, event) in TABLE:
        assert machine.happen(event) is TABLE[state, event]
        return
    with pytest.raises(NotAllowed, match="possible"):
        machine.happen(event)
    assert machine.state is state


def test_a_refusal_says_what_is_possible_instead():
    with pytest.raises(NotAllowed, match=r"reset is not possible while unconfigured; possible: configured$"):
        Machine().happen(Event.RESET)


def chunk(stamp: float = 0.0) -> AdmittedChunk:
    return AdmittedChunk(stamp, 0.05, np.zeros((8, 6)), None, 1.0)


def test_a_chunk_starts_at_its_observation_not_at_its_arrival():
    scheduler = Scheduler(Pace(8, 0.0))
    assert scheduler.splice(chunk(), 0.12)
    held, progress = scheduler.due()
    assert held.index_at(progress) == 2
    assert not scheduler.splice(chunk(), 0.4)
    assert scheduler.due()[1] == pytest.approx(0.12)


def test_time_inside_a_chunk_runs_at_the_commanded_speed():
    scheduler = Scheduler(Pace(8, 0.1))
    scheduler.splice(chunk(), 0.0)
    scheduler.advance(0.2, 0.5)
    assert scheduler.due()[1] == pytest.approx(0.1)
    assert scheduler.left_s == pytest.approx(0.3)
    assert not scheduler.wants_next()
    scheduler.advance(0.4, 1.0)
    assert scheduler.wants_next()
    scheduler.advance(0.6, 1.0)
    assert scheduler.due() is None


def test_slowed_motion_falls_behind_the_chunks_own_times_by_what_it_was_slowed():
    scheduler = Scheduler(Pace(8, 0.1))
    assert scheduler.behind_s == 0.0
    scheduler.splice(chunk(10.0), 10.05)
    assert scheduler.behind_s == pytest.approx(0.0, abs=1e-9)
    scheduler.advance(10.25, 0.5)
    assert scheduler.behind_s == pytest.approx(0.1)
    scheduler.advance(10.25, 0.5)
    scheduler.advance(10.20, 0.5)
    assert scheduler.due()[1] == pytest.approx(0.15), "no time has passed"
    scheduler.clear()
    assert scheduler.behind_s == 0.0


def test_fewer_rows_than_the_chunk_has_leave_a_reserve():
    scheduler = Scheduler(Pace(4, 0.0))
    scheduler.splice(chunk(), 0.0)
    scheduler.advance(0.2, 1.0)
    assert scheduler.wants_next()
    assert scheduler.due() is not None
    scheduler.clear()
    assert scheduler.due() is None
    assert scheduler.left_s == 0.0


def test_one_row_at_a_time_is_a_pace():
    scheduler = Scheduler(Pace(1, 0.0))
    scheduler.splice(chunk(), 0.0)
    assert not scheduler.wants_next()
    scheduler.advance(0.05, 1.0)
    assert scheduler.wants_next()


@pytest.mark.parametrize("pace", [(0, 0.0), (1, -1.0), (1, float("nan"))])
def test_a_pace_without_sense_is_refused(pace):
    with pytest.raises(ValueError, match="pace"):
        Pace(*pace)
