# SPDX-License-Identifier: Apache-2.0
"""What an operator at a cell can do, as a ROS node: bring up, arm, hold the enabling input, give a task, reset."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from dropgate_interfaces.action import RunTask
from dropgate_interfaces.msg import RuntimeStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.action import ActionClient
from rclpy.clock import Clock, ClockType
from rclpy.context import Context
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import Bool
from std_srvs.srv import SetBool, Trigger

from dropgate_sim.question import Question, TransitionQuestion
from dropgate_sim.ros_time import nanoseconds

LATCHED = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
NEWEST = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
ENABLE_HZ, POLL_S = 20.0, 0.005


class GaveUp(RuntimeError):
    """Something that was waited for did not come."""


class OperatorNode(Node):
    """Spun by somebody else's thread; its methods wait in the caller's.

    Args:
        context: initialised.
        alive: raises if a process that must live has ended.
        patience_s: of every wait, in wall time.
    """

    def __init__(self, context: Context, alive: Callable[[], None], patience_s: float) -> None:
        super().__init__("operator", context=context)
        self._alive, self._patience_s = alive, patience_s
        self.status: RuntimeStatus | None = None
        self.first_cause: tuple[str, int] | None = None  # and the controller's time at which it said so [ns]
        self.diagnostics: dict[str, str] = {}  # of the controller, as it said last
        self.holding: bool | None = True  # the enabling input; None: nothing is said
        self._change = self.create_client(ChangeState, "/dropgate_controller/change_state")
        self._get = self.create_client(GetState, "/dropgate_controller/get_state")
        self._set_armed = self.create_client(SetBool, "/dropgate_controller/arm")
        self._reset = self.create_client(Trigger, "/dropgate_controller/reset_fault")
        self._stop = self.create_client(Trigger, "/dropgate_controller/stop")
        self._task = ActionClient(self, RunTask, "/dropgate_controller/run_task")
        self._enable = self.create_publisher(Bool, "/enable", NEWEST)
        self.create_subscription(RuntimeStatus, "/dropgate_controller/status", self._hear, LATCHED)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._diagnosed, 10)
        self.create_timer(1.0 / ENABLE_HZ, self._hold, clock=Clock(clock_type=ClockType.STEADY_TIME))

    @property
    def state(self) -> str:
        """The controller's, as it said last."""
        return "" if self.status is None else self.status.state

    def bring_up(self) -> None:
        """Configure and activate. Raises GaveUp with the reason."""
        for name in ("configure", "activate"):
            self._ready(self._change)
            number = getattr(Transition, f"TRANSITION_{name.upper()}")
            question = TransitionQuestion(self._change, self._get, number)
            self.wait(question.done, name)
            if not question.answer():
                time.sleep(0.3)
                raise GaveUp(f"{name} refused: {self.status.text if self.status else 'no status'}")

    def arm(self) -> None:
        """Armed, once the controller is ready for it; a latched fault is reset first."""

        def armed() -> bool:
            if self.state == "armed":
                return True
            if self.state == "fault_latched":
                self._call(self._reset, Trigger.Request())
            else:
                self.said = self._call(self._set_armed, SetBool.Request(data=True)).message
            time.sleep(0.05)
            return self.state == "armed"

        self.said = ""
        self.wait(armed, lambda: f"arming; state {self.state}: {self.said}")

    def start(self, instruction: str) -> None:
        """Give a task. Raises GaveUp if it is not taken."""
        self.first_cause = None
        self.wait(self._task.server_is_ready, "the task's server")
        sent = self._task.send_goal_async(RunTask.Goal(instruction=instruction))
        self.wait(sent.done, "an answer to the goal")
        if not sent.result().accepted:
            raise GaveUp(f"the goal was refused in state {self.state}")

    def disarm(self) -> None:
        """Idle, nothing armed."""
        self._call(self._set_armed, SetBool.Request(data=False))

    def refuses_arming(self) -> str:
        """Why arming is refused now; empty if it is not."""
        answer = self._call(self._set_armed, SetBool.Request(data=True))
        return "" if answer.success else answer.message

    def refuses_goals(self) -> bool:
        """Whether a goal is refused now."""
        sent = self._task.send_goal_async(RunTask.Goal(instruction="sweep"))
        self.wait(sent.done, "an answer to the goal")
        return not sent.result().accepted

    def stop(self) -> None:
        """The software stop."""
        self._call(self._stop, Trigger.Request())

    def wait(self, fact: Callable[[], Any], what: str | Callable[[], str], patience_s: float | None = None) -> None:
        """Poll until `fact`. Raises GaveUp."""
        until = time.monotonic() + (patience_s or self._patience_s)
        while not fact():
            self._alive()
            if time.monotonic() > until:
                raise GaveUp(f"still waiting for {what() if callable(what) else what}")
            time.sleep(POLL_S)

    def _call(self, client: Any, request: Any) -> Any:
        self._ready(client)
        question = Question(client, request)
        self.wait(question.done, client.srv_name)
        return question.answer()

    def _ready(self, client: Any) -> None:
        self.wait(client.service_is_ready, client.srv_name)

    def _hold(self) -> None:
        if self.holding is not None:
            self._enable.publish(Bool(data=self.holding))

    def _diagnosed(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name == "dropgate_controller":
                self.diagnostics = {value.key: value.value for value in status.values}

    def _hear(self, message: RuntimeStatus) -> None:
        self.status = message
        stopping = message.state in ("stopping", "fault_latched")
        if stopping and message.cause not in ("", "none") and self.first_cause is None:
            self.first_cause = (message.cause, nanoseconds(message.header.stamp))
