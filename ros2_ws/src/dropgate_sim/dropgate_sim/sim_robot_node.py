# SPDX-License-Identifier: Apache-2.0
"""LIBERO's arm behind the topics of a real one: commands in, joint states, tool pose and cameras out.

Commands are heard below `/dropgate_sim/` only, so that what may move this arm can never move a real one.

Lockstep contract: the node publishes `/clock` and then the observation of t_k, and waits for a motion command stamped
t_k or later. The gripper command of the same instant must be *published before* the motion command, both reliable: when
the motion command is there, everything that has arrived is read, and then the step is taken. A reset takes
RESET_NS of simulated time: it never goes back, and what was stamped before is old for everybody.

Single-threaded: physics, drawing and messages take turns in one loop, so nothing changes while a step is computed.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence

import rclpy
from dropgate_interfaces.msg import SceneStatus
from dropgate_interfaces.srv import ResetScene
from geometry_msgs.msg import PoseStamped, TwistStamped
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor, TimeoutException
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from rclpy.signals import SignalHandlerOptions
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Float64
from trajectory_msgs.msg import JointTrajectory

from compress.sim.envs import open_suite
from compress.sim.renderer import NoRenderer
from compress.sim.suites import UnknownTask
from dropgate_sim import messages
from dropgate_sim.commands import STEP_NS, CommandRefused
from dropgate_sim.faults import Drivers, Fault
from dropgate_sim.pace import Lockstep, Pace, RealTime, Turn
from dropgate_sim.settings import BadSetting, check_fault, declare, fault_of
from dropgate_sim.sim_robot import CAMERAS, Interface, NoScene, RobotState, Scene, SimRobot
from runtime.clock import MonotonicClock
from runtime.contract.regression import SIMULATED_NAMESPACE

CANNOT_START = (
    BadSetting, UnknownTask, NoRenderer, ImportError, FileNotFoundError, InvalidParameterTypeException,
    InvalidParameterValueException,
)  # fmt: skip
START_NS = RESET_NS = 1_000_000_000
TWIST_TOPIC = SIMULATED_NAMESPACE + "servo_node/delta_twist_cmds"
TRAJECTORY_TOPIC = SIMULATED_NAMESPACE + "joint_trajectory_controller/joint_trajectory"
GRIPPER_TOPIC = SIMULATED_NAMESPACE + "gripper/command"
RELIABLE = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
LATCHED = QoSProfile(
    depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)  # the newest to everyone who comes


class SimRobotNode(Node):
    """Node `sim_robot`. Raises BadSetting, or what `open_suite` raises."""

    def __init__(self) -> None:
        super().__init__("sim_robot")
        s = self._settings = declare(self)
        self._drivers, self._refused = Drivers(), ""
        self._drivers.set(fault_of(self))
        self._robot = SimRobot(open_suite(s.suite, s.assets), s.image_size, s.interface, s.keep_envs)
        wall = MonotonicClock()
        self._pace: Pace = Lockstep(wall, s.hold_after_s) if s.lockstep else RealTime(wall, 1.0 / s.rate_hz)
        self._sim_ns = START_NS
        self._last: tuple[RobotState, int] | None = None
        self._advertise()
        # the gripper first: of messages that are ready at once, subscriptions made earlier are served earlier
        self.create_subscription(Float64, GRIPPER_TOPIC, self._on_gripper, RELIABLE)
        if s.interface is Interface.TWIST:
            self.create_subscription(TwistStamped, TWIST_TOPIC, self._on_twist, RELIABLE)
        else:
            self.create_subscription(JointTrajectory, TRAJECTORY_TOPIC, self._on_trajectory, RELIABLE)
        self.create_service(ResetScene, "~/reset", self._on_reset)
        self.add_on_set_parameters_callback(self._on_parameters)

    def run(self) -> None:
        """Until the context ends. Raises what the simulator raises in a step."""
        self._stand(self._settings.scene)
        executor = SingleThreadedExecutor(context=self.context)
        executor.add_node(self)
        while self.context.ok():
            executor.spin_once(timeout_sec=self._pace.wait_s())
            turn = self._pace.turn()
            if turn is Turn.STEP:
                _drain(executor)
                turn = self._pace.turn()  # what was just read may have been a reset
            if turn is Turn.STEP:
                self._step()
            elif turn is Turn.REPEAT and self._last is not None:
                self._publish(*self._last)

    def close(self) -> None:
        """Frees the simulator."""
        self._robot.close()

    def _advertise(self) -> None:
        sensor = qos_profile_sensor_data
        self._clock_out = self.create_publisher(Clock, "/clock", RELIABLE) if self._settings.lockstep else None
        self._joints_out = self.create_publisher(JointState, "/joint_states", sensor)
        self._tool_out = self.create_publisher(PoseStamped, "/tcp_pose", sensor)
        self._raw_out = {key: self.create_publisher(Image, f"/{key}/image_raw", sensor) for key in CAMERAS}
        packed = CAMERAS if self._settings.publish_compressed else ()
        self._packed_out = {
            key: self.create_publisher(CompressedImage, f"/{key}/image_raw/compressed", sensor) for key in packed
        }
        self._scene_out = self.create_publisher(SceneStatus, "~/scene", LATCHED)

    def _now_ns(self) -> int:
        return self._sim_ns if self._settings.lockstep else self.get_clock().now().nanoseconds

    def _stand(self, scene: Scene) -> None:
        state = self._robot.reset(scene, self._now_ns())
        self._sim_ns += RESET_NS
        now_ns = self._now_ns()
        self._refused = ""
        self._publish(state, now_ns)
        self._pace.began(now_ns)

    def _step(self) -> None:
        watched = any(out.get_subscription_count() for out in (*self._raw_out.values(), *self._packed_out.values()))
        try:
            state = self._robot.step(self._now_ns(), draw=watched)
        except NoScene as error:
            self._refuse(str(error))
            self._pace.stepped(self._now_ns())
            return
        self._sim_ns += STEP_NS
        now_ns = self._now_ns()
        self._publish(state, now_ns)
        self._pace.stepped(now_ns)
        missed = getattr(self._pace, "missed", 0)
        if missed:
            self.get_logger().warning(
                f"slower than {self._settings.rate_hz:g} steps a second: {missed} steps were left out so far. "
                "Next: mode lockstep, or a lower rate",
                throttle_duration_sec=10.0,
            )

    def _publish(self, state: RobotState, now_ns: int) -> None:
        """Everything of one instant, `/clock` first."""
        self._last = (state, now_ns)
        if self._clock_out is not None:
            self._clock_out.publish(messages.clock(now_ns))
        reading = self._drivers.read(state, now_ns)
        joints = messages.joint_state(reading)
        if joints is not None:
            self._joints_out.publish(joints)
        self._tool_out.publish(messages.tool_pose(reading))
        for key, pixels in reading.images.items():
            self._raw_out[key].publish(messages.image(key, pixels, reading.stamp_ns))
            if key in self._packed_out and self._packed_out[key].get_subscription_count():
                self._packed_out[key].publish(messages.compressed_image(key, pixels, reading.stamp_ns))
        self._publish_scene(state, now_ns)

    def _publish_scene(self, state: RobotState, now_ns: int) -> None:
        fault = self._drivers.fault
        said = "" if fault is Fault.NONE else fault.value
        if self._refused:
            said = f"{said}; refused: {self._refused}" if said else f"refused: {self._refused}"
        if self._robot.scene is not None:
            self._scene_out.publish(messages.scene_status(self._robot.scene, state, now_ns, said))

    def _on_twist(self, message: TwistStamped) -> None:
        stamp_ns, now_ns = messages.nanoseconds(message.header.stamp), self._now_ns()
        twist, frame = messages.twist_of(message), message.header.frame_id
        self._take(lambda: self._robot.apply_twist(twist, frame, stamp_ns, now_ns), stamp_ns)

    def _on_trajectory(self, message: JointTrajectory) -> None:
        now_ns = self._now_ns()
        stamp_ns = messages.nanoseconds(message.header.stamp) or now_ns
        points = messages.trajectory_of(message)
        self._take(lambda: self._robot.apply_joint_trajectory(*points, stamp_ns, now_ns), stamp_ns)

    def _on_gripper(self, message: Float64) -> None:
        try:
            self._robot.apply_gripper(message.data)
        except CommandRefused as error:
            self._refuse(str(error))

    def _take(self, apply: Callable[[], None], stamp_ns: int) -> None:
        try:
            apply()
        except (CommandRefused, NoScene) as error:
            self._refuse(str(error))
        else:
            self._pace.commanded(stamp_ns)

    def _refuse(self, text: str) -> None:
        """Said in the log, and in the scene's status until the next reset."""
        self.get_logger().error(f"refused: {text}", throttle_duration_sec=1.0)
        self._refused = text
        if self._last is not None:
            self._publish_scene(*self._last)

    def _on_reset(self, request: ResetScene.Request, response: ResetScene.Response) -> ResetScene.Response:
        try:
            self._stand(Scene(request.task, request.state, request.seed))
            response.ok, response.instruction = True, self._robot.instruction
            response.max_steps = self._robot.max_steps
        except UnknownTask as error:
            response.ok, response.text = False, str(error)
        except Exception as error:  # the simulator's; whoever asked must hear it
            response.ok, response.text = False, f"{type(error).__name__}: {error}"
            self.get_logger().error(f"reset failed, the robot stands in no scene: {response.text}")
        return response

    def _on_parameters(self, changes: list) -> object:
        answer, fault = check_fault(changes)
        if fault is not None:
            self.get_logger().info(f"fault: {fault.value}")
            self._drivers.set(fault)
        return answer


def _drain(executor: SingleThreadedExecutor) -> None:
    """Serve all that has arrived, and wait for nothing."""
    while True:
        try:
            handler, _, _ = executor.wait_for_ready_callbacks(timeout_sec=0.0)
        except TimeoutException:
            return
        handler()
        if handler.exception() is not None:
            raise handler.exception()


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the node; 0 after a shutdown, 1 with one sentence if it cannot start."""
    # rclpy's own handlers end the graph in another thread while this one publishes, which has crashed
    rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    node: SimRobotNode | None = None
    try:
        node = SimRobotNode()
        node.run()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except CANNOT_START as error:
        print(f"sim_robot_node: {error}", file=sys.stderr)
        return 1
    except Exception:
        if rclpy.ok():  # else it was told to end in the middle of a step, and what failed was publishing
            raise
    finally:
        if node is not None:
            node.close()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
