# SPDX-License-Identifier: Apache-2.0
"""What a vendor's driver says about its robot, as a reason against motion: one adapter per vendor, all of one form.

    UR        ur_dashboard_msgs/SafetyMode, RobotMode: NORMAL or REDUCED, and RUNNING
    Franka    franka_msgs/FrankaRobotState: MOVE (a controller drives it), no current error
    xArm      xarm_msgs/RobotMsg: ready or running, servo mode, no error
    generic   std_msgs/String: NORMAL or REDUCED, from a node of the cell
    simulated std_msgs/UInt8 with UR's numbers, from `dropgate_sim`

Program and speed scaling (std_msgs/Bool, Float64) are the guard's own, whoever the vendor is. Messages are read by
attribute, so no vendor's package is needed here; numbers are those of the public .msg definitions, franka_ros2
@429b37a, xarm_ros2 @476e2d4 (servo mode too), Universal_Robots_ROS2_Driver @9f48b6c (RobotMode) and, for SafetyMode,
the ROS 1 Universal_Robots_ROS_Driver @c6e2bfe: the ROS 2 file was not at hand. What is not known to be good is a reason
against. Not seen on a real driver.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

UR_SAFETY = {
    1: "NORMAL", 2: "REDUCED", 3: "PROTECTIVE_STOP", 4: "RECOVERY", 5: "SAFEGUARD_STOP", 6: "SYSTEM_EMERGENCY_STOP",
    7: "ROBOT_EMERGENCY_STOP", 8: "VIOLATION", 9: "FAULT", 10: "VALIDATE_JOINT_ID", 11: "UNDEFINED_SAFETY_MODE",
    12: "AUTOMATIC_MODE_SAFEGUARD_STOP", 13: "SYSTEM_THREE_POSITION_ENABLING_STOP",
}  # fmt: skip
UR_MODE = {
    -1: "NO_CONTROLLER", 0: "DISCONNECTED", 1: "CONFIRM_SAFETY", 2: "BOOTING", 3: "POWER_OFF", 4: "POWER_ON", 5: "IDLE",
    6: "BACKDRIVE", 7: "RUNNING", 8: "UPDATING_FIRMWARE",
}  # fmt: skip
FRANKA_MODE = {
    0: "OTHER", 1: "IDLE", 2: "MOVE", 3: "GUIDING", 4: "REFLEX", 5: "USER_STOPPED", 6: "AUTOMATIC_ERROR_RECOVERY",
}  # fmt: skip
XARM_STATE = {1: "RUNNING", 2: "SLEEPING", 3: "PAUSED", 4: "STOPPED", 5: "CONFIG_CHANGED"}
XARM_SERVO = 1  # the mode in which the driver's position interface is heard
SAFE_WORDS = ("NORMAL", "REDUCED")


@dataclass(frozen=True)
class Ear:
    """One topic of a driver.

    Attributes:
        parameter: the guard's parameter `driver.<parameter>` names the topic; empty = it is not listened to.
        what: the robot's ..., for people.
        package, message: type of its messages, `<package>.msg.<message>`.
        why_not: why this message forbids motion, in words; empty if it does not.
        on_change: it is sent when it changes only, so silence is no sign; else it comes all the time.
    """

    parameter: str
    what: str
    package: str
    message: str
    why_not: Callable[[Any], str]
    on_change: bool

    def objection(self, message: Any) -> str:
        """As `why_not`; a message that cannot be read forbids motion too."""
        try:
            return self.why_not(message)
        except (AttributeError, TypeError, ValueError, KeyError) as error:
            wanted = f"{self.package}/{self.message}"
            return f"cannot be read ({type(error).__name__}: {error}), expected messages of {wanted}"


def _one_of(number: Any, names: Mapping[int, str], good: tuple[str, ...]) -> str:
    name = names.get(int(number), f"{number}, which is not known")
    return "" if name in good else f"is {name}, expected {' or '.join(good)}"


def _ur_safety(message: Any) -> str:
    return _one_of(message.mode, UR_SAFETY, SAFE_WORDS)


def _ur_mode(message: Any) -> str:
    return _one_of(message.mode, UR_MODE, ("RUNNING",))


def _simulated(message: Any) -> str:
    return _one_of(message.data, UR_SAFETY, SAFE_WORDS)


def _generic(message: Any) -> str:
    word = message.data.strip().upper()
    return "" if word in SAFE_WORDS else f"is {message.data[:60]!r}, expected {' or '.join(SAFE_WORDS)}"


def _franka(message: Any) -> str:
    errors = message.current_errors
    names = errors.get_fields_and_field_types() if hasattr(errors, "get_fields_and_field_types") else vars(errors)
    active = [name for name in names if getattr(errors, name)]
    if active:
        return f"has errors: {', '.join(active)}"
    return _one_of(message.robot_mode, FRANKA_MODE, ("MOVE",))


def _xarm(message: Any) -> str:
    if int(message.err):
        return f"has error {message.err}"
    state = _one_of(message.state, XARM_STATE, ("RUNNING", "SLEEPING"))
    if state or int(message.mode) == XARM_SERVO:
        return state
    return f"is in mode {message.mode}, expected {XARM_SERVO} (servo): the driver does not command it"


ADAPTERS: Mapping[str, tuple[Ear, ...]] = {
    "ur": (
        Ear("safety_topic", "safety mode", "ur_dashboard_msgs", "SafetyMode", _ur_safety, True),
        Ear("mode_topic", "robot mode", "ur_dashboard_msgs", "RobotMode", _ur_mode, True),
    ),
    "franka": (Ear("safety_topic", "state", "franka_msgs", "FrankaRobotState", _franka, False),),
    "xarm": (Ear("safety_topic", "state", "xarm_msgs", "RobotMsg", _xarm, False),),
    "generic": (Ear("safety_topic", "safety mode", "std_msgs", "String", _generic, False),),
    "simulated": (Ear("safety_topic", "safety mode", "std_msgs", "UInt8", _simulated, False),),
}
PARAMETERS = ("safety_topic", "mode_topic")


def ears(adapter: str, topics: Mapping[str, str]) -> list[tuple[Ear, str]]:
    """Which topics the guard listens to, and how.

    Args:
        adapter: one of ADAPTERS; empty where no topic is given.
        topics: of every one of PARAMETERS; empty = not listened to.

    Raises:
        ValueError: the adapter is not known, or a topic is given that it has no ear for.
    """
    given = {name: topic for name, topic in topics.items() if topic}
    if not adapter and not given:
        return []
    if adapter not in ADAPTERS:
        raise ValueError(
            f"driver.adapter is {adapter!r}, expected one of {', '.join(ADAPTERS)}: whose messages come on {given}?"
        )
    known = {ear.parameter: ear for ear in ADAPTERS[adapter]}
    deaf = sorted(set(given) - set(known))
    if deaf:
        raise ValueError(f"driver.{deaf[0]} is {given[deaf[0]]}, but the adapter {adapter!r} has {sorted(known)} only")
    return [(known[name], topic) for name, topic in given.items()]
