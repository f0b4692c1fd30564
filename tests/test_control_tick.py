# SPDX-License-Identifier: Apache-2.0
"""What a tick takes and what it leaves, what it reports, and how soon: the small print of the loop."""

from __future__ import annotations

import pytest
from control_world import SPEC, TICK, World, values

from runtime.contract.chunk import ActionChunk
from runtime.control.blend import Blend, Kind
from runtime.control.observation import JOINTS, TCP
from runtime.control.policy_link import Answer, PolicyFailure
from runtime.control.scheduler import Pace
from runtime.control.state import State
from runtime.control.state_map import ObservationProblem
from runtime.safety.limits import Timing
from runtime.telemetry import StopCause


def running(**changes) -> World:
    world = World(**changes).ready()
    world.controller.start("go")
    world.step(30)
    assert world.controller.state is State.RUNNING
    return world


def ended(world: World):
    return [tick.ended for tick in world.ticks if tick.ended is not None]


def test_tempo_is_the_share_of_the_policys_speed_and_0_outside_a_task():
    world = World().ready()
    assert world.controller.tempo == 0.0
    world.controller.start("go", speed_scale=0.5)
    world.step(60)
    assert world.controller.tempo == pytest.approx(0.5)
    world.controller.cancel()
    world.step(30)
    assert world.controller.state is State.ARMED
    assert world.controller.tempo == 0.0


def test_task_keeps_the_first_cause_and_its_words():
    world = running()
    world.controller.fault(StopCause.COMMAND_CONFLICT, "two publishers")
    world.controller.fault(StopCause.WORKER_DIED, "SIGKILL")
    assert world.controller.queue_s == 0.0, "nothing to go on with"
    world.step(40)
    (task,) = ended(world)
    assert (task.cause, task.text) == (StopCause.COMMAND_CONFLICT, "two publishers")
    assert [event.cause for event in world.controller.incident.later] == [StopCause.WORKER_DIED]


def test_task_that_was_cancelled_stays_so_when_its_stop_is_disturbed():
    world = running()
    world.controller.cancel()
    world.controller.fault(StopCause.PERMIT_LOST, "the guard")
    world.step(40)
    assert ended(world)[0].cause is StopCause.CANCELLED
    assert world.controller.incident.cause is StopCause.PERMIT_LOST


def test_counts_of_a_task_begin_at_0():
    task = World().ready().controller.start("go")
    assert (task.chunks, task.commands, task.rejected, task.rejected_in_a_row) == (0, 0, 0, 0)


def test_fault_without_a_task_latches():
    world = World().ready()
    world.controller.fault(StopCause.COMMAND_CONFLICT, "two publishers")
    world.step(3)
    assert world.controller.state is State.FAULT_LATCHED
    assert not ended(world)


def test_clock_may_jump_while_nothing_moves():
    world = World().ready()
    world.step(2)
    world.clock.advance(3.0)
    world.step(2)
    assert world.controller.state is State.ARMED
    assert world.controller.incident.cause is StopCause.NONE


def test_durations_are_counted_one_by_one():
    world = World(latency_s=0.04).ready()
    world.controller.start("go")
    policy = world.policy
    take = policy.answer

    def slow():
        world.wall.advance(0.003)
        return take()

    policy.answer = slow
    world.step(50)
    latencies = world.controller.latencies
    assert latencies.tick.count == 50
    assert latencies.tick.max_s == pytest.approx(0.003)
    answered = [tick.answer for tick in world.ticks if tick.answer is not None]
    assert latencies.inference.count == len(answered) == world.controller.task.chunks
    assert latencies.inference.max_s == pytest.approx(0.04)
    assert latencies.observation_to_command.count == sum(tick.admitted is not None for tick in world.ticks)
    assert 0.039 < latencies.observation_to_command.max_s <= 0.04 + 2 * TICK
    assert world.controller.task.commands == sum(tick.command is not None for tick in world.ticks)


