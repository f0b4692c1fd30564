# SPDX-License-Identifier: Apache-2.0
"""`controller_node`: the closed loop as a managed ROS 2 node. Only translation: what happens is in `runtime.control`.

configure = verify the artifact, check its verdicts, load it in its worker, warm up; activate = goals are taken;
deactivate stops first. In shadow mode (`enable_motion` false) there is no command publisher at all.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from dropgate_interfaces.msg import ActionChunk as ActionChunkMsg
from dropgate_interfaces.msg import RuntimeStatus
from geometry_msgs.msg import TwistStamped
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup, ReentrantCallbackGroup
from rclpy.clock import Clock as RosClock
from rclpy.clock import ClockType
from rclpy.lifecycle import LifecycleState, Node, TransitionCallbackReturn
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import Float64
from std_srvs.srv import SetBool, Trigger
from trajectory_msgs.msg import JointTrajectory

from dropgate_controller import conversions, parameters, reports
from dropgate_controller.assembly import Loaded, assemble, start
from dropgate_controller.node_runner import run_node
from dropgate_controller.sensors import subscribe
from dropgate_controller.task_server import TaskServer
from runtime.clock import Clock, MonotonicClock
from runtime.control.controller import Controller
from runtime.control.state import MOVING, ON_TASK, NotAllowed
from runtime.control.task import Tick
from runtime.errors import DropGateRuntimeError
from runtime.safety.trajectory import CommandKind, SafeTrajectory
from runtime.telemetry import StopCause

HEARTBEAT_HZ, STOP_WAIT_S = 20.0, 2.0
RELIABLE = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
REFUSALS = (DropGateRuntimeError, parameters.ParameterError, NotAllowed, OSError, ValueError)


class ControllerNode(Node):
    """See the module. One lock guards the controller; nothing that waits is done while holding it."""

    def __init__(self) -> None:
        super().__init__("dropgate_controller")
        parameters.declare(self)
        self.lock = threading.RLock()
        self.loaded: Loaded | None = None
        self._wall: Clock = MonotonicClock()
        self.steady = RosClock(clock_type=ClockType.STEADY_TIME)  # ticks go on while simulated time stands still
        self._sensing, self._ticking = MutuallyExclusiveCallbackGroup(), MutuallyExclusiveCallbackGroup()
        self.calls = ReentrantCallbackGroup()
        self._made: list[Any] = []
        self._tasks: TaskServer | None = None
        self._commands = self._gripper = None
        self._beat, self._sequence, self._said, self._why = 0, 0, ("", ""), ""
        self._status = self.create_publisher(RuntimeStatus, "~/status", LATCHED)
        self.create_timer(1.0 / HEARTBEAT_HZ, self._heartbeat, callback_group=self._ticking, clock=self.steady)

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Verify, load, warm up. Any reason against it is logged, shown in the status, and refuses the transition."""
        try:
            loaded = assemble(self, self._wall)
        except REFUSALS as error:
            self._why = f"{type(error).__name__}: {error}"
            self.get_logger().error(f"configure refused: {self._why}")
            self._publish_status()
            return TransitionCallbackReturn.FAILURE
        self._why = ""
        self._connect(loaded)
        self.loaded = loaded
        self._publish_status()
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """From now on the arm can be armed and goals are taken."""
        self.do(lambda controller: controller.activate())
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop first, then leave; fails only if the arm cannot be brought to rest."""

        def stop(controller: Controller) -> None:
            if controller.state in MOVING:
                controller.fault(StopCause.DEACTIVATED, "deactivated")

        self.do(stop)
        until = self._wall.now() + STOP_WAIT_S
        while self.loaded and self.loaded.controller.state in MOVING and self._wall.now() < until:
            time.sleep(0.01)  # the tick brakes meanwhile, in its own thread
        done, text = self.do(lambda controller: controller.deactivate())
        if not done:
            self.get_logger().error(f"deactivate refused: {text}")
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

    def now_s(self) -> float:
        """ROS time [s]."""
        return float(self.get_clock().now().nanoseconds * 1e-9)

    def do(self, action: Callable[[Controller], Any]) -> tuple[bool, str]:
        """Act on the controller under the lock; (False, why) if it is not possible now."""
        with self.lock:
            if self.loaded is None:
                return False, "the controller is not configured"
            try:
                action(self.loaded.controller)
            except NotAllowed as error:
                return False, str(error)
            state = self.loaded.controller.state.value
        self._publish_status()
        return True, state

    def _connect(self, loaded: Loaded) -> None:
        """Everything on the graph that exists only while configured."""
        station, made = loaded.station, self._made
        made += subscribe(self, loaded, self._take, RELIABLE, self._sensing)
        if station.enable_motion:
            kind = TwistStamped if station.kind is CommandKind.TWIST else JointTrajectory
            self._commands = self.create_publisher(kind, station.command_topic, RELIABLE)
            made.append(self._commands)
        if station.enable_motion and station.gripper_topic:
            self._gripper = self.create_publisher(Float64, station.gripper_topic, RELIABLE)
            made.append(self._gripper)
        self._raw = self.create_publisher(ActionChunkMsg, "~/chunk_raw", RELIABLE)
        self._safe = self.create_publisher(ActionChunkMsg, "~/chunk_safe", RELIABLE)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        steady = {"clock": self.steady}
        made += [
            self._raw,
            self._safe,
            self._diagnostics,
            self.create_service(SetBool, "~/arm", self._arm, callback_group=self.calls),
            self.create_service(Trigger, "~/stop", self._stop, callback_group=self.calls),
            self.create_service(Trigger, "~/reset_fault", self._reset, callback_group=self.calls),
            self.create_timer(1.0 / station.tick_hz, self._tick, callback_group=self._ticking, **steady),
            self.create_timer(1.0, self._diagnose, callback_group=self.calls, **steady),
        ]
        self._tasks = TaskServer(self)

    def _tear_down(self) -> None:
        with self.lock:
            loaded, self.loaded = self.loaded, None
        if self._tasks is not None:
            self._tasks.close()
            self._tasks = None
        kinds = (self.destroy_subscription, self.destroy_publisher, self.destroy_service, self.destroy_timer)
        for thing in self._made:
            any(destroy(thing) for destroy in kinds)
        self._made.clear()
        self._commands = self._gripper = None
        if loaded is not None:
            loaded.worker.close()

    def _take(self, name: str, message: Any, convert: Callable[[], Any]) -> None:
        """A sensor message into the buffer; one that cannot be read leaves its stream to grow old, and says why."""
        try:
            value = convert()
        except conversions.ConversionError as error:
            self.get_logger().warning(f"{name}: {error}", throttle_duration_sec=1.0)
            value = None
        with self.lock:
            if self.loaded is not None:
                stamp_s = conversions.seconds(message.header.stamp)
                self.loaded.controller.buffer.put(name, stamp_s, value, self.now_s())

    def _tick(self) -> None:
        with self.lock:
            loaded = self.loaded
            if loaded is None:
                return
            tick = loaded.controller.tick()
            if tick.command is not None:
                self._send(tick.command, loaded)
        self._show(loaded, tick)
        if tick.ended is not None and self._tasks is not None:
            self._tasks.ended(tick.ended)

    def _send(self, command: SafeTrajectory, loaded: Loaded) -> None:
        """Gripper first: who waits for the arm's command finds both."""
        if self._commands is None:
            return
        if self._gripper is not None and command.gripper is not None:
            self._gripper.publish(Float64(data=command.gripper))
        if command.kind is CommandKind.TWIST:
            self._commands.publish(conversions.twist_from(command, loaded.station.command_frame))
        else:
            self._commands.publish(conversions.joint_trajectory_from(command))

    def _show(self, loaded: Loaded, tick: Tick) -> None:
        """Chunks as they come, and the state when it changes."""
        if tick.answer is not None:
            self._sequence += 1
            manifest = loaded.artifact.manifest
            about = (self._sequence, manifest.artifact_id, tick.answer.infer_s)
            self._raw.publish(conversions.raw_chunk(tick.answer.chunk, manifest.policy.action.scale, *about))
            if tick.admitted is not None:
                self._safe.publish(conversions.safe_chunk(tick.admitted, loaded.filter.names, *about))
        found = (tick.state.value, loaded.controller.incident.text)
        if found != self._said:
            self._said = found
            self.get_logger().info(": ".join(part for part in found if part))
            self._publish_status()

    def _arm(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        def arm(controller: Controller) -> None:
            if request.data:
                self._require_sole_command()
            controller.arm(request.data)

        response.success, response.message = self.do(arm)
        if response.success and request.data and self._commands is None:
            response.message = "shadow mode: nothing is sent to the robot"
        return response

    def _stop(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success, response.message = self.do(lambda controller: controller.stop())
        return response

    def _reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Start a dead worker again, then reset; the arm stays disarmed."""
        try:
            self._revive(self.loaded)
        except DropGateRuntimeError as error:
            response.success, response.message = False, str(error)
            return response

        def reset(controller: Controller) -> None:
            self._require_no_rival()
            controller.reset_fault()

        response.success, response.message = self.do(reset)
        return response

    def _revive(self, loaded: Loaded | None) -> None:
        """Start a dead worker; meanwhile the ticks, which go on, leave it alone. Raises BackendError."""
        if loaded is None or loaded.worker.alive:
            return
        with self.lock:  # no tick is polling it now, and none will
            loaded.link.suspended = True
        try:
            loaded.worker.close()  # it may still be ending
            start(loaded.worker)
            loaded.link.restarted()
        finally:
            loaded.link.suspended = False

    def _rivals(self) -> str:
        """Who else commands the arm, in words; empty if nobody."""
        if self.loaded is None:
            return ""
        topic = self.loaded.station.command_topic
        others = self.count_publishers(topic) - (self._commands is not None)
        return f"{others} other node(s) publish on {topic}" if others > 0 else ""

    def _require_no_rival(self) -> None:
        rivals = self._rivals()
        if rivals:
            raise NotAllowed(rivals)

    def _require_sole_command(self) -> None:
        self._require_no_rival()
        if self._commands is not None and self._commands.get_subscription_count() == 0:
            raise NotAllowed(f"nobody listens on {self._commands.topic}: start the robot's driver")

    def _heartbeat(self) -> None:
        self._beat += 1
        loaded = self.loaded
        rivals = self._rivals() if loaded is not None and loaded.controller.state in ON_TASK else ""
        if rivals:
            self.do(lambda controller: controller.fault(StopCause.COMMAND_CONFLICT, rivals))
        self._publish_status()

    def _publish_status(self) -> None:
        with self.lock:
            stamp = self.get_clock().now().to_msg()
            message = reports.status(self.loaded, stamp, self.now_s(), self._beat, self._why)
        self._status.publish(message)

    def _diagnose(self) -> None:
        with self.lock:
            if self.loaded is None:
                return
            message = reports.diagnostics(self.loaded, self.get_clock().now().to_msg())
        self._diagnostics.publish(message)


def main() -> None:
    """Console script."""
    run_node(ControllerNode, threads=6)  # ticks, sensors, a goal that waits, calls


if __name__ == "__main__":
    main()
