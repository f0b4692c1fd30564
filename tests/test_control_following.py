# SPDX-License-Identifier: Apache-2.0
"""An arm that lags behind its commands follows; one that stands, or goes elsewhere, does not, and is found in time."""

from __future__ import annotations

import numpy as np
import pytest
from control_world import World

from runtime.control.following import Following
from runtime.control.state import State
from runtime.safety.motion import Measured
from runtime.safety.trajectory import _FILTER, CommandKind, SafeTrajectory
from runtime.telemetry import StopCause

SPEED, LAG_S, TICK_S = 0.5, 0.1, 0.02


def command(start_s: float) -> SafeTrajectory:
    """From where 0.5 rad/s have led, 0.1 s further, and a stop."""
    times, place = np.array([0.0, 0.1, 0.3]), SPEED * start_s
    positions = np.array([[place, 0.0], [place + 0.05, 0.0], [place + 0.10, 0.0]])
    speeds = np.array([[SPEED, 0.0], [SPEED, 0.0], [0.0, 0.0]])
    return SafeTrajectory(
        CommandKind.JOINT_TRAJECTORY, ("a", "b"), start_s, times, speeds, positions, None, 1.0, seal=_FILTER
    )


def watch(measured, seconds: float = 1.0, limit_rad: float = 0.05) -> float | None:
    """When the first problem is found [s]; `measured(t)` is where joint a is reported."""
    following = Following(limit_rad, LAG_S, 0.1)
    for k in range(int(seconds / TICK_S)):
        now = k * TICK_S
        following.commanded(command(now))
        if following.problem(Measured(now, {"b": 0.0, "a": measured(now)})):
            return now
    return None


@pytest.mark.parametrize("lag", [0.0, 0.04, 0.09])
def test_arm_that_lags_follows(lag):
    assert watch(lambda t: SPEED * max(0.0, t - lag)) is None


@pytest.mark.parametrize(("lag", "follows"), [(0.09, True), (0.13, False)])
def test_how_far_behind_an_arm_may_run_is_time_and_not_distance(lag, follows):
    """At this speed 0.09 s are 0.045 rad, nine times the distance that may last."""
    found = watch(lambda t: SPEED * (t - lag), seconds=3.0, limit_rad=0.005)
    assert (found is None) is follows


def test_only_the_last_second_of_commands_is_kept():
    following = Following(0.05, LAG_S, 0.1)
    for k in range(500):
        following.commanded(command(k * TICK_S))
    assert 1.0 / TICK_S <= len(following._sent) <= 1.0 / TICK_S + 2


def test_without_patience_the_first_report_is_enough_and_as_far_as_allowed_is_allowed():
    following = Following(0.5, LAG_S, 0.0)
    following.commanded(command(0.0))
    assert following.problem(Measured(-0.01, {"a": 9.0, "b": 0.0})) == "", "from before the first command"
    assert following.problem(Measured(0.0, {"a": 0.5, "b": 0.0})) == ""
    assert "a is 0.510 rad" in following.problem(Measured(0.0, {"a": 0.51, "b": 0.0}))
    following.forget()
    assert following.problem(Measured(0.0, {"a": 0.51, "b": 0.0})) == ""


def test_distance_that_is_named_is_that_to_the_nearest_command_within_the_lag():
    following = Following(0.05, LAG_S, 0.0)
    for k in range(51):
        following.commanded(command(k * TICK_S))
    assert "a is 0.350 rad" in following.problem(Measured(1.0, {"a": SPEED * (1.0 - LAG_S) - 0.35, "b": 0.0}))


def test_arm_that_stands_is_found():
    stuck = 0.4
    found = watch(lambda t: SPEED * min(t, stuck))
    assert stuck < found <= stuck + 0.05 / SPEED + LAG_S + 0.1 + 2 * TICK_S


def test_arm_that_is_elsewhere_is_found_after_its_patience_and_not_for_one_report():
    assert watch(lambda t: SPEED * t + (0.3 if t > 0.5 else 0.0)) == pytest.approx(0.62, abs=0.03)
    assert watch(lambda t: SPEED * t + (0.3 if 0.5 < t < 0.53 else 0.0)) is None


