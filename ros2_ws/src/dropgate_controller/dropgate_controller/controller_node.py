# SPDX-License-Identifier: Apache-2.0
"""`controller_node`: the closed loop as a managed ROS 2 node. Only translation: what happens is in `runtime.control`.

configure = verify the artifact, check its verdicts, load it in its worker, warm up; activate = publishers and goals;
deactivate stops first. In shadow mode (`enable_motion` false) there is no command publisher at all.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from dropgate_interfaces.action import RunTask
from dropgate_interfaces.msg import ActionChunk as ActionChunkMsg
from dropgate_interfaces.msg import RuntimeStatus
from geometry_msgs.msg import PoseStamped, TwistStamped
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup, ReentrantCallbackGroup
from rclpy.clock import Clock as RosClock
from rclpy.clock import ClockType
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleState, Node, TransitionCallbackReturn
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from rclpy.task import Future
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Bool, Float64
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory

from dropgate_controller import conversions, parameters
from dropgate_controller.node_runner import run_node
from dropgate_controller.policy_link import WorkerLink
from runtime.clock import Clock, MonotonicClock
from runtime.contract.artifact import Artifact, read_artifact
from runtime.contract.chunk import ActionChunk
from runtime.contract.regression import check_regression
from runtime.control.controller import Controller, Task, Tick
from runtime.control.observation import JOINTS, TCP, ObservationBuffer, StateMap
from runtime.control.state import MOVING, ON_TASK, NotAllowed, State
from runtime.errors import DropGateRuntimeError
from runtime.inference.policy import check_verdict
from runtime.inference.worker_client import PolicyWorker
from runtime.safety.filter import SafetyFilter
from runtime.safety.trajectory import CommandKind, SafeTrajectory
from runtime.telemetry import StopCause

HEARTBEAT_HZ, FEEDBACK_HZ = 20.0, 5.0
STOP_WAIT_S = 2.0
RELIABLE = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class NodeTime:
    """The node's clock (simulation time where that is used) as `runtime.clock.Clock`."""

    def __init__(self, node: Node) -> None:
        self._clock = node.get_clock()

    def now(self) -> float:
        """Seconds of ROS time."""
        return float(self._clock.now().nanoseconds * 1e-9)

    def sleep(self, duration_s: float) -> None:
        """Wait in ROS time."""
        self._clock.sleep_for(Duration(seconds=max(0.0, duration_s)))


