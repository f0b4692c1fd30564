# SPDX-License-Identifier: Apache-2.0
"""The vendor's word outranks ours: unknown, silent or stopped is no."""

from __future__ import annotations

import pytest

from runtime.clock import FakeClock
from runtime.control.driver import VENDORS, Driver
from runtime.errors import ContractError

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
