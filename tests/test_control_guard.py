# SPDX-License-Identifier: Apache-2.0
"""The guard objects to silence, to a stuck counter and to a second commander; it cannot start any motion."""

import pytest

from runtime.clock import FakeClock
from runtime.control.guard import Guard, GuardSettings


def guard(**changes):
    clock = FakeClock()
    watch = Guard(GuardSettings(**changes), clock)
    return watch, clock


def alive(watch: Guard, clock: FakeClock, ticks: int = 3) -> None:
    for k in range(ticks):
        clock.advance(0.1)
        watch.heartbeat(k + int(clock.now() * 1000))
        watch.joints()


def test_permission_needs_every_sign_of_life():
    watch, _ = guard()
    assert "controller" in watch.objection()
    watch.heartbeat(1)
    assert "robot" in watch.objection()
    watch.joints()
    assert watch.objection() == ""


@pytest.mark.parametrize(("silent", "word"), [("heartbeat", "controller"), ("joints", "robot")])
def test_silence_takes_permission_away(silent, word):
    watch, clock = guard()
    alive(watch, clock)
    for k in range(6):
        clock.advance(0.1)
        if silent != "heartbeat":
            watch.heartbeat(10_000 + k)
        if silent != "joints":
            watch.joints()
    assert word in watch.objection()


def test_a_counter_that_stands_still_is_no_heartbeat():
    watch, clock = guard()
    alive(watch, clock)
    for _ in range(5):
        clock.advance(0.1)
        watch.heartbeat(7)
        watch.joints()
    assert "controller" in watch.objection()


def test_letting_go_of_the_enabling_input_counts_at_once():
    watch, clock = guard(require_enable=True)
    alive(watch, clock)
    watch.enable(True)
    assert watch.objection() == ""
    watch.enable(False)
    assert "enabling input" in watch.objection()


def test_a_second_commander_is_an_objection():
    watch, clock = guard()
    alive(watch, clock)
    watch.publishers = 1
    assert watch.objection() == ""
    watch.publishers = 2
    assert "2 nodes publish" in watch.objection()


@pytest.mark.parametrize(
    "changes",
    [
        {"heartbeat_s": 0.0},
        {"joints_s": float("nan")},
        {"enable_s": -1.0},
        {"scaling_s": 60.0},
        {"joints_s": 61},
        {"least_scaling": 0.0},
        {"least_scaling": 1.01},
        {"least_scaling": float("nan")},
    ],
)
def test_settings_without_sense_are_refused(changes):
    with pytest.raises(ValueError, match="guard"):
        GuardSettings(**changes)


def test_a_driver_whose_program_stands_or_whose_speed_is_zero_is_an_objection():
    watch, clock = guard(watch_program=True, watch_scaling=True)
    alive(watch, clock)
    assert "speed scaling" in watch.objection()
    watch.scaling(1.0)
    assert "driver's program" in watch.objection()
    watch.program(True)
    assert watch.objection() == ""
    watch.program(False)
    assert "does not run" in watch.objection()
    watch.program(True)
    watch.scaling(0.0)
    assert "scaling is 0" in watch.objection()
    watch.scaling(0.5)
    assert "scaling is 0.5" in watch.objection(), "a stream jolts while the controller is slowed"
    watch.scaling(1.0)
    clock.advance(0.6)
    watch.heartbeat(-1)
    watch.joints()
    assert "speed scaling" in watch.objection(), "a report that has ended"


@pytest.mark.parametrize(
    ("silent", "limit"), [("heartbeat", 0.3), ("joints", 0.5), ("enable", 0.2), ("scaling", 0.5)]
)  # fmt: skip
def test_by_default_a_silence_is_noticed_when_its_time_is_over(silent, limit):
    watch, clock = guard(require_enable=True, watch_scaling=True)
    says = {
        "heartbeat": lambda: watch.heartbeat(int(clock.now() * 1e6)), "joints": watch.joints,
        "enable": lambda: watch.enable(True), "scaling": lambda: watch.scaling(1.0),
    }  # fmt: skip
    clock.advance(1.0)
    for say in says.values():
        say()
    for step, expected in ((limit - 0.01, False), (0.02, True)):
        clock.advance(step)
        for name, say in says.items():
            if name != silent:
                say()
        assert bool(watch.objection()) is expected


def test_as_silent_and_as_slow_as_allowed_is_allowed():
    watch, clock = guard(heartbeat_s=0.25, watch_scaling=True)
    watch.heartbeat(1)
    clock.advance(0.25)
    watch.joints()
    watch.scaling(0.99)
    assert watch.objection() == ""


def test_a_scaling_that_is_not_watched_is_no_objection():
    watch, clock = guard()
    alive(watch, clock)
    watch.scaling(0.0)
    assert watch.objection() == ""