def test_worker_that_died_is_a_fault_at_once_and_no_rejected_chunk():
    world = running()
    while not world.policy.in_flight:
        world.step()
    world.policy.dead = PolicyFailure(StopCause.WORKER_DIED, "SIGKILL")
    world.step()
    assert world.controller.state is State.STOPPING
    assert world.controller.task.rejected == 0


def test_bad_answer_while_stopping_without_a_task_is_recorded_as_what_it_is():
    world = World().ready()
    world.controller.stop()

    def bad():
        raise PolicyFailure(StopCause.POLICY_ERROR, "NaN")

    world.policy.answer = bad
    world.step()
    assert [event.cause for event in world.controller.incident.later] == [StopCause.POLICY_ERROR]


def test_answer_that_comes_during_a_stop_is_shown_and_not_used():
    world = running()
    while world.policy._due is None or world.policy._due[0] > world.clock.now() + TICK:
        world.step()
    world.controller.cancel()
    chunks = world.controller.task.chunks
    tick = world.step()
    assert tick.answer is not None
    assert tick.state is State.ENDING
    assert tick.admitted is None
    assert world.controller.task.chunks == chunks
    assert world.controller.queue_s == 0.0


def test_answer_to_a_question_of_another_task_is_not_used_by_the_next():
    world = World(latency_s=0.1).ready()
    world.controller.start("go")
    world.step()
    assert world.policy.in_flight
    world.controller.stop()
    world.step()
    world.controller.reset_fault()
    world.controller.arm(True)
    world.controller.start("another")
    world.step(10)
    assert world.controller.incident.cause is StopCause.NONE
    first = next(tick for tick in world.ticks if tick.answer is not None)
    assert first.admitted is None


def test_answer_about_another_observation_than_the_one_sent_is_not_used():
    world = running()
    action = SPEC.action
    stray = ActionChunk(values(), world.clock.now() - 0.01, action.dt_s, action.names)
    world.policy.answer = lambda: Answer(stray, 0.01)
    tick = world.step()
    assert tick.answer is not None
    assert tick.admitted is None


def test_chunk_that_is_over_when_it_comes_counts_as_rejected_and_late():
    world = running()
    world.controller._scheduler.splice = lambda chunk, now: False
    world.step(100)
    assert world.controller.incident.cause is StopCause.CHUNK_LATE
    assert "over already" in world.controller.incident.text
    assert ended(world)[0].rejected == 3


def test_two_bad_answers_are_survived_again_and_again():
    bad = PolicyFailure(StopCause.POLICY_ERROR, "NaN")
    world = World(answers=lambda call: values() if call % 3 == 0 else bad).ready()
    world.controller.start("go")
    world.step(200)
    assert world.controller.incident.cause is StopCause.NONE
    assert world.controller.task.rejected >= 4


def seen_late(world: World, by_s: float, every: int = 1) -> World:
    """Samples carry stamps of `by_s` ago, and come with every `every`th tick only."""
    see, calls = world.see, []

    def late():
        calls.append(0)
        if len(calls) % every == 0:
            world.clock._now_s -= by_s
            see()
            world.clock._now_s += by_s

    world.see = late
    return world


def test_arm_is_commanded_also_where_no_sample_is_of_this_very_instant():
    world = seen_late(World(), 0.01).ready()
    world.controller.start("go")
    world.step(30)
    assert world.controller.state is State.RUNNING
    assert world.speed > 0.1


def test_no_observation_is_asked_about_twice_unless_its_answer_was_refused():
    bad = PolicyFailure(StopCause.POLICY_ERROR, "NaN")
    world = World(latency_s=0.0, pace=Pace(SPEC.action.horizon, lead_s=10.0)).ready()  # always wants the next
    seen_late(world, 0.0, every=4)
    world.controller.start("go")
    world.step(60)
    stamps = [stamp for stamp, _ in world.policy.asked]
    assert len(stamps) >= 15
    assert len(set(stamps)) == len(stamps)
    world = World(answers=lambda call: bad if call == 1 else values(), latency_s=0.0, max_rejects=5)
    seen_late(world, 0.0, every=4)
    world.see()
    world.see()
    world.see()
    world.ready()
    world.controller.start("go")
    world.step(60)
    stamps = [stamp for stamp, _ in world.policy.asked]
    assert stamps[1] == stamps[2], "the same eyes, another try"
    assert len(set(stamps)) == len(stamps) - 1


