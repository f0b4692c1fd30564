# SPDX-License-Identifier: Apache-2.0
"""The driver's own words on the graph: the vendor's message types, looked up by name when the station asks for them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data

from runtime.control.driver_words import Ear

NEWEST = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
KEPT = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class NoDriverWords(RuntimeError):
    """The driver's messages cannot be listened to; says why, and the next step."""


def listen(node: Node, ears: Sequence[tuple[Ear, str]], told: Callable[[str, str], None]) -> None:
    """Subscribe to every topic; `told(what, objection)` hears of every message. Raises NoDriverWords.

    A word that is sent on a change only is asked for twice: kept, as newer drivers keep it, and plain, since a reader
    that wants a kept one hears nothing of older drivers.
    """
    for ear, topic in ears:
        kind = message_class(ear, topic)

        def heard(message: Any, ear: Ear = ear) -> None:
            told(ear.what, ear.objection(message))

        for qos in (KEPT, NEWEST) if ear.on_change else (qos_profile_sensor_data,):
            node.create_subscription(kind, topic, heard, qos)


def message_class(ear: Ear, topic: str) -> Any:
    """The type of a topic's messages. Raises NoDriverWords."""
    try:
        return getattr(importlib.import_module(f"{ear.package}.msg"), ear.message)
    except (ImportError, AttributeError) as error:
        package = ear.package.replace("_", "-")
        raise NoDriverWords(
            f"driver.{ear.parameter} is {topic}, but {ear.package}/{ear.message} is not installed here ({error}). "
            f"Next: apt install ros-$ROS_DISTRO-{package} or source the driver's workspace; or leave "
            f"driver.{ear.parameter} empty, and the guard knows less"
        ) from error
