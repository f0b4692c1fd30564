# SPDX-License-Identifier: Apache-2.0
"""The launch files run: controller, guard and simulated arm come up by themselves, and nothing moves in shadow mode."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ros, pytest.mark.slow]
rclpy = pytest.importorskip("rclpy", reason="ros: rclpy not installed. Next: make install-ros ros-build")
pytest.importorskip("launch_ros", reason="launch_ros comes with a ROS installation, not with its wheels")

from dropgate_interfaces.msg import RuntimeStatus, SceneStatus  # noqa: E402
from dropgate_sim.fault_artifact import scripted_artifact  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.node import Node  # noqa: E402
from rclpy.qos import DurabilityPolicy, QoSProfile  # noqa: E402
from ros_station import TOPIC, patient_artifact, wait_for  # noqa: E402

from runtime.contract.conventions import Verdict  # noqa: E402

LAUNCH = Path(__file__).resolve().parent.parent / "launch"
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
ROS2_LAUNCH = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
source = PythonLaunchDescriptionSource(sys.argv[1])
given = [word.split(":=") for word in sys.argv[2:]]
service = LaunchService(argv=sys.argv[2:])
service.include_launch_description(LaunchDescription([IncludeLaunchDescription(source, launch_arguments=given)]))
sys.exit(service.run())
"""


@contextmanager
def launched(file: str, log: Path, **arguments: object) -> Iterator[None]:
    """`ros2 launch <file> name:=value ...`, ended by an interrupt as from a terminal."""
    words = [f"{name}:={value}" for name, value in arguments.items()]
    with log.open("wb") as stream:
        command = [sys.executable, "-c", ROS2_LAUNCH, str(LAUNCH / file), *words]
        child = subprocess.Popen(command, stdout=stream, stderr=stream, start_new_session=True)
    try:
        yield
    finally:
        child.send_signal(signal.SIGINT)
        child.wait(timeout=60)


class Watcher(Node):
    """The newest message of every topic."""

    def __init__(self, context: rclpy.Context) -> None:
        super().__init__("watcher", context=context)
        self.status: RuntimeStatus | None = None
        self.scene: SceneStatus | None = None
        self.create_subscription(RuntimeStatus, "/dropgate_controller/status", self._on_status, LATCHED)
        self.create_subscription(SceneStatus, "/sim_robot/scene", self._on_scene, LATCHED)

    def _on_status(self, message: RuntimeStatus) -> None:
        self.status = message

    def _on_scene(self, message: SceneStatus) -> None:
        self.scene = message


@pytest.fixture
def watcher() -> Iterator[Watcher]:
    context = rclpy.Context()
    rclpy.init(context=context)
    node = Watcher(context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    node.look = lambda: executor.spin_once(timeout_sec=0.1)
    yield node
    executor.shutdown()
    node.destroy_node()
    rclpy.shutdown(context=context)


def wait_state(watcher: Watcher, state: str, log: Path) -> None:
    def reached() -> bool:
        watcher.look()
        return watcher.status is not None and watcher.status.state == state

    wait_for(reached, lambda: f"state {state}; status {watcher.status}\n{log.read_text()[-4000:]}", patience_s=180.0)


def test_controller_is_configured_and_activated_and_sends_nothing(watcher: Watcher, tmp_path: Path) -> None:
    artifact, log = patient_artifact(tmp_path, Verdict.PROMOTE), tmp_path / "launch.log"
    with launched("controller.launch.py", log, robot="libero_panda", artifact=artifact):
        wait_state(watcher, "idle", log)
        assert not watcher.status.motion_enabled
        assert watcher.count_publishers(TOPIC) == 0
        assert watcher.count_publishers("/dropgate_guard/permit") == 1


def test_refused_artifact_leaves_the_controller_unconfigured_and_says_why(watcher: Watcher, tmp_path: Path) -> None:
    log = tmp_path / "launch.log"
    with launched("controller.launch.py", log, robot="libero_panda", artifact=tmp_path / "nothing"):
        wait_state(watcher, "unconfigured", log)
        wait_for(lambda: watcher.look() or "nothing" in watcher.status.text, lambda: str(watcher.status))


@pytest.mark.sim
def test_simulated_arm_and_controller_share_the_simulations_time(watcher: Watcher, tmp_path: Path) -> None:
    artifact, log = patient_artifact(tmp_path, Verdict.PROMOTE), tmp_path / "launch.log"
    with launched("sim.launch.py", log, artifact=artifact):
        wait_state(watcher, "idle", log)
        wait_for(lambda: watcher.look() or watcher.scene is not None, lambda: log.read_text()[-4000:], patience_s=180.0)
        wait_for(lambda: watcher.look() or watcher.status.header.stamp.sec < 1000, lambda: str(watcher.status))


def test_mock_of_a_real_arm_takes_the_drivers_place(watcher: Watcher, tmp_path: Path) -> None:
    pytest.importorskip("mujoco", reason="sim: mujoco not installed. Next: make install (extra `sim`)")
    names = ("shoulder_pan", "shoulder_lift", "elbow", "wrist_1", "wrist_2", "wrist_3")
    joints = tuple(f"{name}_joint" for name in names)
    artifact, log = scripted_artifact(tmp_path, joints, ("agentview", "wrist")).root, tmp_path / "launch.log"
    with launched("controller.launch.py", log, robot="ur5e", artifact=artifact, use_mock="true"):
        wait_state(watcher, "idle", log)
        assert watcher.count_publishers("/joint_states") == 1
        topic = "/dropgate_sim/scaled_joint_trajectory_controller/joint_trajectory"
        assert watcher.count_subscribers(topic) == 1
        assert watcher.count_publishers(topic) == 0, "shadow mode"
