# SPDX-License-Identifier: Apache-2.0
"""May the robot's own driver move it, and how fast does it really go? One table of signals per vendor, no vendor code.

What the vendor's controller decides (protective stop, program stopped, speed slider) outranks everything here: its word
is read, never overridden. A signal that is missing, too old or of an unknown value counts as "no".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runtime.clock import Clock
from runtime.errors import ContractError


@dataclass(frozen=True)
class Signal:
    """One thing that a driver publishes.

    Attributes:
        topic: default name.
        type: ROS message type, `package/msg/Name`.
        field: of the message.
        good: values with which motion is possible, and what they mean.
        bad: known values with which it is not, for people.
        max_age_s: older is unknown [s]; infinite for what is published only when it changes.
    """

    topic: str
    type: str
    field: str
    good: Mapping[Any, str]
    bad: Mapping[Any, str]
    max_age_s: float = math.inf


@dataclass(frozen=True)
class SpeedSignal:
    """Share of the commanded speed at which the robot really runs; `full` is the value that means all of it."""

    topic: str
    full: float
    type: str = "std_msgs/msg/Float64"
    field: str = "data"
    max_age_s: float = 0.5


@dataclass(frozen=True)
class Vendor:
    """What a driver tells about itself; `source` says where the names and numbers are from."""

    signals: tuple[Signal, ...]
    speed: SpeedSignal | None
    source: str


_UR_SAFETY = {
    3: "protective stop", 4: "recovery", 5: "safeguard stop", 6: "system emergency stop", 7: "robot emergency stop",
    8: "violation", 9: "fault", 10: "joint id to be validated", 11: "undefined", 12: "automatic mode safeguard stop",
    13: "three-position enabling stop",
}  # fmt: skip
_UR_ROBOT = {
    -1: "no controller", 0: "disconnected", 1: "confirm safety", 2: "booting", 3: "power off", 4: "power on",
    5: "idle", 6: "backdrive", 8: "updating firmware",
}  # fmt: skip
_FRANKA = {
    0: "other", 1: "idle", 3: "guiding", 4: "reflex", 5: "user stopped", 6: "automatic error recovery",
}  # fmt: skip
_STATUS = "/io_and_status_controller"

VENDORS: dict[str, Vendor] = {
    "none": Vendor((), None, "a robot without such signals: a simulation"),
    "generic": Vendor(
        (Signal("/robot_ready", "std_msgs/msg/Bool", "data", {True: "ready"}, {False: "not ready"}, 0.5),),
        SpeedSignal("/speed_scaling", 1.0),
        "two topics that a node of the cell publishes at 10 Hz or more",
    ),
    "ur": Vendor(
        (
            Signal(f"{_STATUS}/safety_mode", "ur_dashboard_msgs/msg/SafetyMode", "mode",
                   {1: "normal", 2: "reduced"}, _UR_SAFETY),
            Signal(f"{_STATUS}/robot_mode", "ur_dashboard_msgs/msg/RobotMode", "mode", {7: "running"}, _UR_ROBOT),
            Signal(f"{_STATUS}/robot_program_running", "std_msgs/msg/Bool", "data", {True: "running"},
                   {False: "the External Control program does not run"}),
        ),
        SpeedSignal("/speed_scaling_state_broadcaster/speed_scaling", 1.0),
        "ur_dashboard_msgs SafetyMode.msg and RobotMode.msg; ur_controllers documentation (speed between 0 and 1; "
        "drivers before 2.2.6 say per cent: set driver.full_speed to 100)",
    ),
    "franka": Vendor(
        (
            Signal("/franka_robot_state_broadcaster/robot_state", "franka_msgs/msg/FrankaRobotState", "robot_mode",
                   {2: "move"}, _FRANKA, 0.5),
        ),
        None,
        "franka_msgs FrankaRobotState.msg",
    ),
    "xarm": Vendor(
        (
            Signal("/xarm/robot_states", "xarm_msgs/msg/RobotMsg", "state",
                   {1: "in motion", 2: "ready"}, {3: "paused", 4: "stopped"}, 0.5),
            Signal("/xarm/robot_states", "xarm_msgs/msg/RobotMsg", "err", {0: "no error"}, {}, 0.5),
        ),
        None,
        "xarm_msgs RobotMsg.msg and UFACTORY's explanation of states; not seen on an arm",
    ),
}  # fmt: skip


class Driver:
    """The newest word of one robot's driver.

    Args:
        vendor: a key of `VENDORS`.
        wall: wall time; silence is measured in it.
        full_speed: what the speed topic publishes at full speed; None takes the vendor's.

    Raises:
        ContractError: no such vendor.
    """

    def __init__(self, vendor: str, wall: Clock, full_speed: float | None = None) -> None:
        if vendor not in VENDORS:
            raise ContractError(f"driver: found {vendor!r}, expected one of {sorted(VENDORS)}")
        if full_speed is not None and not (math.isfinite(full_speed) and full_speed > 0.0):
            raise ContractError(f"driver: full_speed is {full_speed}, expected a number above 0, such as 1 or 100")
        self.vendor, self._wall = VENDORS[vendor], wall
        self._full = full_speed or (self.vendor.speed.full if self.vendor.speed else 1.0)
        self._heard: dict[tuple[str, str], tuple[float, Any]] = {}

    def hear(self, topic: str, field: str, value: Any) -> None:
        """A field of a message that came on a topic (by its default name)."""
        self._heard[topic, field] = (self._wall.now(), value)

    def objection(self) -> str:
        """Why the robot will not or must not move, in words; empty if it can."""
        now = self._wall.now()
        for signal in self.vendor.signals:
            key = (signal.topic, signal.field)
            if key not in self._heard:
                return f"the driver has not said anything on {signal.topic}"
            since, value = self._heard[key]
            if now - since > signal.max_age_s:
                return f"the driver has been silent on {signal.topic} for {now - since:.2f} s"
            if value not in signal.good:
                known = signal.bad.get(value, "unknown to this version")
                wanted = " or ".join(signal.good.values())
                return f"{signal.topic}: {signal.field} is {value} ({known}), expected {wanted}"
        return self._speed_objection(now)

    @property
    def speed(self) -> float:
        """Share of the commanded speed at which the robot runs, in [0, 1]; 1 for one that has no such thing."""
        signal = self.vendor.speed
        if signal is None or (signal.topic, signal.field) not in self._heard:
            return 1.0 if signal is None else 0.0
        value = float(self._heard[signal.topic, signal.field][1]) / self._full
        return min(1.0, max(0.0, value)) if math.isfinite(value) else 0.0

    def _speed_objection(self, now: float) -> str:
        signal = self.vendor.speed
        if signal is None:
            return ""
        if (signal.topic, signal.field) not in self._heard:
            return f"the driver has not said anything on {signal.topic}"
        since, value = self._heard[signal.topic, signal.field]
        if now - since > signal.max_age_s:
            return f"the driver has been silent on {signal.topic} for {now - since:.2f} s"
        if not -1e-6 <= float(value) <= self._full * 1.001:
            return (
                f"{signal.topic} says {value}, expected 0 to {self._full:g}; is it per cent? Then set driver.full_speed"
            )
        return ""
