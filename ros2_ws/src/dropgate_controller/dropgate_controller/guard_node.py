# SPDX-License-Identifier: Apache-2.0
"""`guard_node`: publishes, in a process of its own, whether motion is permitted, and why not."""

from __future__ import annotations

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from dropgate_interfaces.msg import RuntimeStatus
from rclpy.clock import Clock as RosClock
from rclpy.clock import ClockType
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, Float64

from dropgate_controller.node_runner import run_node
from runtime.clock import MonotonicClock
from runtime.control.guard import Guard, GuardSettings

PERMIT_HZ = 20.0
KEPT = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class GuardNode(Node):
    """In: controller's status, joint states, enabling input, driver's state. Out: `~/permit` at 20 Hz, diagnostics."""

    def __init__(self) -> None:
        super().__init__("dropgate_guard")
        given = {
            name: self.declare_parameter(name, default).value
            for name, default in (
                ("heartbeat_s", 0.3),
                ("joints_s", 0.5),
                ("require_enable", False),
                ("enable_s", 0.2),
                ("scaling_s", 0.5),
                ("least_scaling", 0.99),
            )
        }
        self._command_topic = self.declare_parameter("command.topic", "").value
        joints = self.declare_parameter("joints.topic", "/joint_states").value
        enable = self.declare_parameter("enable_topic", "/enable").value
        status = self.declare_parameter("status_topic", "/dropgate_controller/status").value
        program = self.declare_parameter("driver.program_topic", "").value
        scaling = self.declare_parameter("driver.scaling_topic", "").value
        settings = GuardSettings(**given, watch_program=bool(program), watch_scaling=bool(scaling))
        self._guard = Guard(settings, MonotonicClock())
        self._said: str | None = None
        newest = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
        self._permit = self.create_publisher(Bool, "~/permit", newest)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self.create_subscription(RuntimeStatus, status, lambda m: self._guard.heartbeat(m.heartbeat), newest)
        self.create_subscription(JointState, joints, lambda m: self._guard.joints(), qos_profile_sensor_data)
        self.create_subscription(Bool, enable, lambda m: self._guard.enable(m.data), newest)
        if program:  # std_msgs/Bool, as ur_robot_driver's robot_program_running: sent on a change, the last one is kept
            self.create_subscription(Bool, program, lambda m: self._guard.program(m.data), KEPT)
        if scaling:  # std_msgs/Float64 in percent, as ur_robot_driver's speed_scaling
            self.create_subscription(Float64, scaling, lambda m: self._guard.scaling(m.data / 100.0), newest)
        steady = RosClock(clock_type=ClockType.STEADY_TIME)  # processes live in wall time, also in a simulation
        self.create_timer(1.0 / PERMIT_HZ, self._tell, clock=steady)
        self.create_timer(1.0, self._diagnose, clock=steady)

    def _tell(self) -> None:
        if self._command_topic:
            self._guard.publishers = self.count_publishers(self._command_topic)
        objection = self._guard.objection()
        self._permit.publish(Bool(data=not objection))
        if objection != self._said:
            self._said = objection
            self.get_logger().info(f"no permission: {objection}" if objection else "motion is permitted")

    def _diagnose(self) -> None:
        objection = self._guard.objection()
        level = DiagnosticStatus.WARN if objection else DiagnosticStatus.OK
        status = DiagnosticStatus(
            level=level, name="dropgate_guard", hardware_id="guard", message=objection or "motion is permitted"
        )
        message = DiagnosticArray(status=[status])
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)


def main() -> None:
    """Console script."""
    run_node(GuardNode)


if __name__ == "__main__":
    main()
