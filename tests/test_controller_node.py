# SPDX-License-Identifier: Apache-2.0
"""Controller and guard as real processes on the real graph: what makes the arm move, what stops it, and why."""

import json
import os
import signal
import subprocess

import numpy as np
import pytest

pytestmark = [pytest.mark.ros]
rclpy = pytest.importorskip("rclpy", reason="ros: rclpy not installed. Next: make install-ros")

from geometry_msgs.msg import TwistStamped  # noqa: E402
from ros_station import TOPIC, Station, patient_artifact, result_of, wait_for  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402

from runtime.contract.conventions import Verdict  # noqa: E402
from runtime.contract.regression import SCHEMA, regression_folder  # noqa: E402


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    return patient_artifact(tmp_path_factory.mktemp("artifact"), Verdict.PROMOTE)


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    return patient_artifact(tmp_path_factory.mktemp("held"), Verdict.HOLD, "worse by 20 points")


def workers_of(pid: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=True)
    return [int(line) for line in found.stdout.split()]


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stream:
            return stream.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_task_runs_is_cancelled_and_another_one_follows(artifact, tmp_path):
    with Station(artifact, tmp_path) as cell:
        cell.bring_up()
        assert cell.arm.speed == 0.0
        handle = cell.run()
        before = len(cell.arm.received)
        cancelled = result_of(handle.cancel_goal_async(), "the cancellation")
        assert cancelled.goals_canceling
        result = result_of(handle.get_result_async(), "the result").result
        assert result.cause == "cancelled"
        assert result.commands > 0
        assert cell.arm.speed == 0.0
        after = [float(np.linalg.norm(twist[:3])) for _, twist in cell.arm.received[before:]]
        assert after[-1] == 0.0
        assert cell.arm.gripper
        cell.wait_state("armed")
        second = cell.run(max_duration_s=1.0)
        assert result_of(second.get_result_async(), "the second result").result.cause == "finished"
        assert cell.operator.transition("deactivate")
        assert cell.operator.transition("cleanup")
        cell.wait_state("unconfigured")


def test_a_transition_that_does_not_fit_is_refused_and_the_node_lives(artifact, tmp_path):
    with Station(artifact, tmp_path) as cell:
        assert not cell.operator.transition("activate")
        cell.bring_up()
        assert not cell.operator.transition("configure")
        assert cell.run(max_duration_s=1.0).accepted


def test_cancel_begins_to_brake_within_one_tick(artifact, tmp_path):
    with Station(artifact, tmp_path, tick_hz=20.0) as cell:
        cell.bring_up()
        handle = cell.run()
        wait_for(lambda: cell.arm.speed > 0.3, "full speed")
        result_of(handle.cancel_goal_async(), "the cancellation")
        seen = len(cell.arm.received)
        wait_for(lambda: len(cell.arm.received) > seen, "the next command")
        assert np.linalg.norm(cell.arm.received[seen][1][:3]) < 0.3  # 20 m/s2 over one tick of 50 ms brakes all of it


@pytest.mark.parametrize("spoil", ["tampered", "held", "draft", "missing"])
def test_what_was_not_proven_is_refused_at_configure_with_the_reason(artifact, held, tmp_path, spoil):
    import shutil

    copy = tmp_path / "artifact"
    source = {"held": held, "draft": artifact.parent / "draft"}.get(spoil, artifact)
    if spoil != "missing":
        shutil.copytree(source, copy)
    if spoil == "tampered":
        with (copy / "policy.onnx").open("r+b") as stream:
            stream.seek(100)
            stream.write(b"\x00\x01\x02")
    words = {"tampered": "policy.onnx", "held": "worse by 20 points", "draft": "draft", "missing": "manifest.json"}
    with Station(copy, tmp_path, guard=False) as cell:
        assert not cell.operator.transition("configure")
        wait_for(lambda: words[spoil] in cell.operator.status.text, f"the reason: {cell.operator.status}")
        assert cell.state() == "unconfigured"


def test_shadow_mode_runs_a_held_artifact_and_publishes_no_command(held, tmp_path):
    with Station(held, tmp_path, enable_motion=False) as cell:
        cell.bring_up()
        handle = cell.start(max_duration_s=1.0)
        assert handle.accepted
        assert result_of(handle.get_result_async(), "the result").result.chunks > 0
        assert cell.arm.received == []
        assert cell.operator.count_publishers(TOPIC) == 0


