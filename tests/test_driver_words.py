# SPDX-License-Identifier: Apache-2.0
"""What a vendor's driver says takes permission away, with the reason, and never gives any; the first cause is kept.

Messages here have the fields of the public .msg definitions; the vendors' packages are in a ROS installation only.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from runtime.clock import FakeClock
from runtime.control.driver_words import ADAPTERS, ears
from runtime.control.guard import Guard, GuardSettings


def franka(mode: int = 2, **errors: bool) -> SimpleNamespace:
    found = {"joint_reflex": False, "power_limit_violation": False, **errors}
    return SimpleNamespace(robot_mode=mode, current_errors=SimpleNamespace(**found))


def xarm(state: int = 2, mode: int = 1, err: int = 0) -> SimpleNamespace:
    return SimpleNamespace(state=state, mode=mode, err=err, warn=0)


def said(adapter: str, message: Any, parameter: str = "safety_topic") -> str:
    (ear,) = [ear for ear in ADAPTERS[adapter] if ear.parameter == parameter]
    return ear.objection(message)


@pytest.mark.parametrize("number", range(-1, 16))
def test_universal_robots_modes_permit_normal_reduced_and_running_alone(number: int) -> None:
    message = SimpleNamespace(mode=number)
    assert (said("ur", message) == "") == (number in (1, 2))
    assert (said("ur", message, "mode_topic") == "") == (number == 7)


def test_reasons_are_the_vendors_own_words() -> None:
    assert "PROTECTIVE_STOP, expected NORMAL" in said("ur", SimpleNamespace(mode=3))
    assert "POWER_OFF, expected RUNNING" in said("ur", SimpleNamespace(mode=3), "mode_topic")
    assert "99, which is not known" in said("ur", SimpleNamespace(mode=99))
    assert said("franka", franka(5)) == "is USER_STOPPED, expected MOVE"
    assert "joint_reflex" in said("franka", franka(joint_reflex=True))
    assert "error 24" in said("xarm", xarm(err=24))
    assert "PAUSED" in said("xarm", xarm(state=3))
    assert "mode 0, expected 1 (servo)" in said("xarm", xarm(mode=0))
    assert "'guarded', expected" in said("generic", SimpleNamespace(data="guarded"))


def test_a_healthy_robot_is_no_objection() -> None:
    assert said("franka", franka()) == said("xarm", xarm()) == said("xarm", xarm(state=1)) == ""
    assert said("generic", SimpleNamespace(data=" reduced\n")) == said("simulated", SimpleNamespace(data=1)) == ""


@pytest.mark.parametrize(
    "message", [SimpleNamespace(), SimpleNamespace(mode=None, data=None, robot_mode=None, state="", err="x"), None]
)
@pytest.mark.parametrize(("adapter", "parameter"), [(a, ear.parameter) for a in ADAPTERS for ear in ADAPTERS[a]])
def test_what_cannot_be_read_is_an_objection(adapter: str, parameter: str, message: Any) -> None:
    assert "cannot be read" in said(adapter, message, parameter)


def test_topics_without_an_adapter_are_refused() -> None:
    assert ears("", {"safety_topic": "", "mode_topic": ""}) == []
    assert [topic for _, topic in ears("ur", {"safety_topic": "/s", "mode_topic": "/m"})] == ["/s", "/m"]
    with pytest.raises(ValueError, match="whose messages come on"):
        ears("", {"safety_topic": "/s"})
    with pytest.raises(ValueError, match="expected one of ur, franka"):
        ears("magic", {})
    with pytest.raises(ValueError, match=r"driver.mode_topic is /m, but the adapter 'xarm' has \['safety_topic'\]"):
        ears("xarm", {"mode_topic": "/m"})


def guard(**changes: Any) -> tuple[Guard, FakeClock]:
    """Alive for everything but what the driver says."""
    clock = FakeClock()
    watch = Guard(GuardSettings(**{"words": (("safety mode", 0.0), ("state", 0.5)), **changes}), clock)
    watch.heartbeat(1)
    watch.joints()
    return watch, clock


def test_every_word_must_have_been_heard_and_the_periodic_one_lately() -> None:
    watch, clock = guard(heartbeat_s=50.0, joints_s=50.0)
    assert watch.objection() == "nothing has been heard from the robot's safety mode"
    watch.word("safety mode", "")
    assert watch.objection() == "nothing has been heard from the robot's state"
    watch.word("state", "")
    assert watch.objection() == ""
    clock.advance(0.6)
    assert "the robot's state has been silent" in watch.objection()
    watch.word("state", "")
    assert watch.objection() == "", "the other one is said on a change only"
    watch.word("safety mode", "is PROTECTIVE_STOP")
    assert watch.objection() == "the robot's safety mode is PROTECTIVE_STOP"


def test_words_give_no_permission_that_something_else_withholds() -> None:
    watch, _ = guard()
    watch.word("safety mode", "")
    watch.word("state", "")
    watch.publishers = 2
    assert "2 nodes publish" in watch.objection()


def test_the_first_cause_is_kept_until_permission_is_back() -> None:
    watch, _ = guard(words=(("safety mode", 0.0),), watch_program=True)
    assert watch.first == "", "what never was there has not been taken"
    watch.word("safety mode", "")
    watch.program(True)
    assert watch.objection() == watch.first == ""
    watch.program(False)
    watch.word("safety mode", "is FAULT")  # comes later, and is told first
    assert watch.objection() == "the robot's safety mode is FAULT"
    assert watch.first.startswith("the driver's program does not run")
    watch.program(True)
    assert watch.first.startswith("the driver's program does not run"), "there is no permission yet"
    watch.word("safety mode", "")
    assert watch.objection() == watch.first == ""


@pytest.mark.parametrize("seconds", [-1.0, 60.0, float("nan")])
def test_silences_without_sense_are_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="silence of state"):
        GuardSettings(words=(("state", seconds),))
