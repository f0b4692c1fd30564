# SPDX-License-Identifier: Apache-2.0
"""The closed loop without ROS: what moves the arm, what stops it, and what it takes to move again."""

import numpy as np
import pytest
from control_world import LIMITS, SPEC, TICK, World, values

from runtime.control.observation import JOINTS, TCP
from runtime.control.policy_link import PolicyFailure
from runtime.control.state import NotAllowed, State
from runtime.control.state_map import ObservationProblem
from runtime.telemetry import StopCause


def running(**changes) -> World:
    world = World(**changes).ready()
    world.controller.start("go")
    world.step(30)
    assert world.controller.state is State.RUNNING
    assert world.speed > 0.1
    return world


def assert_still_after_fault(world: World, cause: StopCause) -> None:
    """The arm rests, the first cause is kept, and nothing short of reset + arm + goal moves it."""
    world.rest()
    world.step(10)
    assert world.controller.state is State.FAULT_LATCHED
    assert world.controller.incident.cause is cause, world.controller.incident.text
    place = world.place.copy()
    world.silent, world.frozen, world.permit, world.policy.dead = set(), set(), True, None
    world.step(50)
    assert np.array_equal(world.place, place)
    with pytest.raises(NotAllowed):
        world.controller.start("go")
    world.controller.reset_fault()
    world.step(50)
    assert np.array_equal(world.place, place)
    world.controller.arm(True)
    world.step(50)
    assert np.array_equal(world.place, place)
    world.controller.start("go again")
    world.step(50)
    assert world.place[0] > place[0] + 0.02


def test_a_task_moves_the_arm_and_asks_with_its_sentence():
    world = running()
    assert {sentence for _, sentence in world.policy.asked} == {"go"}
    assert len(world.policy.asked) >= 2
    assert world.controller.latencies.observation_to_command.count >= 1


def test_motion_begins_slowly():
    world = World(ramp_in_s=0.4).ready()
    world.controller.start("go")
    speeds = []
    for _ in range(30):
        world.step()
        speeds.append(world.speed)
    moving = [s for s in speeds if s > 0]
    assert moving[0] < 0.02
    assert moving[-1] == pytest.approx(0.2, rel=1e-3)
    assert max(np.diff(moving)) < 0.02


def test_late_rows_are_dropped_not_shifted():
    ramp = np.linspace(0.05, 0.4, SPEC.action.horizon)
    chunk = values(0.0)
    chunk[:, 0] = ramp
    world = World(answers=lambda call: chunk, latency_s=0.12, ramp_in_s=0.0, late_speed=1.0).ready()
    world.controller.start("go")
    while world.speed == 0.0:
        world.step()
    assert world.speed == pytest.approx(ramp[2], rel=1e-3)  # rows 0 and 1 were over when the answer came


def test_cancel_begins_to_brake_within_one_tick_and_leaves_the_arm_armed():
    world = running()
    before = world.speed
    world.controller.cancel()
    world.step()
    assert world.speed < before
    assert world.rest() <= 10
    world.step(5)
    assert world.controller.state is State.ARMED
    task = next(tick.ended for tick in world.ticks if tick.ended is not None)
    assert task.cause is StopCause.CANCELLED
    assert sum(tick.ended is not None for tick in world.ticks) == 1


def test_a_task_ends_by_itself_after_its_time():
    world = World().ready()
    world.controller.start("go", max_duration_s=0.5)
    world.step(60)
    assert world.controller.state is State.ARMED
    assert next(tick.ended for tick in world.ticks if tick.ended).cause is StopCause.FINISHED
    assert world.speed == 0.0


@pytest.mark.parametrize(
    ("spoil", "cause"),
    [
        (lambda w: w.silent.add("wrist"), StopCause.OBSERVATION_STALE),
        (lambda w: w.silent.add(JOINTS), StopCause.OBSERVATION_STALE),
        (lambda w: w.silent.add(TCP), StopCause.OBSERVATION_STALE),
        (lambda w: w.frozen.add("agentview"), StopCause.OBSERVATION_FROZEN),
        (lambda w: setattr(w, "permit", False), StopCause.PERMIT_LOST),
        (lambda w: setattr(w.policy, "dead", PolicyFailure(StopCause.WORKER_DIED, "SIGKILL")), StopCause.WORKER_DIED),
        (lambda w: w.controller.stop(), StopCause.STOP_REQUESTED),
        (lambda w: w.controller.fault(StopCause.COMMAND_CONFLICT, "two publishers"), StopCause.COMMAND_CONFLICT),
        (lambda w: w.clock.advance(3.0), StopCause.CLOCK_JUMP),
    ],
)
def test_every_loss_stops_the_arm_and_latches_with_its_cause(spoil, cause):
    world = running()
    spoil(world)
    world.step(40)
    assert_still_after_fault(world, cause)


