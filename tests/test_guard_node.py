# SPDX-License-Identifier: Apache-2.0
"""The guard as a process: it hears the driver's own words over DDS, and does not start deaf."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ros]
rclpy = pytest.importorskip("rclpy", reason="ros: rclpy not installed. Next: make install-ros")
pytest.importorskip("dropgate_interfaces", reason="ros: the workspace is not built. Next: make install-ros ros-build")

from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402
from dropgate_controller.driver_link import KEPT, NoDriverWords, message_class  # noqa: E402
from dropgate_interfaces.msg import RuntimeStatus  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from ros_station import wait_for  # noqa: E402
from sensor_msgs.msg import JointState  # noqa: E402
from std_msgs.msg import Bool, String, UInt8  # noqa: E402

from runtime.control.driver_words import ADAPTERS  # noqa: E402

QUIET = ["heartbeat_s:=30.0", "joints_s:=30.0", "state_s:=30.0"]  # a busy test machine is no dead robot


@contextlib.contextmanager
def peer() -> Iterator[rclpy.node.Node]:
    context = rclpy.Context()
    rclpy.init(context=context)
    node, executor = rclpy.create_node("peer", context=context), SingleThreadedExecutor(context=context)
    executor.add_node(node)
    thread = threading.Thread(target=executor.spin, daemon=True)
    thread.start()
    yield node
    executor.shutdown()
    thread.join(timeout=10)
    node.destroy_node()
    rclpy.shutdown(context=context)


@contextlib.contextmanager
def guard(log: Path, *given: str) -> Iterator[subprocess.Popen]:
    arguments = [part for value in (*QUIET, *given) for part in ("-p", value)]
    with log.open("wb") as out:
        command = [sys.executable, "-m", "dropgate_controller.guard_node", "--ros-args", *arguments]
        process = subprocess.Popen(command, stdout=out, stderr=out, env=os.environ.copy())
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize(
    ("adapter", "kind", "good", "bad"),
    [("generic", String, "NORMAL", "PROTECTIVE_STOP"), ("simulated", UInt8, 1, 3)],
)
def test_a_safety_mode_takes_permission_away_and_the_first_cause_is_told(tmp_path, adapter, kind, good, bad) -> None:
    permits: list[bool] = []
    causes: list[str] = []
    topics = (f"driver.adapter:={adapter}", "driver.safety_topic:=/safety", "driver.program_topic:=/program")
    with peer() as node, guard(tmp_path / "log", *topics):
        node.create_subscription(Bool, "/dropgate_guard/permit", lambda m: permits.append(m.data), 1)
        node.create_subscription(
            DiagnosticArray, "/diagnostics", lambda m: causes.append(m.status[0].values[0].value), 10
        )
        status = node.create_publisher(RuntimeStatus, "/dropgate_controller/status", 1)
        joints = node.create_publisher(JointState, "/joint_states", 1)
        program, safety = node.create_publisher(Bool, "/program", KEPT), node.create_publisher(kind, "/safety", 1)
        program.publish(Bool(data=True))

        def told(data: object, permitted: bool) -> bool:
            status.publish(RuntimeStatus(heartbeat=len(permits) + 1))
            joints.publish(JointState())
            safety.publish(kind(data=data))
            return bool(permits) and permits[-1] is permitted

        wait_for(lambda: told(good, True), lambda: (tmp_path / "log").read_text())
        wait_for(lambda: told(bad, False), "the safety mode to count")
        program.publish(Bool(data=False))
        wait_for(lambda: causes and "PROTECTIVE_STOP" in causes[-1], lambda: f"the first cause; {causes}")
        wait_for(lambda: told(good, False), "no permission while the program stands")
        program.publish(Bool(data=True))
        wait_for(lambda: told(good, True), "permission again")


def test_a_guard_that_lacks_the_drivers_messages_does_not_start_and_says_the_next_step(tmp_path) -> None:
    with guard(tmp_path / "log", "driver.adapter:=ur", "driver.safety_topic:=/safety") as process:
        assert process.wait(timeout=60) == 1
    text = (tmp_path / "log").read_text()
    assert "ur_dashboard_msgs/SafetyMode is not installed here" in text
    assert "Next: apt install ros-$ROS_DISTRO-ur-dashboard-msgs" in text
    assert "Traceback" not in text


def test_a_guard_to_whom_silence_is_no_objection_does_not_start(tmp_path) -> None:
    with guard(tmp_path / "log", "state_s:=0.0") as process:
        assert process.wait(timeout=60) != 0
    assert "state_s is 0.0, expected seconds above 0" in (tmp_path / "log").read_text()


def test_a_package_without_the_message_is_refused_too(monkeypatch) -> None:
    ear = ADAPTERS["ur"][0]
    monkeypatch.setitem(sys.modules, "ur_dashboard_msgs", sys)
    monkeypatch.setitem(sys.modules, "ur_dashboard_msgs.msg", sys)
    with pytest.raises(NoDriverWords, match="SafetyMode is not installed"):
        message_class(ear, "/safety")
