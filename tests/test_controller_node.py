# SPDX-License-Identifier: Apache-2.0
"""Controller and guard as real processes on the real graph: what makes the arm move, what stops it, and why."""

import os
import signal
import subprocess

import numpy as np
import pytest
import yaml
from admission_factory import gate_json, panel, write_policy, write_regression
from artifact_factory import TASK, judge, policy_spec
from signing_factory import SERIAL

pytestmark = [pytest.mark.ros]
rclpy = pytest.importorskip("rclpy", reason="ros: rclpy not installed. Next: make install-ros")

from geometry_msgs.msg import TwistStamped  # noqa: E402
from ros_station import (  # noqa: E402
    PARAMETERS,
    POLICY,
    TOPIC,
    Station,
    believe,
    patient_artifact,
    release,
    result_of,
    station_facts,
    wait_for,
)
from std_srvs.srv import SetBool, Trigger  # noqa: E402

from runtime.contract.artifact import read_artifact  # noqa: E402
from runtime.contract.conventions import Verdict  # noqa: E402


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
        result = cell.run_and_cancel()
        assert result.cause == "cancelled"
        assert result.commands > 0
        cell.wait_rest()
        assert cell.arm.speed == 0.0
        wait_for(lambda: cell.arm.gripper, "a gripper command")
        moved = False
        for seconds in (1.0, 5.0, 25.0):  # of a task, its first answer included
            cell.wait_state("armed")
            second = result_of(cell.start(max_duration_s=seconds).get_result_async(), "the second result").result
            assert second.cause == "finished", second.text
            moved = moved or second.commands > 0
            if moved:
                break
        assert moved
        cell.wait_state("armed")
        assert cell.operator.transition("deactivate")
        assert cell.operator.transition("cleanup")
        cell.wait_state("unconfigured")


def test_a_transition_that_does_not_fit_is_refused_and_the_node_lives(artifact, tmp_path):
    with Station(artifact, tmp_path) as cell:
        assert not cell.operator.transition("activate")
        cell.bring_up()
        assert not cell.operator.transition("configure")
        assert cell.run().accepted


def test_cancel_begins_to_brake_within_one_tick(artifact, tmp_path):
    with Station(artifact, tmp_path, tick_hz=20.0) as cell:
        cell.bring_up()
        handle = cell.run()
        wait_for(lambda: cell.arm.speed > 0.3, "full speed")
        asked_ns = cell.arm.get_clock().now().nanoseconds
        result_of(handle.cancel_goal_async(), "the cancellation")
        answered_ns = cell.arm.get_clock().now().nanoseconds
        result_of(handle.get_result_async(), "the end of the task")
        cell.wait_rest()
        stamps = [stamp for stamp, _ in cell.arm.received]
        assert stamps[-1] > asked_ns, "the command to stand still is an answer to the cancellation"
        later = [np.linalg.norm(twist[:3]) for stamp, twist in cell.arm.received if stamp > answered_ns]
        assert all(speed < 0.3 for speed in later)  # 20 m/s2 over one tick of 50 ms brakes all of it


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


def test_shadow_mode_runs_a_held_artifact_never_arms_and_publishes_no_command(held, tmp_path):
    with Station(held, tmp_path, enable_motion=False, trust_store="", station_policy="") as cell:
        cell.bring_up()
        answer = cell.operator.call("arm", SetBool.Request(data=True))
        assert not answer.success
        assert "shadow mode never arms" in answer.message
        results = []

        def ran() -> bool:
            handle = cell.start(max_duration_s=1.0)
            results.append(result_of(handle.get_result_async(), "the result").result if handle.accepted else None)
            return results[-1] is not None and results[-1].chunks > 0

        wait_for(ran, lambda: f"a chunk; {results}\n{cell.log()}")
        assert not cell.operator.status.armed
        assert cell.arm.received == []
        assert cell.operator.count_publishers(TOPIC) == 0
        decisions = cell.decisions()
        assert {line["motion"] for line in decisions} == {False}
        assert any("worse by 20 points" in reason for reason in decisions[0]["reasons"])
        assert len(decisions[0]["facts"]["limits_sha256"]) == 64, "what a releaser needs to know"