@pytest.mark.parametrize("by_s", [-3.0, -0.1, 3.0])
def test_a_clock_that_is_set_in_motion_does_not_end_the_commands_of_the_stop(by_s):
    world = running()
    before = world.speed
    world.clock._now_s += by_s
    world.twist_s += by_s  # the servo has a clock of its own
    speeds = [
        float(np.linalg.norm(tick.command.velocities[0, :3])) for tick in _stop(world) if tick.command is not None
    ]
    assert world.controller.incident.cause is StopCause.CLOCK_JUMP
    assert len(speeds) >= 2
    most = LIMITS.linear_m_s2 * TICK * (1 + 1e-6)
    assert np.all(np.abs(np.diff([before, *speeds])) <= most)
    assert speeds[-1] == 0.0
    world.controller.reset_fault()
    world.step(2)  # in the new time
    world.controller.arm(True)
    world.controller.start("go on")
    world.step(30)
    assert world.speed > 0.0


def _stop(world):
    count = len(world.ticks)
    world.step(12)
    assert world.speed == 0.0
    return world.ticks[count:]


def test_a_clock_that_is_set_back_at_rest_is_no_fault_and_delays_nothing():
    world = World().ready()
    world.controller.start("go")
    world.step(30)
    world.controller.cancel()
    world.rest()
    world.step(3)
    world.clock._now_s -= 3600.0
    world.step(3)
    assert world.controller.incident.cause is StopCause.NONE
    world.controller.start("go on")
    world.step(30)
    assert world.speed > 0.0


def test_streams_that_stay_apart_in_time_stop_the_arm_by_that_name_and_not_at_once():
    world = running(max_pause_s=0.5)

    def apart(now_s):
        raise ObservationProblem(StopCause.OBSERVATION_SKEWED, "wrist -0.070")

    world.buffer.snapshot = apart
    world.step(20)
    assert world.controller.incident.cause is StopCause.NONE
    world.step(60)
    assert world.controller.incident.cause is StopCause.OBSERVATION_SKEWED
    assert "wrist" in world.controller.incident.text
    del world.buffer.snapshot
    assert_still_after_fault(world, StopCause.OBSERVATION_SKEWED)


def test_nan_from_the_policy_never_reaches_the_arm_and_three_in_a_row_are_a_fault():
    bad = PolicyFailure(StopCause.POLICY_ERROR, "NaN at [0, 1]")
    world = World(answers=lambda call: values() if call < 3 else bad).ready()
    world.controller.start("go")
    world.step(200)
    assert all(np.isfinite(t.command.velocities).all() for t in world.ticks if t.command is not None)
    assert world.controller.state is State.FAULT_LATCHED
    assert world.controller.incident.cause is StopCause.POLICY_ERROR
    assert world.speed == 0.0


def test_one_bad_answer_is_survived():
    bad = PolicyFailure(StopCause.POLICY_ERROR, "NaN")
    world = World(answers=lambda call: bad if call == 2 else values()).ready()
    world.controller.start("go")
    world.step(150)
    assert world.controller.state in (State.RUNNING, State.RAMP_IN)
    assert world.controller.task.rejected == 1


def test_a_huge_step_is_rejected_and_the_arm_brakes():
    world = World(answers=lambda call: values() if call == 0 else values(50.0)).ready()
    world.controller.start("go")
    world.step(200)
    assert world.controller.incident.cause is StopCause.CHUNK_REJECTED
    assert "50" in world.controller.incident.text or "2.5" in world.controller.incident.text
    assert world.speed == 0.0


