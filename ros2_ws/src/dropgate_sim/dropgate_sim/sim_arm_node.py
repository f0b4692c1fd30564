# SPDX-License-Identifier: Apache-2.0
"""A MuJoCo arm with a joint trajectory controller behind the topics of a real driver, over DDS, in real time.

In: `.../joint_trajectory`, `~/set_speed_scaling` (0 to 1). Out: its description (latched), joint states, tool pose,
test pictures, `~/controller_state`, speed scaling in percent and `robot_program_running` as UR's driver has them,
`~/safety_mode` (the codes of ur_dashboard_msgs/SafetyMode), `/enable` if it plays the operator too. The parameter
`fault` may change any time: a value of StreamFault, protective_stop, program_stop, emergency_stop, or none.

`~/controller_state` is a trajectory_msgs/JointTrajectory of two points, reference and feedback: control_msgs exists in
a ROS installation only. One loop, one thread: read all messages, run the cycles that are due, publish. What arrives is
applied at the instant at which DDS received it, so a busy machine does not make the controller late.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import rclpy
from geometry_msgs.msg import PoseStamped
from rcl_interfaces.msg import ParameterDescriptor, SetParametersResult
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor, TimeoutException
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Bool, Float64, String, UInt8
from trajectory_msgs.msg import JointTrajectory

from dropgate_sim.arm_driver import ArmDriver, SafetyMode, Scaling
from dropgate_sim.arm_messages import joint_state, picture, pose, state_message, trajectory_of
from dropgate_sim.arm_models import Names
from dropgate_sim.arm_streams import ArmStreams, StreamFault
from dropgate_sim.fault_sent import Received
from dropgate_sim.jtc import JointTrajectoryController, JtcSettings
from dropgate_sim.mock_file import NoMock, base_model, mock_model
from dropgate_sim.mujoco_arm import MujocoArm
from dropgate_sim.ros_time import SECOND_NS
from dropgate_sim.ros_time import clock as clock_message

NEWEST = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
ALL = QoSProfile(depth=50, reliability=ReliabilityPolicy.RELIABLE)
KEPT = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
WAIT_S, KEPT_MESSAGES = 0.004, 2000
CAMERA_HZ, STATE_HZ, ENABLE_HZ = 30.0, 50.0, 20.0
SAFETY = {
    "protective_stop": (SafetyMode.PROTECTIVE_STOP, True),
    "program_stop": (SafetyMode.NORMAL, False),
    "emergency_stop": (SafetyMode.ROBOT_EMERGENCY_STOP, True),
}
FAULTS = [*SAFETY, *(fault.value for fault in StreamFault)]
DEFAULTS: dict[str, tuple[Any, str]] = {
    "model": ("ur5e", "whose links: ur5e or panda"),
    "command_topic": ("/dropgate_sim/joint_trajectory_controller/joint_trajectory", "trajectory_msgs/JointTrajectory"),
    "joints_topic": ("/joint_states", "sensor_msgs/JointState"),
    "joints_hz": (100.0, "joint states and tool pose per second, up to 500"),
    "joints": ([""], "names instead of the model's; then also joint_low, joint_high, joint_velocity"),
    "still_joints": ([""], "more joints that a driver would report, fingers for example: they stand at 0"),
    "tcp_topic": ("/tcp_pose", "geometry_msgs/PoseStamped of the flange; empty = none"),
    "tcp_frame": ("base", "its frame_id"),
    "description_topic": ("~/robot_description", "std_msgs/String, latched: URDF of this arm, from its own numbers"),
    "base_link": ("base", "how that description calls its root"),
    "tcp_link": ("tcp", "... its flange"),
    "elbow_link": ("elbow", "... the link at its elbow"),
    "cameras": ([""], "topics of test pictures"),
    "image_height": (64, "pixels"),
    "image_width": (64, "pixels"),
    "scaling_topic": ("~/speed_scaling", "std_msgs/Float64, percent"),
    "program_topic": ("~/robot_program_running", "std_msgs/Bool"),
    "enable_topic": ("/enable", "std_msgs/Bool"),
    "hold_enable": (False, "play the operator who holds the enabling input"),
    "publish_clock": (False, "/clock from the arm's time; clock_offset_s shifts it"),
    "real_time_factor": (1.0, "below 1: slow motion, then with publish_clock; for machines that are busy"),
    "jtc.interpolate_from_desired_state": (True, "as the controller's parameter"),
    "jtc.allow_trajectory_replacement": (False, "as the controller's parameter (master only)"),
    "jtc.cmd_timeout": (0.0, "as the controller's parameter [s]"),
    "scaling": (Scaling.ON_ROBOT.value, "who slows down: on_robot or on_controller"),
}


class SimArmNode(Node):
    """Node `sim_arm`. Raises NoMock for parameters that make no arm."""

    def __init__(self, context: Context | None = None, overrides: Sequence[Parameter] = ()) -> None:
        super().__init__("sim_arm", context=context, parameter_overrides=list(overrides))
        self._given = {
            name: self.declare_parameter(name, default, ParameterDescriptor(description=about, read_only=True)).value
            for name, (default, about) in DEFAULTS.items()
        }
        for name in ("joint_low", "joint_high", "joint_velocity"):
            self._given[name] = self.declare_parameter(name, [0.0]).value
        self.declare_parameter("fault", "none", ParameterDescriptor(description=", ".join(FAULTS)))
        self.declare_parameter("clock_offset_s", 0.0)
        self.received: list[Received] = []  # whoever reads them empties it
        self.clock_offset_ns, self.tells_driver_state = 0, True
        self._wall_ns = self._start_ns = time.time_ns()
        self.driver = self._build()
        self._cameras = [topic for topic in self._given["cameras"] if topic]
        self.streams = ArmStreams(
            self.driver.arm.names, self._cameras, self._given["image_height"], self._given["image_width"]
        )
        self._still = [name for name in self._given["still_joints"] if name]
        self.hold_enable = self._given["hold_enable"]
        self._due: dict[str, int] = {}
        self._advertise()
        self._commands: Any = None
        self.hears_commands(True)
        self.create_subscription(
            Float64, "~/set_speed_scaling", lambda message: self.driver.set_factor(message.data), NEWEST
        )
        self.add_on_set_parameters_callback(self._on_parameters)

    def run(self) -> None:
        """Until the context ends."""
        executor = SingleThreadedExecutor(context=self.context)
        executor.add_node(self)
        while self.context.ok():
            executor.spin_once(timeout_sec=WAIT_S)
            until = time.time_ns()
            _drain(executor)
            self.driver.advance(self._arm_ns(until))
            self._publish()

    def _arm_ns(self, wall_ns: int) -> int:
        """The arm's time at an instant of the machine's."""
        return self._start_ns + round((wall_ns - self._wall_ns) * self._given["real_time_factor"])

    def hears_commands(self, wanted: bool) -> None:
        """Listen on the command topic, or be off it, as an arm that has lost its network is."""
        if wanted and self._commands is None:
            topic = self._given["command_topic"]
            self._commands = self.create_subscription(JointTrajectory, topic, self._on_trajectory, ALL)
        elif not wanted and self._commands is not None:
            self.destroy_subscription(self._commands)
            self._commands = None

    def inject(self, fault: str) -> None:
        """From now on, instead of the fault before; `none` is a healthy arm. Raises ValueError for other words."""
        mode = SAFETY.get(fault)
        self.streams.fault = StreamFault.NONE if mode else StreamFault(fault)
        self.driver.set_mode(*(mode or (SafetyMode.NORMAL, True)))

    def _build(self) -> ArmDriver:
        given = self._given
        model = base_model(given["model"])
        names = [name for name in given["joints"] if name]
        if names:
            lists = [given[name] for name in ("joint_low", "joint_high", "joint_velocity")]
            if any(len(values) != len(model.links) for values in (names, *lists)):
                raise NoMock(f"joints, joint_low, joint_high, joint_velocity: expected {len(model.links)} of each")
            model = mock_model(model, names, *lists)
        settings = JtcSettings(
            interpolate_from_desired_state=given["jtc.interpolate_from_desired_state"],
            allow_trajectory_replacement=given["jtc.allow_trajectory_replacement"],
            cmd_timeout_s=given["jtc.cmd_timeout"],
        )
        controller = JointTrajectoryController(model.joints, settings)
        return ArmDriver(MujocoArm(model), controller, self._start_ns, Scaling(given["scaling"]))

    def _advertise(self) -> None:
        given, sensor = self._given, qos_profile_sensor_data
        self._joints_out = self.create_publisher(JointState, given["joints_topic"], sensor)
        self._tool_out = self.create_publisher(PoseStamped, given["tcp_topic"], sensor) if given["tcp_topic"] else None
        self._images_out = {topic: self.create_publisher(Image, topic, sensor) for topic in self._cameras}
        self._state_out = self.create_publisher(JointTrajectory, "~/controller_state", sensor)
        self._scaling_out = self.create_publisher(Float64, given["scaling_topic"], NEWEST)
        self._program_out = self.create_publisher(Bool, given["program_topic"], KEPT)
        self._safety_out = self.create_publisher(UInt8, "~/safety_mode", NEWEST)
        self._enable_out = self.create_publisher(Bool, given["enable_topic"], NEWEST)
        self._clock_out = self.create_publisher(Clock, "/clock", NEWEST) if given["publish_clock"] else None
        self._description_out = self.create_publisher(String, given["description_topic"], KEPT)
        names = Names(given["base_link"], given["tcp_link"], given["elbow_link"])
        self._description_out.publish(String(data=self.driver.arm.model.urdf(names)))

    def _is_due(self, what: str, hz: float) -> bool:
        """True at most once per cycle of the arm, also after a pause that was longer than a period."""
        now = self.driver.now_ns
        if now < self._due.get(what, 0):
            return False
        period = round(SECOND_NS / hz)
        self._due[what] = max(self._due.get(what, now) + period, now + 1)
        return True

    def _publish(self) -> None:
        driver = self.driver
        stamp_ns = driver.now_ns + self.clock_offset_ns
        if self._clock_out is not None:
            self._clock_out.publish(clock_message(stamp_ns))
        if self._is_due("joints", self._given["joints_hz"]):
            report = self.streams.joints(driver.arm.positions, driver.arm.velocities)
            if report is not None:
                self._joints_out.publish(joint_state(report, stamp_ns, self._still))
            if self._tool_out is not None:
                arm, frame = driver.arm, self._given["tcp_frame"]
                self._tool_out.publish(pose(arm.tcp_position, arm.tcp_quaternion, frame, stamp_ns))
        if self._cameras and self._is_due("cameras", CAMERA_HZ):
            for topic, shot in self.streams.pictures(stamp_ns).items():
                self._images_out[topic].publish(picture(shot))
        if self._is_due("state", STATE_HZ):
            reference, arm = driver.controller.desired, driver.arm
            self._state_out.publish(state_message(arm.names, reference, arm.positions, arm.velocities, stamp_ns))
            tells = self.tells_driver_state
            self._scaling_out.publish(Float64(data=100.0 * (driver.scaling_factor if tells else driver.factor)))
            self._program_out.publish(Bool(data=driver.active or not tells))
            self._safety_out.publish(UInt8(data=(driver.mode if tells else SafetyMode.NORMAL).value))
        if self.hold_enable and self._is_due("enable", ENABLE_HZ):
            self._enable_out.publish(Bool(data=True))

    def _on_trajectory(self, message: JointTrajectory, info: Any) -> None:
        trajectory = trajectory_of(message, self.clock_offset_ns)
        received_ns = info.get("received_timestamp", 0) if isinstance(info, dict) else info.received_timestamp
        arrived_ns = self._arm_ns(received_ns or time.time_ns())
        if trajectory.stamp_ns and trajectory.points:
            handed_ns = info.get("source_timestamp", 0) if isinstance(info, dict) else info.source_timestamp
            self.received.append(Received(trajectory, self._arm_ns(handed_ns) if handed_ns else 0, arrived_ns))
            del self.received[:-KEPT_MESSAGES]
        self.driver.at(arrived_ns, lambda: self._command(trajectory))

    def _command(self, trajectory: Any) -> None:
        refused = self.driver.refused
        self.driver.command(trajectory)
        if self.driver.refused > refused:
            self.get_logger().error(f"refused: {self.driver.last_refusal}", throttle_duration_sec=1.0)

    def _on_parameters(self, changes: list[Parameter]) -> SetParametersResult:
        for change in changes:
            if change.name == "fault":
                if change.value not in FAULTS:
                    return SetParametersResult(successful=False, reason=f"expected one of {', '.join(FAULTS)}")
                self.inject(change.value)
            elif change.name == "clock_offset_s":
                if not np.isfinite(change.value):
                    return SetParametersResult(successful=False, reason="expected finite seconds")
                self.clock_offset_ns = round(change.value * SECOND_NS)
        return SetParametersResult(successful=True)


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
    rclpy.init(args=arguments)
    try:
        SimArmNode().run()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except (NoMock, ValueError) as error:
        print(f"sim_arm_node: {error}", file=sys.stderr)
        return 1
    finally:
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
