# SPDX-License-Identifier: Apache-2.0
"""What an operator and a cell controller do, as a ROS node: bring up the controller, set the scene, give the task.

Everything is waited for in wall time and never for ever; every wait checks that the robot's processes live.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from dropgate_interfaces.action import RunTask
from dropgate_interfaces.msg import RuntimeStatus, SceneStatus
from dropgate_interfaces.srv import ResetScene
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.action import ActionClient
from rclpy.client import Client
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from sensor_msgs.msg import Image
from std_srvs.srv import SetBool, Trigger

from compress.gate.plan import Pair
from dropgate_sim.film import CAMERA, Film
from dropgate_sim.question import Question, TransitionQuestion
from dropgate_sim.ros_rows import RosRow

ROBOT, CONTROLLER = "/sim_robot", "/dropgate_controller"
LATCHED = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
START_S = 600.0  # building a scene, loading a policy: on a busy machine
ANSWER_S, READY_S, STALL_S, SPIN_S = 60.0, 30.0, 60.0, 0.02
ARMED, FAULT = "armed", "fault_latched"
BENIGN = ("cancelled", "finished")


class NotReady(RuntimeError):
    """The robot cannot be brought to where a task can begin, or does not answer."""


class Commander(Node):
    """See the module.

    Args:
        context: initialised.
        alive: raises if a process of the robot has ended; called in every wait.
    """

    def __init__(self, context: Context, alive: Callable[[], None]) -> None:
        super().__init__("regression", context=context, use_global_arguments=False)
        self._alive = alive
        self._executor = SingleThreadedExecutor(context=context)
        self._executor.add_node(self)
        self._scene: SceneStatus | None = None
        self._reached: SceneStatus | None = None  # the first status of this scene that says so
        self._status = RuntimeStatus()
        self._feedback: list[RunTask.Feedback] = []
        self._film, self._pictured = Film(), 0
        self.latencies: dict[str, str] = {}
        self.create_subscription(SceneStatus, f"{ROBOT}/scene", self._see, LATCHED)
        self.create_subscription(RuntimeStatus, f"{CONTROLLER}/status", self._hear, LATCHED)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._measure, 10)
        self.create_subscription(Image, f"/{CAMERA}/image_raw", self._picture, qos_profile_sensor_data)
        self._task = ActionClient(self, RunTask, f"{CONTROLLER}/run_task")
        self._change = self.create_client(ChangeState, f"{CONTROLLER}/change_state")
        self._get = self.create_client(GetState, f"{CONTROLLER}/get_state")
        self._reset_fault = self.create_client(Trigger, f"{CONTROLLER}/reset_fault")
        self._set_armed = self.create_client(SetBool, f"{CONTROLLER}/arm")
        self._reset_scene = self.create_client(ResetScene, f"{ROBOT}/reset")

    @property
    def status(self) -> RuntimeStatus:
        """The controller's newest word."""
        return self._status

    @property
    def film(self) -> Film:
        """Pictures of the last episode."""
        return self._film

    def alone(self, wait_s: float = 1.0) -> bool:
        """Nobody else is in this ROS domain."""
        until = time.monotonic() + wait_s
        while time.monotonic() < until:
            self._executor.spin_once(timeout_sec=SPIN_S)
        return self.get_node_names() == [self.get_name()]

    def bring_up(self) -> None:
        """Wait for the robot, configure and activate the controller. Raises NotReady with its reason."""
        self._until(lambda: self._scene is not None, START_S, "the simulated robot has published no scene")
        for name, transition in (
            ("configure", Transition.TRANSITION_CONFIGURE),
            ("activate", Transition.TRANSITION_ACTIVATE),
        ):
            self._ready(self._change, START_S)
            question = TransitionQuestion(self._change, self._get, transition)
            self._until(question.done, START_S, f"the controller does not say whether it could {name}")
            if not question.answer():
                self._spin(1.0)  # the status with the reason may come after the answer
                raise NotReady(f"the controller refused to {name}: {self._status.text or 'it gave no reason'}")

    def set_scene(self, pair: Pair) -> ResetScene.Response:
        """Stand the robot into a scene. Raises NotReady."""
        before = 0 if self._scene is None else _ns(self._scene.header.stamp)
        request = ResetScene.Request(task=pair.task, state=pair.state, seed=pair.seed)
        answer = self._call(self._reset_scene, request, START_S)
        if not answer.ok:
            raise NotReady(f"scene {tuple(pair)} was refused: {answer.text}")

        def shown() -> bool:
            scene = self._scene
            found = scene is not None and Pair(scene.task, scene.state, scene.seed) == pair
            return bool(found and scene.steps == 0 and _ns(scene.header.stamp) > before)

        self._until(shown, ANSWER_S, f"scene {tuple(pair)} was set, but its status has not come")
        self._reached = None
        return answer

    def run_task(self, pair: Pair, sentence: str, cap: int) -> RosRow:
        """Give the task; stop it at the goal or at `cap` control steps.

        Raises:
            NotReady: the task cannot even be begun.
        """
        self._film, self._feedback = Film(), []
        goal, result = self._begun(sentence)
        began = time.monotonic()
        reached, stalled = self._watch(result, cap)
        if not result.done():
            goal.cancel_goal_async()
        self._until(result.done, ANSWER_S, "the task was cancelled, but the controller does not end it")
        found, scene = result.result().result, self._reached if reached else self._scene
        assert scene is not None
        error = stalled
        if not error and not reached and found.cause not in BENIGN:
            error = f"{found.cause}: {found.text}"
        infer = [f.infer_s for f in self._feedback if f.infer_s >= 0.0]
        return RosRow(
            *pair, success=reached, steps=scene.steps, commands=scene.commands, chunks=found.chunks,
            rejected=found.rejected_chunks, cause=found.cause, text=found.text[:400], error=error[:400],
            infer_s=round(infer[-1], 4) if infer else 0.0,
            age_s=round(max((f.observation_age_s for f in self._feedback), default=0.0), 4),
            wall_s=round(time.monotonic() - began, 3),
        )  # fmt: skip

    def close(self) -> None:
        """Leave the graph."""
        self._task.destroy()
        self._executor.shutdown()
        self.destroy_node()

    def _begun(self, sentence: str) -> tuple[Any, Any]:
        """Goal handle and the future of its result, once the controller has taken the task and not given it back.

        Just after a reset its observations are still those of the scene before: it then refuses, and is asked again.
        """
        until, why = time.monotonic() + READY_S, "the goal was not accepted"
        while time.monotonic() < until:
            self._arm()
            self._until(self._task.server_is_ready, READY_S, "the controller offers no task")
            sent = self._task.send_goal_async(
                RunTask.Goal(instruction=sentence), feedback_callback=lambda m: self._feedback.append(m.feedback)
            )
            self._until(sent.done, ANSWER_S, "a goal was not answered")
            if sent.result().accepted:
                result = sent.result().get_result_async()
                self._spin(0.2)
                if not result.done() or result.result().result.commands:
                    return sent.result(), result
                why = result.result().result.text
            self._spin(0.2)
        raise NotReady(f"the controller does not begin the task: {why}")

    def _arm(self) -> None:
        """Armed, whatever it was before; a latched fault of the last episode is reset."""
        until, why = time.monotonic() + READY_S, "it is not active"
        while self._status.state != ARMED:
            if time.monotonic() > until:
                raise NotReady(f"the controller cannot be armed: {why} (state {self._status.state!r})")
            if self._status.state == FAULT:
                answer = self._call(self._reset_fault, Trigger.Request(), ANSWER_S)
            else:
                answer = self._call(self._set_armed, SetBool.Request(data=True), ANSWER_S)
            why = answer.message or why
            self._spin(0.2)

    def _watch(self, result: Any, cap: int) -> tuple[bool, str]:
        """Until the goal, the cap, or the task's own end; (reached, why it was given up)."""
        steps, since = -1, time.monotonic()
        while True:
            scene = self._scene
            assert scene is not None
            if self._reached is not None and self._reached.steps <= cap:
                return True, ""
            if scene.steps >= cap or result.done():
                return False, ""
            if scene.steps != steps:
                steps, since = scene.steps, time.monotonic()
            if time.monotonic() - since > STALL_S:
                return False, f"stalled: no control step for {STALL_S:g} s"
            self._spin_once()

    def _call(self, client: Client, request: Any, timeout_s: float) -> Any:
        self._ready(client, timeout_s)
        question = Question(client, request)
        self._until(question.done, timeout_s, f"service {client.srv_name} does not answer")
        return question.answer()

    def _ready(self, client: Client, timeout_s: float) -> None:
        self._until(client.service_is_ready, timeout_s, f"service {client.srv_name} is not there")

    def _until(self, done: Callable[[], bool], timeout_s: float, otherwise: str) -> None:
        until = time.monotonic() + timeout_s
        while not done():
            if time.monotonic() > until:
                raise NotReady(f"{otherwise} (waited {timeout_s:g} s)")
            self._spin_once()

    def _spin(self, duration_s: float) -> None:
        until = time.monotonic() + duration_s
        while time.monotonic() < until:
            self._spin_once()

    def _spin_once(self) -> None:
        self._alive()
        self._executor.spin_once(timeout_sec=SPIN_S)

    def _see(self, message: SceneStatus) -> None:
        self._scene = message
        if message.success and self._reached is None:
            self._reached = message

    def _hear(self, message: RuntimeStatus) -> None:
        self._status = message

    def _measure(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name == CONTROLLER[1:]:
                self.latencies = {item.key: item.value for item in status.values if item.key.endswith("ms")}

    def _picture(self, message: Image) -> None:
        if _ns(message.header.stamp) <= self._pictured:  # an observation that is repeated
            return
        self._pictured = _ns(message.header.stamp)
        pixels = np.frombuffer(message.data, dtype=np.uint8).reshape(message.height, message.width, 3)
        self._film.see(pixels[::-1, ::-1])  # as people see it


def _ns(stamp: Any) -> int:
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)