def test_motion_needs_a_passed_simulation_regression_when_it_is_required(artifact, tmp_path):
    import shutil

    copy = tmp_path / "artifact"
    shutil.copytree(artifact, copy)
    with Station(copy, tmp_path, guard=False, require_regression=True) as cell:
        assert not cell.operator.transition("configure")
        wait_for(lambda: "regression" in cell.operator.status.text, "the reason")
        report = {"schema": SCHEMA, "robot": "point", "verdict": "pass"}
        from runtime.contract.artifact import read_artifact

        found = read_artifact(artifact).manifest
        report |= {"artifact_id": found.artifact_id, "policy_id": found.policy_id}
        regression_folder(copy).mkdir()
        (regression_folder(copy) / "regression.json").write_text(json.dumps({**report, "verdict": "fail"}))
        assert not cell.operator.transition("configure")
        (regression_folder(copy) / "regression.json").write_text(json.dumps(report))
        assert cell.operator.transition("configure"), cell.log()


FAULTS = {
    "camera drop": (lambda cell: cell.arm.silent.add("wrist"), "observation_stale"),
    "frozen frame": (lambda cell: cell.arm.frozen.add("agentview"), "observation_frozen"),
    "joints stop": (lambda cell: cell.arm.silent.add("joints"), "observation_stale"),
    "missing joint": (lambda cell: setattr(cell.arm, "joint_names", ["grip_left"]), "observation_invalid"),
    "stale stamps": (lambda cell: setattr(cell.arm, "stale", True), "observation_invalid"),
    "worker killed": (
        lambda cell: os.kill(workers_of(cell.processes["controller"].pid)[0], signal.SIGKILL),
        "worker_died",
    ),
    "guard killed": (lambda cell: cell.processes["guard"].kill(), "permit_lost"),
    "stop called": (lambda cell: cell.operator.call("stop", Trigger.Request()), "stop_requested"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_after_a_fault_nothing_moves_until_reset_arm_and_goal(artifact, tmp_path, fault):
    spoil, cause = FAULTS[fault]
    with Station(artifact, tmp_path) as cell:
        cell.bring_up()
        handle = cell.run()
        spoil(cell)
        result = result_of(handle.get_result_async(), "the result").result
        assert result.cause == cause, result.text
        cell.wait_state("fault_latched")
        assert cell.operator.causes[0] == cause
        cell.assert_still(0.3)
        cell.arm.silent, cell.arm.frozen, cell.arm.stale = set(), set(), False
        cell.arm.joint_names = ["grip_left", "grip_right"]
        if fault == "guard killed":
            cell.launch("guard")
        cell.assert_still(0.5)
        assert not cell.start().accepted
        wait_for(lambda: cell.operator.call("reset_fault", Trigger.Request()).success, "the reset")
        cell.assert_still(0.3)
        cell.rearm()
        cell.assert_still(0.3)
        cell.run()


def test_joints_in_another_order_change_nothing(artifact, tmp_path):
    with Station(artifact, tmp_path) as cell:
        cell.bring_up()
        handle = cell.run(max_duration_s=2.0)
        cell.arm.joint_names = ["grip_right", "grip_left"]
        assert result_of(handle.get_result_async(), "the result").result.cause == "finished"


def test_a_second_publisher_on_the_command_topic_is_a_fault_and_prevents_arming(artifact, tmp_path):
    with Station(artifact, tmp_path) as cell:
        cell.bring_up()
        handle = cell.run()
        rogue = cell.operator.create_publisher(TwistStamped, TOPIC, 1)
        result = result_of(handle.get_result_async(), "the result").result
        assert result.cause in ("command_conflict", "permit_lost")  # whoever of controller and guard looks first
        cell.wait_state("fault_latched")
        assert not cell.operator.call("reset_fault", Trigger.Request()).success
        cell.operator.destroy_publisher(rogue)
        wait_for(lambda: cell.operator.call("reset_fault", Trigger.Request()).success, "the reset")


def test_an_arm_whose_controller_is_killed_stops_and_stays(artifact, tmp_path):
    with Station(artifact, tmp_path) as cell:
        cell.bring_up()
        cell.run()
        workers = workers_of(cell.processes["controller"].pid)
        cell.processes["controller"].kill()
        wait_for(lambda: cell.arm.speed == 0.0, "rest")
        cell.assert_still(0.3)
        wait_for(lambda: not any(alive(pid) for pid in workers), "the worker to leave")
        cell.launch("controller")
        wait_for(lambda: cell.state() == "unconfigured", "the new controller")
        cell.assert_still(0.5)