def test_a_real_arm_without_trust_store_policy_or_regression_is_refused_with_every_reason(artifact, tmp_path):
    import shutil

    copy = tmp_path / "artifact"
    shutil.copytree(artifact, copy)
    with Station(copy, tmp_path, guard=False, trust_store="", station_policy="") as cell:
        assert not cell.operator.transition("configure")
        wait_for(lambda: "no station policy is given" in cell.operator.status.text, "the reasons")
        assert "no trust store is given" in cell.operator.status.text
        assert cell.decisions()[-1]["motion"] is False
    with Station(copy, tmp_path, guard=False) as cell:
        write_policy(cell.policy, {**POLICY, "require_regression": True})
        assert not cell.operator.transition("configure")
        wait_for(lambda: "regression" in cell.operator.status.text, "the reason")
        write_regression(read_artifact(copy), "point", station_facts().limits_sha256, verdict="fail")
        assert not cell.operator.transition("configure")
        write_regression(read_artifact(copy), "point", station_facts().limits_sha256)
        assert cell.operator.transition("configure"), cell.log()
        last = cell.decisions()[-1]
        assert (last["when"], last["admitted"], last["motion"]) == ("configure", True, True)
        assert {check["name"]: check["state"] for check in last["checks"]}["golden parity"] == "ok"


def test_arming_decides_again_and_only_released_tasks_begin(artifact, tmp_path):
    """Revoked, expired, demanded otherwise, touched: each between configure and arm, and taken back."""
    import shutil

    copy = tmp_path / "artifact"
    shutil.copytree(artifact, copy)
    with Station(copy, tmp_path) as cell:

        def refusal() -> str:
            answer = cell.operator.call("arm", SetBool.Request(data=True))
            assert not answer.success
            return answer.message

        cell.bring_up()
        assert not cell.start("open the safe").accepted
        wait_for(lambda: "'open the safe' is not released" in cell.operator.status.text, "the reason")
        cell.operator.call("arm", SetBool.Request(data=False))
        believe(cell.trust, releases=(SERIAL,))
        assert "was revoked" in refusal()
        assert cell.state() == "idle"
        believe(cell.trust)
        release(copy, days=-1.0, issued_at="2026-01-01T00:00:00Z")
        assert "expired" in refusal()
        release(copy)
        write_policy(cell.policy, {**POLICY, "min_baseline": 0.95})
        assert "baseline in_distribution" in refusal()
        write_policy(cell.policy, POLICY)
        cell.rearm()
        cell.run_and_cancel()
        cell.wait_state("armed")
        cell.operator.call("arm", SetBool.Request(data=False))
        release(copy, days=3.0 / 86400.0)

        def expired() -> bool:
            cell.operator.call("arm", SetBool.Request(data=False))  # who is armed already is not decided about
            return "expired" in cell.operator.call("arm", SetBool.Request(data=True)).message

        wait_for(expired, "the end of 3 s")
        release(copy)
        (copy / "evidence" / "probe.json").touch()
        assert "touched since they were verified: evidence/probe.json" in refusal()
        asked = [(line["when"], line["motion"]) for line in cell.decisions()]
        assert asked[0] == ("configure", True)
        assert ("goal", False) in asked
        assert ("goal", True) in asked
        assert asked[-1] == ("arm", False)


