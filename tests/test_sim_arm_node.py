# SPDX-License-Identifier: Apache-2.0
"""The simulated arm over DDS: commands by name, reports, faults, a mock of any robot file."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

pytestmark = [pytest.mark.ros]
rclpy = pytest.importorskip("rclpy", reason="ros: rclpy not installed. Next: make install-ros")
pytest.importorskip("mujoco", reason="sim: mujoco not installed. Next: make install (extra `sim`)")

from dropgate_sim import mock_file  # noqa: E402
from dropgate_sim.arm_streams import DELAY_S, JUMP_RAD, ArmStreams, StreamFault  # noqa: E402
from dropgate_sim.mock_file import NoMock, mock_sections  # noqa: E402
from dropgate_sim.ros_time import nanoseconds  # noqa: E402
from dropgate_sim.sim_arm_node import FAULTS, KEPT, SimArmNode  # noqa: E402
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from rclpy.qos import qos_profile_sensor_data  # noqa: E402
from rclpy.wait_for_message import wait_for_message  # noqa: E402
from ros_station import wait_for  # noqa: E402
from sensor_msgs.msg import Image, JointState  # noqa: E402
from std_msgs.msg import Bool, Float64, String, UInt8  # noqa: E402
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint  # noqa: E402

CONFIG = Path(__file__).resolve().parent.parent / "launch" / "config"
ARMS = sorted(path for path in CONFIG.glob("*.yaml") if path.stem != "libero_panda")
TOPIC = "/dropgate_sim/jtc/joint_trajectory"


@contextlib.contextmanager
def cell(**parameters):
    """The arm in a thread of its own, a peer that listens in another."""
    context = rclpy.Context()
    rclpy.init(context=context)
    given = {"command_topic": TOPIC, "cameras": ["/a", "/b"], **parameters}
    arm = SimArmNode(context, [Parameter(name, value=value) for name, value in given.items()])
    peer = rclpy.create_node("peer", context=context)
    heard: dict[str, list] = {}
    for kind, topic in ((JointState, "/joint_states"), (Image, "/a"), (Float64, "/sim_arm/speed_scaling"),
                        (Bool, "/sim_arm/robot_program_running"), (UInt8, "/sim_arm/safety_mode"),
                        (JointTrajectory, "/sim_arm/controller_state")):  # fmt: skip
        store = heard.setdefault(topic.split("/")[-1], [])
        peer.create_subscription(kind, topic, store.append, qos_profile_sensor_data)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(peer)
    threads = [threading.Thread(target=spin, args=(executor,), daemon=True), threading.Thread(target=run, args=(arm,))]
    for thread in threads:
        thread.start()
    try:
        yield arm, peer, heard
    finally:
        rclpy.shutdown(context=context)
        for thread in threads:
            thread.join(timeout=10)


def spin(executor):
    with contextlib.suppress(ExternalShutdownException):
        executor.spin()


def run(arm):
    with contextlib.suppress(Exception):  # the context ends in the middle of a wait
        arm.run()


def state_error(message):
    reference, feedback = message.points
    return np.abs(np.subtract(reference.positions, feedback.positions)).max()


def goal(names, positions, seconds):
    point = JointTrajectoryPoint(positions=[float(p) for p in positions], velocities=[0.0] * len(names))
    point.time_from_start.sec, point.time_from_start.nanosec = int(seconds), int(seconds % 1 * 1e9)
    return JointTrajectory(joint_names=list(names), points=[point])


def test_arm_follows_a_trajectory_by_name_and_reports_what_it_does():
    with cell(joints_hz=500.0, still_joints=["finger"]) as (arm, peer, heard):
        out = peer.create_publisher(JointTrajectory, TOPIC, 1)
        wait_for(lambda: out.get_subscription_count() and len(heard["joint_states"]) > 10, "the arm")
        names, home = arm.driver.arm.names, arm.driver.arm.positions
        way = np.array([0.2, 0.1, -0.1, 0.0, 0.1, 0.3])
        out.publish(goal(names[::-1], (home + way)[::-1], 0.8))
        wait_for(lambda: np.allclose(arm.driver.arm.positions, home + way, atol=1e-4), "the goal")
        wait_for(lambda: np.allclose(heard["joint_states"][-1].position[:-1], home + way, atol=1e-3), "the report")
        assert (heard["joint_states"][-1].name[-1], heard["joint_states"][-1].position[-1]) == ("finger", 0.0)
        wait_for(lambda: heard["controller_state"] and state_error(heard["controller_state"][-1]) < 1e-3, "its state")
        most = max(state_error(message) for message in heard["controller_state"])
        assert 1e-3 < most < 0.05, "while it moves the feedback lags behind the reference, by some milliseconds"
        stamps = [m.header.stamp.sec + m.header.stamp.nanosec * 1e-9 for m in heard["joint_states"]]
        assert np.all(np.diff(stamps) > 0.0)
        assert arm.driver.record.table()["velocity"].max() < 1.5 * 0.3 / 0.8 * 1.05, "a cubic, whatever the load"
        out.publish(goal(["x", *names[1:]], home, 0.5))
        wait_for(lambda: arm.driver.refused == 1, "the refusal")
        assert "joints are" in arm.driver.last_refusal


def test_an_arm_that_was_not_scheduled_for_a_while_reports_each_instant_once(context, monkeypatch):
    arm = SimArmNode(context, [Parameter("joints_hz", value=500.0)])
    stamps_ns = []
    joints = SimpleNamespace(publish=lambda message: stamps_ns.append(nanoseconds(message.header.stamp)))
    monkeypatch.setattr(arm, "_joints_out", joints)
    arm._publish()
    for late_ms in (40, 0, 2, 0, 2):
        arm.driver.advance(arm.driver.now_ns + late_ms * 1_000_000)
        arm._publish()
    arm.destroy_node()
    assert (np.diff(stamps_ns) / 1e6).tolist() == [40, 2, 2]


def test_faults_and_slider_are_parameters_and_topics_of_the_running_node():
    with cell() as (arm, peer, heard):
        out = peer.create_publisher(JointTrajectory, TOPIC, 1)
        slider = peer.create_publisher(Float64, "/sim_arm/set_speed_scaling", 1)
        wait_for(lambda: out.get_subscription_count() and slider.get_subscription_count(), "the arm")
        slider.publish(Float64(data=0.5))
        wait_for(lambda: heard["speed_scaling"] and heard["speed_scaling"][-1].data == 50.0, "the scaling")
        out.publish(goal(arm.driver.arm.names, np.add(arm.driver.arm.positions, [0.5, 0, 0, 0, 0, 0]), 2.0))
        wait_for(lambda: arm.driver.record.moving(), "motion")
        before = arm.driver.now_ns
        assert arm.set_parameters([Parameter("fault", value="protective_stop")])[0].successful
        after = arm.driver.now_ns
        wait_for(lambda: heard["safety_mode"] and heard["safety_mode"][-1].data == 3, "the safety mode")
        wait_for(lambda: heard["speed_scaling"][-1].data == 0.0, "scaling 0")
        assert not heard["robot_program_running"][-1].data
        wait_for(lambda: arm.driver.record.stopped_after(after) is not None, "rest")
        assert arm.driver.record.stopped_after(before) > 0.0, "it was in motion"
        assert arm.driver.record.stopped_after(after) < 0.2
        assert not arm.set_parameters([Parameter("fault", value="bad")])[0].successful
        assert arm.set_parameters([Parameter("fault", value="joints_missing")])[0].successful
        wait_for(lambda: len(heard["joint_states"][-1].name) == 5, "a joint less")
        assert heard["safety_mode"][-1].data in (1, 3)
        arm.inject("camera_drop")
        assert set(FAULTS) >= {fault.value for fault in StreamFault}


def test_streams_lie_as_they_are_told():
    streams = ArmStreams(("a", "b"), ("left", "right"), 4, 3)
    place, speed = np.array([0.1, 0.2]), np.zeros(2)
    seen = [streams.pictures(int(k * 1e9 / 30)) for k in range(60)]
    assert all((one["left"].pixels != two["left"].pixels).any() for one, two in itertools.pairwise(seen))
    assert seen[-1]["left"].pixels.mean() < seen[-1]["right"].pixels.mean() - 10
    now = int(2e9)
    for fault in StreamFault:
        streams.fault = fault
        report, pictures = streams.joints(place, speed), streams.pictures(now)
        assert (report is None) == (fault is StreamFault.JOINTS_STOP)
        if fault is StreamFault.JOINTS_JUMP:
            assert report.positions[0] == pytest.approx(0.1 + JUMP_RAD)
        if fault is StreamFault.JOINTS_REORDER:
            assert dict(zip(report.names, report.positions, strict=True)) == {"a": 0.1, "b": 0.2}
            assert report.names == ("b", "a")
        if fault is StreamFault.CAMERA_DROP:
            assert set(pictures) == {"left"}
        if fault is StreamFault.CAMERA_DELAY:
            assert (now - pictures["left"].stamp_ns) * 1e-9 == pytest.approx(DELAY_S, abs=0.1)
        if fault is StreamFault.CAMERA_SWAP:
            assert pictures["left"].pixels.mean() > pictures["right"].pixels.mean()
        if fault is StreamFault.CAMERA_FREEZE:
            again = streams.pictures(now + 1)
            assert (again["left"].pixels == pictures["left"].pixels).all()
            assert again["left"].stamp_ns > pictures["left"].stamp_ns
            assert (again["right"].pixels != pictures["right"].pixels).any()


@pytest.mark.parametrize("path", ARMS, ids=lambda path: path.stem)
def test_every_robot_file_has_a_mock_with_its_joints_and_nothing_reaches_a_real_driver(path, capsys, context):
    content = yaml.safe_load(path.read_text())
    assert mock_file.main([str(path)]) == 0
    made = Path(capsys.readouterr().out.strip())
    sections = yaml.safe_load(made.read_text())
    made.unlink()
    assert set(sections) == {"dropgate_controller", "dropgate_guard", "sim_arm"}
    given, arm, guard = (sections[n]["ros__parameters"] for n in ("dropgate_controller", "sim_arm", "dropgate_guard"))
    assert given["simulated"] is True
    for topic in (given["command"]["topic"], given["gripper"]["topic"], arm["command_topic"], guard["command.topic"]):
        assert topic.startswith("/dropgate_sim/")
    links = content["dropgate_controller"]["ros__parameters"]["kinematics"]
    assert given["kinematics"] == {
        **{name: links[name] for name in ("base", "tcp", "elbow")},
        "description_topic": "/dropgate_sim/robot_description",
    }, "the links are the file's, the description the mock's"
    limits = content["dropgate_controller"]["ros__parameters"]["limits"]
    changed = {name for name in limits if given["limits"][name] != limits[name]}
    assert changed == (set() if path.stem in ("ur5e", "fr3") else {"workspace_low", "workspace_high"})
    node = SimArmNode(context, [Parameter(name, value=value) for name, value in arm.items()])
    names = given["joints"]["names"]
    assert [*node.driver.arm.names, *filter(None, arm["still_joints"])] == names, "what a driver would report"
    assert np.all(node.driver.arm.positions > given["limits"]["joint_low"])
    assert np.all(node.driver.arm.positions < given["limits"]["joint_high"])
    node.driver.advance(time.time_ns() + 10_000_000)
    assert_described(context, node, given)
    node.destroy_node()


def assert_described(context, node, given):
    """What the mock latches is an arm of which the robot file's links exist, and which is where MuJoCo's is."""
    from runtime.safety.kinematics import Frames, Kinematics

    peer = rclpy.create_node("reader", context=context)
    found, message = wait_for_message(
        String, peer, given["kinematics"]["description_topic"], qos_profile=KEPT, time_to_wait=20.0
    )
    peer.destroy_node()
    assert found
    arm = node.driver.arm
    frames = Frames(*(given["kinematics"][name] for name in ("tcp", "base", "elbow")))
    place = Kinematics(message.data, arm.names, frames).pose(arm.positions)[0]
    assert place == pytest.approx(arm.tcp_position, abs=1e-6)


def test_file_of_twists_has_no_mock():
    content = yaml.safe_load((CONFIG / "ur5e.yaml").read_text())
    content["dropgate_controller"]["ros__parameters"]["command"]["interface"] = "twist"
    with pytest.raises(NoMock, match="joint trajectory"):
        mock_sections(content, "ur5e.yaml")
    with pytest.raises(NoMock, match="check-robot"):
        mock_sections(yaml.safe_load((CONFIG / "libero_panda.yaml").read_text()), "libero_panda.yaml")
