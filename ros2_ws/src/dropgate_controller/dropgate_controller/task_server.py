# SPDX-License-Identifier: Apache-2.0
"""`~/run_task`: one goal at a time, feedback while it runs, cancel that brakes at once, the stop's cause as result."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from dropgate_interfaces.action import RunTask
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.action.server import ServerGoalHandle

from dropgate_controller import reports
from runtime.control.state import State
from runtime.control.task import Task
from runtime.telemetry import StopCause

if TYPE_CHECKING:
    from dropgate_controller.controller_node import ControllerNode

FEEDBACK_HZ = 5.0


class TaskServer:
    """Between a goal and `Controller.start`, and between the end of a task and the goal's result.

    A goal blocks one thread of the executor. Rejected: a coroutine that awaits a future, because rclpy's executors poll
    it without pause: a full core, and the interpreter lock with it, taken from the ticks.
    """

    def __init__(self, node: ControllerNode) -> None:
        self._node = node
        self._goal: ServerGoalHandle | None = None
        self._over: threading.Event | None = None
        self._task: Task | None = None
        self._server = ActionServer(
            node, RunTask, "~/run_task", self._execute, goal_callback=self._wanted, cancel_callback=self._cancelled,
            callback_group=node.calls,
        )  # fmt: skip
        self._timer = node.create_timer(1.0 / FEEDBACK_HZ, self._feedback, callback_group=node.calls, clock=node.steady)

    def ended(self, task: Task) -> None:
        """The controller's task is over and the arm rests."""
        self._task = task
        if self._over is not None:
            self._over.set()

    def close(self) -> None:
        """Off the graph; a goal that is on is aborted."""
        self._node.destroy_timer(self._timer)
        if self._over is not None:
            self._over.set()
        self._server.destroy()

    def _wanted(self, request: RunTask.Goal) -> GoalResponse:
        loaded = self._node.loaded
        if loaded is not None and loaded.controller.state is State.ARMED and self._over is None:
            return GoalResponse.ACCEPT
        self._node.get_logger().warning("goal refused: the controller is not armed, or another task is on")
        return GoalResponse.REJECT

    def _cancelled(self, goal: ServerGoalHandle) -> CancelResponse:
        self._node.do(lambda controller: controller.cancel())
        return CancelResponse.ACCEPT

    def _execute(self, goal: ServerGoalHandle) -> RunTask.Result:
        node, request, result = self._node, goal.request, RunTask.Result()
        began = node.now_s()
        self._task, over = None, threading.Event()
        self._over = over
        scale = request.speed_scale or 1.0
        started, text = node.do(lambda c: c.start(request.instruction, request.max_duration_s, scale))
        if not started:
            self._over = None
            result.cause, result.text = StopCause.NONE.value, text
            goal.abort()
            return result
        self._goal = goal
        if goal.is_cancel_requested:  # it came between the goal and the start
            node.do(lambda controller: controller.cancel())
        over.wait()
        self._goal = self._over = None
        task = self._task
        if task is None:  # the node is being taken down
            result.cause, result.text = StopCause.DEACTIVATED.value, "the controller was taken down"
            goal.abort()
            return result
        result.cause, result.text = task.cause.value, task.text
        result.chunks, result.commands, result.rejected_chunks = task.chunks, task.commands, task.rejected
        result.duration_s = node.now_s() - began
        if goal.is_cancel_requested and task.cause is StopCause.CANCELLED:
            goal.canceled()
        elif task.cause is StopCause.FINISHED:
            goal.succeed()
        else:
            goal.abort()
        return result

    def _feedback(self) -> None:
        goal, node = self._goal, self._node
        if goal is None or not goal.is_active:
            return
        with node.lock:
            if node.loaded is None:
                return
            message = reports.feedback(node.loaded, node.now_s())
        goal.publish_feedback(message)
