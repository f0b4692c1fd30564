# SPDX-License-Identifier: Apache-2.0
"""Start one node in this process, spin it, and leave cleanly on Ctrl-C or SIGTERM: what moves is stopped first."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from dropgate_controller.ending import Ending
from dropgate_controller.ros_setup import use_shared_memory

REST_S = 2.0  # most that is waited for; a launcher sends SIGTERM 5 s after its SIGINT, and SIGKILL after that
LAST_TURNS, LAST_TURN_S = 40, 0.005  # of the executor: results that wait to be sent

N = TypeVar("N", bound=Node)


def run_node(
    make: Callable[[], N], arguments: Sequence[str] | None = None, stop: Callable[[N, str], None] | None = None,
    rests: Callable[[N], bool] | None = None,
) -> None:  # fmt: skip
    """Spin `make()` in one thread until the process is told to end.

    One thread: entities are made and destroyed by the thread that waits for them. With several, rclpy's executor has
    hung and has died of invalid handles at cleanup. What must not wait for callbacks has its own thread (`Ticker`).

    Args:
        make: builds the node, after rclpy has been initialised.
        arguments: command line; ROS arguments are taken out of it.
        stop: called with the signal's name, from another thread and once more from this one.
        rests: nothing is left to wait for; asked at most `REST_S` seconds, in which callbacks go on.
    """
    use_shared_memory()
    ending = Ending()
    rclpy.init(args=list(sys.argv if arguments is None else arguments), signal_handler_options=SignalHandlerOptions.NO)
    executor, node = SingleThreadedExecutor(), make()
    executor.add_node(node)
    if stop is not None:
        ending.then(lambda why: stop(node, why))
    ending.then(lambda why: _wake(executor))
    try:
        while rclpy.ok() and not ending.why:
            executor.spin_once()
        if stop is not None and rests is not None and ending.why:
            stop(node, ending.why)  # before anything else is called here
            _spin_until(executor, lambda: rests(node))
    except ExternalShutdownException:
        pass
    finally:
        try:
            node.destroy_node()
        finally:
            executor.shutdown()
            rclpy.try_shutdown()


def _spin_until(executor: SingleThreadedExecutor, rests: Callable[[], bool]) -> None:
    until = time.monotonic() + REST_S
    while not rests() and time.monotonic() < until:
        executor.spin_once(timeout_sec=0.01)
    for _ in range(LAST_TURNS):
        executor.spin_once(timeout_sec=LAST_TURN_S)


def _wake(executor: SingleThreadedExecutor) -> None:
    """It comes back from its wait for a task, even for one that does nothing."""
    executor.create_task(lambda: None)