@pytest.mark.parametrize(("late_s", "asked"), [(0.04, True), (0.06, False)])
def test_observation_half_as_old_as_its_chunk_may_be_is_not_worth_a_question(late_s, asked):
    world = World()
    world.controller._filter._timing = Timing(max_chunk_age_s=0.1)
    seen_late(world, late_s).ready()
    world.controller.start("go")
    world.step(10)
    assert bool(world.policy.asked) is asked


def test_overdue_answer_slows_the_arm_and_the_answer_ends_that():
    world = running(late_speed=0.25)
    world.policy.latency_s = 0.09
    was = len(world.ticks)
    while world.controller.state is not State.SLOWING:
        left, speed = world.controller.queue_s, world.speed
        world.step()
        assert len(world.ticks) < was + 40
    assert world.policy.in_flight
    assert 0.05 - 1e-9 <= left < 0.05 + TICK, "half the lead is left"
    assert world.speed < speed
    world.policy.latency_s = 0.03
    states = [world.step().state for _ in range(10)]
    assert states[0] is State.SLOWING
    assert State.RUNNING in states
    assert State.HOLDING not in states
    assert world.speed == pytest.approx(0.2, rel=1e-3)


def test_observation_that_cannot_be_used_is_a_fault_at_once():
    world = running()

    def stale(now_s):
        raise ObservationProblem(StopCause.OBSERVATION_STALE, "the sample that fits is too old")

    world.buffer.snapshot = stale
    while world.controller.state is State.RUNNING:
        world.step()
    assert world.controller.queue_s == 0.0
    assert world.controller.incident.cause is StopCause.OBSERVATION_STALE


def test_frozen_time_waits_for_every_stream_of_its_instant():
    world = World(lockstep=True, latency_s=0.0, ramp_in_s=0.0).ready()
    world.controller.start("go")
    world.controller.tick()
    assert world.controller.tick().command is not None
    world.clock.advance(SPEC.action.dt_s)
    world.silent.add("wrist")
    world.see()
    assert world.controller.tick().command is None
    world.silent.clear()
    world.clock.advance(0.001)
    world.see()
    assert world.controller.tick().command is not None


def test_new_chunk_meets_the_one_in_use_as_the_settings_say():
    """The answers turn round at the third; what is frozen stays the second's."""
    blend = Blend(Kind.OVERLAP, frozen_s=0.1, fade_s=0.1)
    world = World(answers=lambda call: values(0.2 if call < 2 else -0.2), blend=blend).ready()
    world.controller.start("go")
    world.step(60)
    turned = [tick.admitted for tick in world.ticks if tick.admitted is not None][2]
    assert turned.rows[1, 0] > 0.0
    assert turned.rows[-1, 0] < 0.0


def test_slowed_chunk_is_played_in_its_own_longer_time():
    world = World(answers=lambda call: values(1.0)).ready()
    world.controller.start("go")
    world.step(40)
    assert [tick.admitted for tick in world.ticks if tick.admitted is not None][-1].time_scale == pytest.approx(2.0)
    assert world.controller.state is State.RUNNING
    assert world.controller.tempo == pytest.approx(1.0)


def test_braking_begins_in_the_tick_that_has_no_row_and_leaves_no_tick_out():
    world = running()
    while world.policy.in_flight:
        world.step()
    world.policy.latency_s = 1e6
    was = len(world.ticks)
    world.step(60)
    states = [tick.state for tick in world.ticks[was:]]
    held = states.index(State.HOLDING)
    assert all(tick.command is not None for tick in world.ticks[was : was + held])
    assert not world.ticks[was + held - 1].command.velocities.any(), "it holds when it rests, not before"
    assert all(tick.command is None for tick in world.ticks[was + held :])


