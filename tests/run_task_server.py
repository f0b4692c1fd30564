# SPDX-License-Identifier: Apache-2.0
"""A process with a RunTask server that says back what it was asked; started by tests/test_ros_workspace.py."""

from __future__ import annotations

import rclpy
from dropgate_controller.ros_setup import use_shared_memory
from dropgate_interfaces.action import RunTask
from rclpy.action import ActionServer
from rclpy.action.server import ServerGoalHandle
from rclpy.node import Node


def answer(goal: ServerGoalHandle) -> RunTask.Result:
    """One feedback, then success with the goal's numbers in it."""
    asked = goal.request
    goal.publish_feedback(RunTask.Feedback(state="running", chunks=1, queue_s=0.4, scale=asked.speed_scale))
    goal.succeed()
    return RunTask.Result(cause="finished", text=asked.instruction, commands=7, duration_s=asked.max_duration_s)


if __name__ == "__main__":
    use_shared_memory()
    rclpy.init()
    node = Node("run_task_server")
    ActionServer(node, RunTask, "run_task", answer)
    rclpy.spin(node)