def test_nothing_commanded_or_not_reported_is_no_problem():
    following = Following(0.05, LAG_S, 0.1)
    assert following.problem(Measured(1.0, {"a": 9.0, "b": 9.0})) == ""
    following.commanded(command(1.0))
    assert following.problem(Measured(2.0, {"a": 9.0})) == ""
    following.problem(Measured(2.0, {"a": 9.0, "b": 0.0}))
    text = following.problem(Measured(2.2, {"a": 9.0, "b": 0.0}))
    assert "a is 8." in text
    assert "driver's program" in text
    following.forget()
    assert following.problem(Measured(3.0, {"a": 9.0, "b": 0.0})) == ""


def test_loop_plans_in_the_robots_own_time_and_an_arm_that_does_not_obey_is_a_fault():
    world = World().ready()
    controller = world.controller
    assert controller._situation(world.clock.now()).speed_factor == 1.0, "until the driver says otherwise"
    for given, kept in ((0.5, 0.5), (1.7, 1.0), (-1.0, 0.0), (float("nan"), 0.0)):
        controller.scaled(given)
        assert controller._situation(world.clock.now()).speed_factor == kept
    controller.scaled(1.0)
    controller.start("go")
    world.step(10)
    controller._following.commanded(command(world.clock.now()))
    controller._following.problem = lambda measured: "it stands"
    world.step(1)
    assert controller.incident.cause is StopCause.NOT_FOLLOWING
    assert "it stands" in controller.incident.text


def test_stop_of_a_robot_at_speed_zero_is_over_at_once_and_nothing_is_sent_for_later():
    world = World().ready()
    world.controller.start("go")
    world.step(30)
    assert world.speed > 0.1
    world.controller.scaled(0.0)
    world.controller.fault(StopCause.PERMIT_LOST, "the guard")
    tick = world.step(1)
    assert tick.command is None
    assert world.controller.state is State.FAULT_LATCHED
    world.controller.scaled(1.0)
    world.step(20)
    assert all(tick.command is None for tick in world.ticks[-20:])


def test_loop_compares_with_what_it_has_sent_and_with_nothing_once_the_arm_rests():
    world = World().ready()
    controller = world.controller
    controller.start("go")
    world.step(20)
    sent = []
    controller._following.commanded = sent.append
    before = len(world.ticks)
    world.step(5)
    assert sent == [tick.command for tick in world.ticks[before:] if tick.command is not None]
    assert sent
    del controller._following.commanded
    controller._following.commanded(command(world.clock.now()))
    controller.cancel()
    world.step(60)
    assert controller.state is State.ARMED
    moved_by_hand = Measured(world.clock.now(), {"a": 9.0, "b": 9.0})
    assert controller._following.problem(moved_by_hand) == ""
    world.clock.advance(1.0)
    assert controller._following.problem(Measured(world.clock.now(), moved_by_hand.joints)) == ""


def test_task_whose_time_is_over_ends_also_where_the_arm_no_longer_follows():
    world = World().ready()
    controller = world.controller
    controller.start("go", max_duration_s=0.5)
    world.step(20)
    ends = controller.task.started_s + 0.5
    controller._following.problem = lambda measured: "it stands" if world.clock.now() > ends else ""
    world.step(60)
    assert controller.state is State.ARMED
    assert controller.incident.cause is StopCause.NONE


def test_stop_of_a_robot_that_is_slowed_is_the_one_it_was_given_and_takes_its_time():
    world = World().ready()
    world.controller.start("go")
    world.step(30)
    plays = [True] * 5
    world.controller._filter.kind = CommandKind.JOINT_TRAJECTORY
    world.controller._filter.playing = lambda situation: situation.speed_factor == 0.5 and bool(plays and plays.pop())
    world.controller.scaled(0.5)
    world.controller.fault(StopCause.PERMIT_LOST, "the guard")
    for _ in range(5):
        assert world.step(1).command is None
        assert world.controller.state is State.STOPPING
    assert world.step(1).command is None
    assert world.controller.state is State.FAULT_LATCHED


@pytest.mark.parametrize(
    ("kind", "factor", "sent"),
    [
        (CommandKind.TWIST, 1.0, True), (CommandKind.TWIST, 0.5, True), (CommandKind.TWIST, 0.0, False),
        (CommandKind.JOINT_TRAJECTORY, 1.0, True), (CommandKind.JOINT_TRAJECTORY, 0.99, False),
    ],
)  # fmt: skip
def test_stop_is_sent_unless_a_slowed_controller_would_jolt_with_every_message(kind, factor, sent):
    world = World().ready()
    world.controller.start("go")
    world.step(30)
    world.controller._filter.kind = kind
    world.controller.scaled(factor)
    world.controller.fault(StopCause.PERMIT_LOST, "the guard")
    assert (world.step(1).command is not None) is sent
