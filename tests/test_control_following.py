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


def watch(measured, seconds: float = 1.0) -> float | None:
    """When the first problem is found [s]; `measured(t)` is where joint a is reported."""
    following = Following(0.05, LAG_S, 0.1)
    for k in range(int(seconds / TICK_S)):
        now = k * TICK_S
        following.commanded(command(now))
        if following.problem(Measured(now, {"b": 0.0, "a": measured(now)})):
            return now
    return None


@pytest.mark.parametrize("lag", [0.0, 0.04, 0.09])
def test_arm_that_lags_follows(lag):
    assert watch(lambda t: SPEED * max(0.0, t - lag)) is None


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