class ControllerNode(Node):
    """See the module. One lock guards the controller; nothing that waits is done while holding it."""

    def __init__(self) -> None:
        super().__init__("dropgate_controller")
        parameters.declare(self)
        self._lock = threading.RLock()
        self._wall: Clock = MonotonicClock()
        self._steady = RosClock(clock_type=ClockType.STEADY_TIME)
        self._sensors, self._ticking, self._calls = (
            MutuallyExclusiveCallbackGroup(),
            MutuallyExclusiveCallbackGroup(),
            ReentrantCallbackGroup(),
        )
        self._controller: Controller | None = None
        self._worker: PolicyWorker | None = None
        self._made: list[Any] = []
        self._beat, self._sequence, self._said = 0, 0, ("", "")
        self._waiting: Future | None = None
        self._why = ""
        self._status = self.create_publisher(RuntimeStatus, "~/status", LATCHED)
        self.create_timer(1.0 / HEARTBEAT_HZ, self._heartbeat, callback_group=self._ticking, clock=self._steady)

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Verify, load, warm up. Any reason against it is logged, shown in the status, and refuses the transition."""
        try:
            self._configure()
        except (DropGateRuntimeError, parameters.ParameterError, NotAllowed, OSError, ValueError) as error:
            self._why = f"{type(error).__name__}: {error}"
            self.get_logger().error(f"configure refused: {self._why}")
            self._tear_down()
            self._publish_status()
            return TransitionCallbackReturn.FAILURE
        self._why = ""
        self._publish_status()
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """From now on the arm can be armed and goals are taken."""
        assert self._controller is not None
        with self._lock:
            self._controller.activate()
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop first, then leave; fails only if the arm cannot be brought to rest."""
        controller = self._controller
        assert controller is not None
        with self._lock:
            if controller.state in MOVING:
                controller.fault(StopCause.DEACTIVATED, "deactivated")
        until = self._wall.now() + STOP_WAIT_S
        while controller.state in MOVING and self._wall.now() < until:
            time.sleep(0.01)  # the tick brakes meanwhile, in its own thread
        with self._lock:
            try:
                controller.deactivate()
            except NotAllowed as error:
                self.get_logger().error(f"deactivate refused: {error}")
                return TransitionCallbackReturn.FAILURE
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Forget the artifact and end its worker."""
        self._tear_down()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """The same."""
        self._tear_down()
        return TransitionCallbackReturn.SUCCESS

    def destroy_node(self) -> None:
        """End the worker with the node."""
        self._tear_down()
        super().destroy_node()

    def _configure(self) -> None:
        moves = self.get_parameter("enable_motion").value
        artifact = read_artifact(parameters.artifact_path(self))
        check_verdict(artifact.manifest, allow_unsealed=False, require_promoted=moves)
        policy = artifact.manifest.policy
        station = parameters.read(self, policy)
        if station.enable_motion and station.require_regression:
            check_regression(artifact, station.robot)
        filter_ = SafetyFilter(policy.action, station.limits, station.timing)
        state = StateMap(station.state, policy.observation)
        buffer = ObservationBuffer(
            policy.observation, state, station.joint_names, needs_tcp=station.kind is CommandKind.TWIST
        )
        self._artifact, self._station = artifact, station
        self._worker = PolicyWorker(artifact, station.worker)
        self._load(self._worker)
        if station.enable_motion and not self._worker.for_motion:
            raise NotAllowed("this worker's answers must not move a robot: use a real engine")
        self._link = WorkerLink(self._worker)
        self._controller = Controller(station.settings, filter_, buffer, self._link, NodeTime(self), self._wall)
        self._connect(artifact)

    def _load(self, worker: PolicyWorker) -> None:
        """Wait until the worker has verified, loaded and warmed up. Raises NotAllowed with its reason."""
        worker.start()
        while not worker.ready:
            worker.poll()
            if not worker.alive:
                raise NotAllowed(f"the policy worker did not start: {worker.died_because}")
            time.sleep(0.01)

    def _connect(self, artifact: Artifact) -> None:
        """Everything on the graph that exists only while configured."""
        station, made = self._station, self._made
        sensor, policy = qos_profile_sensor_data, artifact.manifest.policy
        images = {spec.key: spec for spec in policy.observation.images}

        def hear(kind: Any, topic: str, callback: Any, qos: Any) -> None:
            made.append(self.create_subscription(kind, topic, callback, qos, callback_group=self._sensors))

        for camera in station.cameras:
            compressed = camera.transport == "compressed"
            read = conversions.image_from_compressed if compressed else conversions.image_from
            spec = images[camera.key]
            hear(
                CompressedImage if compressed else Image,
                camera.topic,
                lambda m, key=camera.key, read=read, spec=spec: self._take(key, m, lambda: read(m, spec)),
                sensor,
            )
        hear(
            JointState,
            station.joints_topic,
            lambda m: self._take(JOINTS, m, lambda: conversions.joints_from(m)),
            sensor,
        )
        if station.tcp_topic:
            frame = station.tcp_frame
            hear(
                PoseStamped,
                station.tcp_topic,
                lambda m: self._take(TCP, m, lambda: conversions.pose_from(m, frame)),
                sensor,
            )
        hear(Bool, station.permit_topic, lambda m: self._told(lambda c: c.permit(m.data)), RELIABLE)
        hear(Bool, station.enable_topic, lambda m: self._told(lambda c: c.enable(m.data)), RELIABLE)
        self._commands = self._gripper = None
        if station.enable_motion:
            kind = TwistStamped if station.kind is CommandKind.TWIST else JointTrajectory
            self._commands = self.create_publisher(kind, station.command_topic, RELIABLE)
            made.append(self._commands)
            if station.gripper_topic:
                self._gripper = self.create_publisher(Float64, station.gripper_topic, RELIABLE)
                made.append(self._gripper)
        self._raw, self._safe = (
            self.create_publisher(ActionChunkMsg, f"~/chunk_{name}", RELIABLE) for name in ("raw", "safe")
        )
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        calls = {"callback_group": self._calls}
        made += [
            self._raw,
            self._safe,
            self._diagnostics,
            self.create_service(SetBool, "~/arm", self._arm, **calls),
            self.create_service(Trigger, "~/stop", self._stop, **calls),
            self.create_service(Trigger, "~/reset_fault", self._reset, **calls),
            self.create_timer(1.0 / station.tick_hz, self._tick, callback_group=self._ticking, clock=self._steady),
            self.create_timer(1.0 / FEEDBACK_HZ, self._feedback, callback_group=self._calls, clock=self._steady),
            self.create_timer(1.0, self._diagnose, callback_group=self._calls, clock=self._steady),
        ]
        self._goal_handle: ServerGoalHandle | None = None
        self._server = ActionServer(
            self, RunTask, "~/run_task", self._execute, goal_callback=self._goal, cancel_callback=self._cancel, **calls
        )

    def _tear_down(self) -> None:
        with self._lock:
            self._controller = None
        if getattr(self, "_server", None) is not None:
            self._server.destroy()
            self._server = None
        for thing in self._made:
            for destroy in (
                self.destroy_subscription,
                self.destroy_publisher,
                self.destroy_service,
                self.destroy_timer,
            ):
                if destroy(thing):
                    break
        self._made.clear()
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def _take(self, name: str, message: Any, convert: Any) -> None:
        """A sensor message into the buffer; one that cannot be read leaves its stream to grow old."""
        controller = self._controller
        if controller is None:
            return
        try:
            value = convert()
        except conversions.ConversionError as error:
            self.get_logger().warning(f"{name}: {error}", throttle_duration_sec=1.0)
            value = None
        with self._lock:
            now = self.get_clock().now().nanoseconds * 1e-9
            controller.buffer.put(name, conversions.seconds(message.header.stamp), value, now)

    def _told(self, tell: Any) -> None:
        with self._lock:
            if self._controller is not None:
                tell(self._controller)

    def _tick(self) -> None:
        with self._lock:
            controller = self._controller
            if controller is None:
                return
            tick = controller.tick()
            if tick.command is not None:
                self._send(tick.command)
        self._show(controller, tick)
        if tick.ended is not None:
            self._finish(tick.ended)

    def _send(self, command: SafeTrajectory) -> None:
        """Gripper first: who waits for the arm's command finds both."""
        if self._commands is None:
            return
        if self._gripper is not None and command.gripper is not None:
            self._gripper.publish(Float64(data=command.gripper))
        if command.kind is CommandKind.TWIST:
            self._commands.publish(conversions.twist_from(command, self._station.command_frame))
        else:
            self._commands.publish(conversions.joint_trajectory_from(command))

    def _show(self, controller: Controller, tick: Tick) -> None:
        if tick.raw is not None:
            self._publish_chunk(controller, tick.raw, tick)
        found = (tick.state.value, controller.incident.text)
        if found != self._said:
            self._said = found
            self.get_logger().info(f"{found[0]}{f': {found[1]}' if found[1] else ''}")
            self._publish_status()

    def _publish_chunk(self, controller: Controller, raw: ActionChunk, tick: Tick) -> None:
        self._sequence += 1
        artifact, spec = self._artifact.manifest.artifact_id, self._artifact.manifest.policy.action
        infer = controller.latencies.inference.max_s
        self._raw.publish(conversions.raw_chunk(raw, spec.scale, self._sequence, artifact, infer))
        if tick.admitted is not None:
            names = controller.command_names
            self._safe.publish(conversions.safe_chunk(tick.admitted, names, self._sequence, artifact, infer))

    def _goal(self, request: RunTask.Goal) -> GoalResponse:
        with self._lock:
            ok = self._controller is not None and self._controller.state is State.ARMED and self._waiting is None
        if not ok:
            self.get_logger().warning("goal refused: the controller is not armed, or another task is on")
        return GoalResponse.ACCEPT if ok else GoalResponse.REJECT

    def _cancel(self, goal: ServerGoalHandle) -> CancelResponse:
        self._told(lambda c: c.cancel())
        return CancelResponse.ACCEPT

    async def _execute(self, goal: ServerGoalHandle) -> RunTask.Result:
        result, request = RunTask.Result(), goal.request
        started = self._wall.now()
        with self._lock:
            try:
                if self._controller is None:
                    raise NotAllowed("the controller is not configured")
                task = self._controller.start(request.instruction, request.max_duration_s, request.speed_scale or 1.0)
            except NotAllowed as error:
                goal.abort()
                result.cause, result.text = StopCause.NONE.value, str(error)
                return result
            self._waiting = Future()
            self._goal_handle = goal
        if goal.is_cancel_requested:
            self._told(lambda c: c.cancel())
        await self._waiting
        self._goal_handle = None
        result.cause, result.text = task.cause.value, task.text
        result.chunks, result.commands, result.rejected_chunks = task.chunks, task.commands, task.rejected
        result.duration_s = self._wall.now() - started
        if goal.is_cancel_requested and task.cause is StopCause.CANCELLED:
            goal.canceled()
        elif task.cause is StopCause.FINISHED:
            goal.succeed()
        else:
            goal.abort()
        self._waiting = None
        return result

    def _finish(self, task: Task) -> None:
        waiting = self._waiting
        if waiting is not None and not waiting.done():
            waiting.set_result(task)

    def _feedback(self) -> None:
        goal, controller = self._goal_handle, self._controller
        if goal is None or controller is None or not goal.is_active:
            return
        with self._lock:
            message = RunTask.Feedback(state=controller.state.value, queue_s=controller.queue_s)
            task = controller.task
            if task is not None:
                message.chunks, message.commands = task.chunks, task.commands
            ages = controller.buffer.ages(self.get_clock().now().nanoseconds * 1e-9).values()
            message.observation_age_s = float(max(ages, default=0.0))
            message.infer_s = _number(controller.latencies.inference.p50_s)
            message.scale = controller.tempo
        goal.publish_feedback(message)

    def _arm(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        response.success, response.message = self._do(lambda c: self._armed(c, request.data))
        if response.success and request.data and self._commands is None:
            response.message = "shadow mode: nothing is sent to the robot"
        return response

    def _armed(self, controller: Controller, wanted: bool) -> None:
        others = self._other_publishers()
        if wanted and others:
            raise NotAllowed(f"{others} other node(s) publish on {self._station.command_topic}")
        if wanted and self._commands is not None and self._commands.get_subscription_count() == 0:
            raise NotAllowed(f"nobody listens on {self._station.command_topic}: start the robot's driver")
        controller.arm(wanted)

    def _other_publishers(self) -> int:
        own = 0 if self._commands is None else 1
        return max(0, self.count_publishers(self._station.command_topic) - own)

    def _stop(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success, response.message = self._do(lambda c: c.stop())
        return response

    def _reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        worker = self._worker
        if worker is not None and not worker.alive:
            try:
                self._load(worker)
                self._link.restarted()
            except (DropGateRuntimeError, NotAllowed) as error:
                response.success, response.message = False, str(error)
                return response
        response.success, response.message = self._do(self._reset_if_alone)
        return response

    def _reset_if_alone(self, controller: Controller) -> None:
        others = self._other_publishers()
        if others:
            raise NotAllowed(f"{others} other node(s) publish on {self._station.command_topic}")
        controller.reset_fault()

    def _do(self, action: Any) -> tuple[bool, str]:
        with self._lock:
            if self._controller is None:
                return False, "the controller is not configured"
            try:
                action(self._controller)
            except NotAllowed as error:
                return False, str(error)
            state = self._controller.state.value
        self._publish_status()
        return True, state

    def _heartbeat(self) -> None:
        self._beat += 1
        controller = self._controller
        if controller is not None and controller.state in ON_TASK:
            others = self._other_publishers()
            if others:
                text = f"{others} other node(s) publish on {self._station.command_topic}"
                self._told(lambda c: c.fault(StopCause.COMMAND_CONFLICT, text))
        self._publish_status()

    def _publish_status(self) -> None:
        message = RuntimeStatus(heartbeat=self._beat, state=State.UNCONFIGURED.value, text=self._why)
        message.header.stamp = self.get_clock().now().to_msg()
        message.cause = StopCause.NONE.value
        with self._lock:
            controller = self._controller
            if controller is not None:
                now = self.get_clock().now().nanoseconds * 1e-9
                ages, rates = controller.buffer.ages(now), controller.buffer.rates()
                message.state, message.cause = controller.state.value, controller.incident.cause.value
                message.text = controller.incident.text
                message.motion_enabled, message.permit = self._station.enable_motion, controller.permitted
                message.armed = controller.state in ON_TASK or controller.state is State.ARMED
                message.artifact_id = self._artifact.manifest.artifact_id
                message.policy_id = self._artifact.manifest.policy_id
                message.tick_p99_s = _number(controller.latencies.tick.p99_s)
                message.tick_max_s = _number(controller.latencies.tick.max_s)
                message.scale = controller.tempo
                message.streams, message.stream_age_s = list(ages), [_number(age) for age in ages.values()]
                message.stream_hz = [rates[name] for name in ages]
                message.observation_age_s = max(message.stream_age_s, default=0.0)
        self._status.publish(message)

    def _diagnose(self) -> None:
        controller = self._controller
        if controller is None:
            return
        with self._lock:
            state, incident, found = controller.state, controller.incident, controller.latencies
            values = {"state": state.value, "cause": incident.cause.value, "queue_s": f"{controller.queue_s:.3f}"}
            for name, histogram in vars(found).items():
                values |= {
                    f"{name} {label} ms": f"{1000 * value:.3f}"
                    for label, value in (("p50", histogram.p50_s), ("p99", histogram.p99_s), ("max", histogram.max_s))
                }
        bad = state in (State.STOPPING, State.FAULT_LATCHED)
        status = DiagnosticStatus(
            level=DiagnosticStatus.ERROR if bad else DiagnosticStatus.OK, name="dropgate_controller",
            message=incident.text or state.value, hardware_id=self._station.robot,
            values=[KeyValue(key=key, value=value) for key, value in values.items()],
        )  # fmt: skip
        message = DiagnosticArray(status=[status])
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)


def _number(value: float) -> float:
    """A message field: nothing measured is -1."""
    return float(value) if value == value and abs(value) != float("inf") else -1.0


def main() -> None:
    """Console script."""
    run_node(ControllerNode, threads=4)


if __name__ == "__main__":
    main()
