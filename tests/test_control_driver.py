# SPDX-License-Identifier: Apache-2.0
"""The vendor's word outranks ours: unknown, silent or stopped is no; and an arm that does not follow is noticed."""

from __future__ import annotations

import numpy as np
import pytest

from runtime.clock import FakeClock
from runtime.control.driver import VENDORS, Driver
from runtime.control.following import Following, FollowLimits
from runtime.errors import ContractError
from runtime.safety import trajectory
from runtime.safety.trajectory import CommandKind, SafeTrajectory

SPEED = "/speed_scaling_state_broadcaster/speed_scaling"
SAFETY = "/io_and_status_controller/safety_mode"


def driver(vendor: str, **given) -> tuple[Driver, FakeClock]:
    """A driver whose signals are all good."""
    wall = FakeClock(10.0)
    made = Driver(vendor, wall, **given)
    say_good(made)
    return made, wall


def say_good(made: Driver) -> None:
    for signal in made.vendor.signals:
        made.hear(signal.topic, signal.field, next(iter(signal.good)))
    if made.vendor.speed is not None:
        made.hear(made.vendor.speed.topic, made.vendor.speed.field, made.vendor.speed.full)


@pytest.mark.parametrize("vendor", sorted(VENDORS))
def test_a_driver_that_says_nothing_bad_may_move(vendor: str) -> None:
    made, _ = driver(vendor)
    assert made.objection() == ""
    assert made.speed == 1.0


@pytest.mark.parametrize("vendor", sorted(set(VENDORS) - {"none"}))
def test_a_driver_that_has_said_nothing_may_not(vendor: str) -> None:
    assert "has not said anything" in Driver(vendor, FakeClock()).objection()


@pytest.mark.parametrize(
    ("vendor", "topic", "field", "value", "means"),
    [
        (vendor, signal.topic, signal.field, value, means)
        for vendor, found in VENDORS.items()
        for signal in found.signals
        for value, means in {**signal.bad, 99: "unknown", None: "unknown"}.items()
    ],
)
def test_every_other_value_is_a_no_with_its_meaning(vendor, topic, field, value, means) -> None:
    made, _ = driver(vendor)
    made.hear(topic, field, value)
    assert means in made.objection()


@pytest.mark.parametrize("vendor", ["generic", "franka", "xarm"])
def test_silence_is_a_no(vendor: str) -> None:
    made, wall = driver(vendor)
    wall.advance(0.6)
    assert "silent" in made.objection()


def test_what_is_published_only_when_it_changes_may_be_old() -> None:
    made, wall = driver("ur")
    wall.advance(600.0)
    made.hear(SPEED, "data", 1.0)
    assert made.objection() == ""
    made.hear(SAFETY, "mode", 3)
    assert "protective stop" in made.objection()


@pytest.mark.parametrize(("full", "said", "share"), [(None, 0.3, 0.3), (100.0, 30.0, 0.3), (None, 0.0, 0.0)])
def test_the_speed_is_a_share(full, said, share) -> None:
    made, _ = driver("ur", full_speed=full)
    made.hear(SPEED, "data", said)
    assert made.objection() == ""
    assert made.speed == pytest.approx(share)


@pytest.mark.parametrize("said", [100.0, -0.5, float("nan"), float("inf")])
def test_a_speed_that_makes_no_sense_is_a_no(said: float) -> None:
    made, _ = driver("ur")
    made.hear(SPEED, "data", said)
    assert "expected 0 to 1" in made.objection()
    assert 0.0 <= made.speed <= 1.0


def test_nonsense_is_refused() -> None:
    with pytest.raises(ContractError, match="expected one of"):
        Driver("acme", FakeClock())
    with pytest.raises(ContractError, match="full_speed"):
        Driver("ur", FakeClock(), full_speed=0.0)


NAMES = ("a", "b")


def ramp(start_s: float, place: float = 0.0, speed: float = 0.5) -> SafeTrajectory:
    """Joint a moves at `speed` for half a second, then rests."""
    times = np.array([0.0, 0.5])
    positions = np.array([[place, 0.0], [place + 0.5 * speed, 0.0]])
    velocities = np.array([[speed, 0.0], [0.0, 0.0]])
    return SafeTrajectory(
        CommandKind.JOINT_TRAJECTORY, NAMES, start_s, times, velocities, positions, None, 1.0,
        seal=trajectory._FILTER,
    )  # fmt: skip


def follow(delay_s: float, gain: float = 1.0, seconds: float = 2.0) -> str:
    """An arm that does what it is told `delay_s` later; the first objection."""
    following, sent = Following(FollowLimits(error_rad=0.02, lag_s=0.2, patience_s=0.1)), []
    for tick in range(int(seconds / 0.02)):
        now = 100.0 + 0.02 * tick
        sent.append(ramp(now, place=0.5 * 0.02 * tick))
        following.sent(sent[-1])
        held = next((c for c in reversed(sent) if c.start_s <= now - delay_s), sent[0])
        place = held.at(max(now - delay_s, held.start_s))[0]
        said = following.objection({"a": gain * place[0], "b": 0.0, "other": 9.0}, now)
        if said:
            return said
    return ""


@pytest.mark.parametrize("delay_s", [0.0, 0.05, 0.15])
def test_an_arm_that_follows_with_a_lag_is_fine(delay_s: float) -> None:
    assert follow(delay_s) == ""


@pytest.mark.parametrize(("delay_s", "gain"), [(0.6, 1.0), (0.0, 0.0), (0.0, 1.3)])
def test_one_that_does_not_is_noticed(delay_s: float, gain: float) -> None:
    assert follow(delay_s, gain).startswith("a is ")


def test_a_joint_that_is_not_reported_does_not_follow() -> None:
    following = Following(FollowLimits())
    following.sent(ramp(1.0))
    following.objection({"a": 0.0}, 1.0)
    assert "away" in following.objection({"a": 0.0}, 2.0)


def test_nothing_is_expected_of_an_arm_at_rest() -> None:
    following = Following(FollowLimits(patience_s=0.01))
    assert following.objection({}, 1.0) == ""
    following.sent(ramp(1.0))
    following.forget()
    assert following.objection({"a": 9.0, "b": 9.0}, 2.0) == ""