def test_a_policy_that_is_too_slow_leaves_the_arm_braked_and_then_faults():
    world = running()
    world.policy.latency_s = 1e6
    world.step(60)
    assert world.controller.state is State.HOLDING
    assert world.speed == 0.0
    world.step(150)
    assert world.controller.incident.cause is StopCause.CHUNK_LATE


def test_an_answer_to_a_question_from_before_a_stop_moves_nothing():
    world = World(latency_s=0.3).ready()
    world.controller.start("go")
    world.step(3)
    assert world.policy.in_flight
    world.controller.stop()
    world.step(5)
    world.controller.reset_fault()
    world.controller.arm(True)
    world.step(40)
    assert not world.place[0]
    world.policy.latency_s = 0.02
    world.controller.start("another task")
    world.step(3)
    assert world.policy.asked[-1][1] == "another task"


def test_holding_resumes_with_a_ramp_when_a_fresh_chunk_comes():
    world = running()
    world.policy.latency_s = 0.8  # longer than a chunk
    world.step(35)
    assert world.controller.state is State.HOLDING
    world.policy.latency_s = 0.03
    speeds = []
    for _ in range(60):
        world.step()
        speeds.append(world.speed)
    assert world.controller.state is State.RUNNING
    assert max(np.diff(speeds)) < 0.1


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda w: setattr(w, "permit", False), "no permission"),
        (lambda w: w.silent.add("wrist"), "no usable observation"),
    ],
)
def test_arming_needs_permission_and_fresh_eyes(spoil, text):
    world = World()
    world.see()
    world.controller.activate()
    spoil(world)
    world.step(30)
    with pytest.raises(NotAllowed, match=text):
        world.controller.arm(True)
    assert world.controller.state is State.IDLE


def test_a_reset_is_refused_while_the_permission_is_missing():
    world = running()
    world.permit = False
    world.step(60)
    with pytest.raises(NotAllowed, match="permission"):
        world.controller.reset_fault()
    assert world.controller.state is State.FAULT_LATCHED


@pytest.mark.parametrize("goal", [("", 0, 1), ("go", -1, 1), ("go", 0, 0), ("go", 0, 1.5), ("go", float("nan"), 1)])
def test_impossible_goals_are_refused(goal):
    world = World().ready()
    with pytest.raises(NotAllowed):
        world.controller.start(*goal)
    assert world.controller.state is State.ARMED


def test_the_workspace_edge_stops_the_arm_inside():
    world = World(answers=lambda call: values(0.4)).ready()
    world.place = np.array([0.9, 0.0, 0.5])
    world.see()
    world.controller.start("go")
    world.step(100)
    assert world.place[0] <= 1.0
    assert world.controller.state is State.FAULT_LATCHED


def test_an_exception_inside_a_tick_is_a_stop_not_a_crash():
    world = running()
    world.controller._scheduler.due = lambda: 1 / 0
    world.step(2)
    assert world.controller.incident.cause is StopCause.INTERNAL_ERROR
    del world.controller._scheduler.due
    assert_still_after_fault(world, StopCause.INTERNAL_ERROR)


def test_in_frozen_time_a_tick_commands_once_and_waits_for_the_answer():
    world = World(lockstep=True, latency_s=0.0, ramp_in_s=0.0).ready()
    world.controller.start("go")
    for _ in range(20):  # a simulation in lockstep: time moves by one row when a command has come
        commands = 0
        for _ in range(5):
            world.wall.advance(0.005)
            world.controller.permission.permit(True)
            commands += world.controller.tick().command is not None
        assert commands == 1
        world.clock.advance(SPEC.action.dt_s)
        world.see()
    assert world.controller.state is State.RUNNING


def test_speed_scale_slows_time_and_keeps_the_path():
    def travelled(scale: float, ticks: int) -> np.ndarray:
        turn = values(0.0)
        turn[:4, 0], turn[4:, 1] = 0.2, 0.2
        world = World(answers=lambda call: turn if call == 0 else values(0.0), ramp_in_s=0.0).ready()
        world.controller.start("go", speed_scale=scale)
        world.step(ticks)
        return world.place - [0, 0, 0.5]

    fast, slow = travelled(1.0, 30), travelled(0.5, 60)
    assert slow[0] == pytest.approx(fast[0], abs=0.01)
    assert slow[1] == pytest.approx(fast[1], abs=0.01)
