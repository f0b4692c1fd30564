# SPDX-License-Identifier: Apache-2.0
"""`guard_node`: publishes, in a process of its own, whether motion is permitted, and why not."""

from __future__ import annotations

import sys

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from dropgate_interfaces.msg import RuntimeStatus
from rclpy.clock import Clock as RosClock
from rclpy.clock import ClockType
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, Float64

from dropgate_controller.driver_link import KEPT, NEWEST, NoDriverWords, listen
from dropgate_controller.node_runner import run_node
from runtime.clock import MonotonicClock
from runtime.control.driver_words import PARAMETERS, Ear, ears
from runtime.control.guard import Guard, GuardSettings

PERMIT_HZ = 20.0


class GuardNode(Node):
    """In: controller's status, joint states, enabling input, driver's state. Out: `~/permit` at 20 Hz, diagnostics.

    Raises NoDriverWords: the station names a driver's topic that cannot be read here.
    """

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
        heard = self._ears()
        state_s = self.declare_parameter("state_s", 1.0).value  # of what the driver says all the time
        if not state_s > 0.0:  # 0 means that a word is said on a change only
            raise ValueError(f"guard: state_s is {state_s}, expected seconds above 0 and below 60")
        words = tuple((ear.what, 0.0 if ear.on_change else state_s) for ear, _ in heard)
        settings = GuardSettings(**given, watch_program=bool(program), watch_scaling=bool(scaling), words=words)
        self._guard = Guard(settings, MonotonicClock())
        self._said: str | None = None
        newest = NEWEST
        self._permit = self.create_publisher(Bool, "~/permit", newest)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self.create_subscription(RuntimeStatus, status, lambda m: self._guard.heartbeat(m.heartbeat), newest)
        self.create_subscription(JointState, joints, lambda m: self._guard.joints(), qos_profile_sensor_data)
        self.create_subscription(Bool, enable, lambda m: self._guard.enable(m.data), newest)
        if program:  # std_msgs/Bool, as ur_robot_driver's robot_program_running: sent on a change, the last one is kept
            self.create_subscription(Bool, program, lambda m: self._guard.program(m.data), KEPT)
        if scaling:  # std_msgs/Float64 in percent, as ur_robot_driver's speed_scaling
            self.create_subscription(Float64, scaling, lambda m: self._guard.scaling(m.data / 100.0), newest)
        listen(self, heard, self._word)
        steady = RosClock(clock_type=ClockType.STEADY_TIME)  # processes live in wall time, also in a simulation
        self.create_timer(1.0 / PERMIT_HZ, self._tell, clock=steady)
        self.create_timer(1.0, self._diagnose, clock=steady)

    def _ears(self) -> list[tuple[Ear, str]]:
        """What the vendor's driver says besides program and speed scaling, as far as the station names topics."""
        adapter = self.declare_parameter("driver.adapter", "").value
        topics = {name: self.declare_parameter(f"driver.{name}", "").value for name in PARAMETERS}
        try:
            return ears(adapter, topics)
        except ValueError as error:
            raise NoDriverWords(str(error)) from error

    def _word(self, what: str, objection: str) -> None:
        self._guard.word(what, objection)
        if objection:  # withdrawing does not wait for the next turn
            self._tell()

    def _tell(self) -> None:
        if self._command_topic:
            self._guard.publishers = self.count_publishers(self._command_topic)
        objection = self._guard.objection()
        self._permit.publish(Bool(data=not objection))
        if objection != self._said:
            self._said = objection
            first = f" (first: {self._guard.first})" if self._guard.first not in ("", objection) else ""
            self.get_logger().info(f"no permission: {objection}{first}" if objection else "motion is permitted")

    def _diagnose(self) -> None:
        objection = self._guard.objection()
        level = DiagnosticStatus.WARN if objection else DiagnosticStatus.OK
        status = DiagnosticStatus(
            level=level, name="dropgate_guard", hardware_id="guard", message=objection or "motion is permitted",
            values=[KeyValue(key="first cause", value=self._guard.first)],
        )  # fmt: skip
        message = DiagnosticArray(status=[status])
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)


def main() -> None:
    """Console script. A guard that cannot listen does not start, and without it nothing moves."""
    try:
        run_node(GuardNode)
    except NoDriverWords as error:
        rclpy.try_shutdown()
        sys.exit(f"guard_node: {error}")


if __name__ == "__main__":
    main()