def test_a_release_whose_golden_answers_are_others_is_refused_by_the_engine_here(artifact, tmp_path):
    from artifact_factory import artifact_files, observation, write_draft

    from runtime.contract.conventions import FileRole
    from runtime.contract.write import ArtifactFile
    from runtime.inference.golden import dump_golden

    wrong = dump_golden([observation(seed) for seed in (1, 2)], np.zeros((2, 8, 7), np.float32))
    files = {**artifact_files(), "golden.safetensors": ArtifactFile(FileRole.GOLDEN, wrong)}
    draft = write_draft(tmp_path / "draft", files=files)
    report = gate_json(draft.manifest.policy_id, [panel("in_distribution")])
    sealed = judge(draft, tmp_path / "artifact", Verdict.PROMOTE, report=report).root
    release(sealed)
    with Station(sealed, tmp_path, guard=False) as cell:
        assert not cell.operator.transition("configure")
        wait_for(lambda: "golden samples differs" in cell.operator.status.text, lambda: str(cell.operator.status))
        last = cell.decisions()[-1]
        assert last["motion"] is False
        assert "golden parity" in last["reasons"][-1]


def test_a_policy_that_answers_too_late_for_its_horizon_is_refused_with_the_numbers(artifact, tmp_path):
    with Station(artifact, tmp_path, guard=False, lead_s=0.0) as cell:  # all rows are executed: none may be over
        assert not cell.operator.transition("configure")
        wait_for(lambda: "are to be executed" in cell.operator.status.text, lambda: str(cell.operator.status))
        assert cell.decisions()[-1]["motion"] is False


@pytest.mark.parametrize(
    ("topic", "remap", "allowed"),
    [
        ("/dropgate_sim/twists", [], True),
        (TOPIC, [], False),
        ("/dropgate_sim/twists", ["-r", f"/dropgate_sim/twists:={TOPIC}"], False),
    ],
)
def test_a_simulated_arm_is_commanded_only_where_no_real_one_listens(tmp_path, topic, remap, allowed):
    """So that `simulated` cannot be set for a real arm by mistake, also not together with a remapped topic."""
    from dropgate_controller import declared, parameters
    from rclpy.lifecycle import Node

    values = {**PARAMETERS, "artifact": "/somewhere", "simulated": True, "command.topic": topic, "gripper.topic": ""}
    (tmp_path / "p.yaml").write_text(yaml.safe_dump({"dropgate_controller": {"ros__parameters": values}}))
    context = rclpy.Context()
    rclpy.init(context=context)
    arguments = ["--ros-args", "--params-file", str(tmp_path / "p.yaml"), *remap]
    node = Node("dropgate_controller", context=context, cli_args=arguments)
    try:
        declared.declare(node)
        if allowed:
            assert parameters.read(node, policy_spec()).world is parameters.World.SIMULATED
        else:
            with pytest.raises(parameters.ParameterError, match="driver of a real arm may hear"):
                parameters.read(node, policy_spec())
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)


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


def test_a_task_over_dds_is_recorded_and_replayed_to_the_bit(artifact, tmp_path, capsys):
    from runtime.__main__ import main
    from runtime.recording.mcap_file import McapRecording
    from runtime.recording.replay import replay
    from runtime.recording.setup import Setup

    folder = tmp_path / "recordings"
    with Station(artifact, tmp_path, record_dir=str(folder)) as cell:
        cell.bring_up()
        cell.run_and_cancel()
        cell.wait_state("armed")
        cell.operator.call("arm", SetBool.Request(data=False))
        assert cell.operator.transition("deactivate")
        assert cell.operator.transition("cleanup"), cell.log()
        (path,) = folder.glob("*.mcap")
    found = McapRecording(path)
    done = replay(Setup.from_json(found.setup), found.events())
    assert done.same, done.difference
    assert found.whole
    assert done.commands > 5
    assert (done.decisions[0], done.decisions[-1]) == ("arm: motion", f'goal "{TASK}": motion')
    assert found.setup["about"]["admission"] == "admitted"
    assert found.setup["about"]["world"] == "real"
    assert main(["replay", str(path)]) == 0
    said = capsys.readouterr().out
    assert "admitted" in said
    assert "arm: motion" in said


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
