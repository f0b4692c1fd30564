# SPDX-License-Identifier: Apache-2.0
"""Start one node in this process, spin it, and leave cleanly on Ctrl-C or SIGTERM."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node

from dropgate_controller.ros_setup import use_shared_memory


def run_node(make: Callable[[], Node], arguments: Sequence[str] | None = None) -> None:
    """Spin `make()` in one thread until the process is told to end.

    One thread: entities are made and destroyed by the thread that waits for them. With several, rclpy's executor has
    hung and has died of invalid handles at cleanup. What must not wait for callbacks has its own thread (`Ticker`).

    Args:
        make: builds the node, after rclpy has been initialised.
        arguments: command line; ROS arguments are taken out of it.
    """
    use_shared_memory()
    rclpy.init(args=list(sys.argv if arguments is None else arguments))
    executor, node = SingleThreadedExecutor(), make()
    executor.add_node(node)
    try:
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        node.destroy_node()
        executor.shutdown()
        rclpy.try_shutdown()