def test_frozen_time_waits_for_the_answer_of_its_instant_and_brakes_once_that_has_passed():
    world = World(lockstep=True, latency_s=0.0, ramp_in_s=0.0, pace=Pace(SPEC.action.horizon, 0.0)).ready()
    controller = world.controller

    def tick():
        world.wall.advance(0.005)
        controller.permission.permit(True)
        return controller.tick()

    def next_row():
        world.clock.advance(SPEC.action.dt_s)
        world.see()

    controller.start("go")
    tick()
    assert tick().command is not None
    world.policy.latency_s = 1e6
    next_row()
    while tick().command is not None:
        next_row()
    assert [tick().command for _ in range(3)] == [None] * 3, "the answer may still come"
    assert controller.state is State.RUNNING
    next_row()
    assert tick().command is not None, "it did not: brake"
    assert tick().command is None
    assert controller.state is State.RUNNING, "it does not rest yet"
    for _ in range(4):
        next_row()
        tick()
    assert controller.state is State.HOLDING


def test_task_that_waits_for_its_first_chunk_has_not_begun_to_hold():
    world = World(latency_s=0.5).ready()
    world.controller.start("go")
    world.step(10)
    assert world.controller.state is State.RAMP_IN


def test_two_ticks_of_one_instant_brake_once():
    world = running()
    world.controller.cancel()
    assert world.step().command is not None
    assert world.controller.tick().command is None
    assert world.controller.state is State.ENDING


def test_arm_is_braked_also_when_it_is_no_longer_seen():
    world = running()
    world.silent |= {"wrist", "agentview", JOINTS, TCP}
    while world.controller.state is State.RUNNING:
        world.step()
    assert world.controller.incident.cause is StopCause.OBSERVATION_STALE
    assert world.ticks[-1].command is not None
    world.step(3)
    told = [tick.command for tick in world.ticks if tick.command is not None]
    assert not told[-1].velocities.any(), "not left to the receiver's time-out"


def test_cancelling_what_is_over_already_changes_nothing():
    world = running()
    world.controller.cancel()
    world.controller.cancel()
    world.step(20)
    world.controller.cancel()
    assert world.controller.state is State.ARMED
    world.controller.start("go")
    world.step(30)
    world.controller.stop("the operator")
    world.controller.cancel()
    world.step(20)
    assert [task.cause for task in ended(world)] == [StopCause.CANCELLED, StopCause.STOP_REQUESTED]


def test_nothing_of_one_task_is_blended_into_the_next():
    blend = Blend(Kind.OVERLAP, frozen_s=0.2, fade_s=0.2)
    world = World(answers=lambda call: values(0.2 if call < 9 else -0.2), blend=blend)
    world.ready()
    world.controller.start("go")
    while len(world.policy.asked) < 9:
        world.step()
    world.controller.cancel()
    world.step(6)
    assert world.controller.state is State.ARMED
    was = len(world.ticks)
    world.controller.start("back")
    world.step(6)
    first = next(tick.admitted for tick in world.ticks[was:] if tick.admitted is not None)
    assert first.rows[:, 0] == pytest.approx(-0.2, abs=1e-6)


def test_next_task_may_begin_with_the_same_eyes():
    """Frames come slowly; the last one that the task before was asked about is the newest there is."""
    world = World(latency_s=0.0, ramp_in_s=0.0, pace=Pace(SPEC.action.horizon, lead_s=10.0)).ready()
    world.controller.start("go", speed_scale=0.3)
    world.step(20)
    see, world.see = world.see, lambda: None
    world.step()
    world.controller.cancel()
    world.step(2)
    assert world.controller.state is State.ARMED
    world.controller.start("go on")
    was = len(world.ticks)
    world.step(2)
    assert world.policy.asked[-1] == (world.policy.asked[-2][0], "go on")
    assert any(tick.admitted is not None for tick in world.ticks[was:])
    world.see = see
