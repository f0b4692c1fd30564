# SPDX-License-Identifier: Apache-2.0
"""Start one node in this process, spin it, and leave cleanly on Ctrl-C or SIGTERM."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import rclpy
from rclpy.exceptions import InvalidHandle
from rclpy.executors import ExternalShutdownException, MultiThreadedExecutor, SingleThreadedExecutor
from rclpy.node import Node

from dropgate_controller.ros_setup import use_shared_memory

SWITCH_S = 1e-4


def run_node(make: Callable[[], Node], threads: int = 1, arguments: Sequence[str] | None = None) -> None:
    """Spin `make()` until the process is told to end.

    Args:
        make: builds the node, after rclpy has been initialised.
        threads: of the executor.
        arguments: command line; ROS arguments are taken out of it.
    """
    use_shared_memory()
    if threads > 1:  # rclpy's executor hands a callback over again and again until a thread has taken it, and would
        sys.setswitchinterval(SWITCH_S)  # keep the interpreter for the default 5 ms each time
    rclpy.init(args=list(sys.argv if arguments is None else arguments))
    executor = SingleThreadedExecutor() if threads == 1 else MultiThreadedExecutor(num_threads=threads)
    node = make()
    executor.add_node(node)
    try:
        while rclpy.ok():
            try:
                executor.spin()
            except InvalidHandle:
                continue  # a cleanup in another thread took something away while the executor prepared to wait
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        node.destroy_node()
        executor.shutdown()
        rclpy.try_shutdown()
