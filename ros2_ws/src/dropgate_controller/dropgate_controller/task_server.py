# SPDX-License-Identifier: Apache-2.0
"""`~/run_task`: one goal at a time, feedback while it runs, cancel that brakes at once, the stop's cause as result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dropgate_interfaces.action import RunTask
from rclpy._rclpy_pybind11 import RCLError
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.action.server import ServerGoalHandle

from dropgate_controller import reports
from dropgate_controller.assembly import Loaded
from runtime.control.controller import Controller
from runtime.control.state import NotAllowed, State
from runtime.control.task import Task
from runtime.telemetry import StopCause

if TYPE_CHECKING:
    from dropgate_controller.controller_node import ControllerNode

FEEDBACK_HZ = 5.0


class _DeferredServer(ActionServer):
    """Goals run in the ticks, not in the executor: the goal's callback is called at its end and only gives the result.

    Rejected: a callback that waits (it holds the executor), and one that awaits a future (rclpy's executors poll it
    without pause: a full core, and the interpreter lock with it, taken from the ticks).
    """

    def notify_execute(self, goal_handle: ServerGoalHandle, execute_callback: Any) -> None:
        """Called once a goal is executing."""
        del goal_handle, execute_callback

    def finish(self, goal_handle: ServerGoalHandle) -> None:
        """Have the executor call the goal's callback now; from any thread."""
        super().notify_execute(goal_handle, None)


class TaskServer:
    """Between a goal and `Controller.start`, and between the end of a task and the goal's result."""

    def __init__(self, node: ControllerNode) -> None:
        self._node = node
        self._goal: ServerGoalHandle | None = None
        self._began_s = 0.0
        self._result = RunTask.Result()
        self._server = _DeferredServer(
            node, RunTask, "~/run_task", self._give_result, goal_callback=self._wanted,
            handle_accepted_callback=self._begin, cancel_callback=self._cancelled,
        )  # fmt: skip
        self._timer = node.create_timer(1.0 / FEEDBACK_HZ, self._feedback, clock=node.steady)

    def ended(self, task: Task) -> None:
        """The controller's task is over and the arm rests."""
        self._rest()
        cause, text = task.cause.value, task.text
        self._result = RunTask.Result(
            cause=cause, text=text, chunks=task.chunks, commands=task.commands, rejected_chunks=task.rejected,
            duration_s=self._node.now_s() - self._began_s,
        )  # fmt: skip
        if self._goal is not None:
            self._server.finish(self._goal)

    @property
    def busy(self) -> bool:
        """A goal is on, or its result has not been given yet."""
        return self._goal is not None

    def close(self) -> None:
        """Off the graph; a goal that is on is aborted, if there is still somebody to tell."""
        self._node.destroy_timer(self._timer)
        goal, self._goal = self._goal, None
        try:
            if goal is not None and goal.is_active:
                goal.abort()
        except RCLError:
            if self._node.context.ok():
                raise
        finally:
            self._server.destroy()

    def _wanted(self, request: RunTask.Goal) -> GoalResponse:
        loaded = self._node.loaded
        why = "the controller is not armed, or another task is on"
        if loaded is not None and loaded.controller.state is _ready(loaded) and self._goal is None:
            why = self._objection(loaded, request.instruction)
        if not why:
            return GoalResponse.ACCEPT
        self._node.publish_status()
        self._node.get_logger().warning(f"goal refused: {why}")
        return GoalResponse.REJECT

    def _objection(self, loaded: Loaded, instruction: str) -> str:
        """Of the gatekeeper; a shadow, which is never armed from outside, is made ready for this task here."""
        try:
            loaded.gatekeeper.may_begin(instruction)
        except NotAllowed as error:
            return str(error)
        if loaded.station.enable_motion:
            return ""
        ready, text = self._node.do(lambda controller: controller.arm(True))
        return "" if ready else text

    def _rest(self) -> None:
        """A shadow is back where it was before its task."""
        if not self._node.moves:
            self._node.do(_disarm)

    def _begin(self, goal: ServerGoalHandle) -> None:
        """Start the task; its end comes from the ticks."""
        node, request = self._node, goal.request
        self._goal, self._began_s = goal, node.now_s()
        goal.execute()
        scale = request.speed_scale or 1.0
        started, text = node.do(lambda c: c.start(request.instruction, request.max_duration_s, scale))
        if not started:
            self._rest()
            self._result = RunTask.Result(cause=StopCause.NONE.value, text=text)
            self._server.finish(goal)

    def _cancelled(self, goal: ServerGoalHandle) -> CancelResponse:
        self._node.do(lambda controller: controller.cancel())
        return CancelResponse.ACCEPT

    def _give_result(self, goal: ServerGoalHandle) -> RunTask.Result:
        self._goal, result = None, self._result
        if goal.is_cancel_requested and result.cause == StopCause.CANCELLED.value:
            goal.canceled()
        elif result.cause == StopCause.FINISHED.value:
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


def _ready(loaded: Loaded) -> State:
    """The state in which a goal is taken: a shadow is never armed."""
    return State.ARMED if loaded.station.enable_motion else State.IDLE


def _disarm(controller: Controller) -> None:
    if controller.state is State.ARMED:
        controller.arm(False)
