# SPDX-License-Identifier: Apache-2.0
"""Nanoseconds <-> ROS's times."""

from __future__ import annotations

from typing import Any

from builtin_interfaces.msg import Time
from rosgraph_msgs.msg import Clock

SECOND_NS = 1_000_000_000


def stamp(time_ns: int) -> Time:
    """Nanoseconds -> message."""
    return Time(sec=time_ns // SECOND_NS, nanosec=time_ns % SECOND_NS)


def nanoseconds(time: Any) -> int:
    """Time or Duration message -> nanoseconds."""
    return int(time.sec) * SECOND_NS + int(time.nanosec)


def clock(time_ns: int) -> Clock:
    """`/clock`."""
    return Clock(clock=stamp(time_ns))
