# SPDX-License-Identifier: Apache-2.0
"""A node's clock, simulation time where that is used, as the runtime's `Clock`."""

from __future__ import annotations

from rclpy.duration import Duration
from rclpy.node import Node


class NodeTime:
    """Implements `runtime.clock.Clock`."""

    def __init__(self, node: Node) -> None:
        self._clock = node.get_clock()

    def now(self) -> float:
        """Seconds of ROS time."""
        return float(self._clock.now().nanoseconds * 1e-9)

    def sleep(self, duration_s: float) -> None:
        """Wait in ROS time."""
        self._clock.sleep_for(Duration(seconds=max(0.0, duration_s)))
