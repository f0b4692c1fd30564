# SPDX-License-Identifier: Apache-2.0
"""The built workspace: messages as agreed, an action over DDS between two processes, executables where ROS looks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

NEXT = "Next: make install-ros ros-build"
pytestmark = pytest.mark.ros
rclpy = pytest.importorskip("rclpy", reason=f"ros: rclpy is not installed. {NEXT}")
pytest.importorskip("dropgate_interfaces", reason=f"ros: the workspace is not built. {NEXT}")

from dropgate_interfaces.action import RunTask  # noqa: E402
from dropgate_interfaces.msg import ActionChunk, RuntimeStatus, SceneStatus  # noqa: E402
from dropgate_interfaces.srv import ResetScene  # noqa: E402
from rclpy.action import ActionClient  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.lifecycle import LifecycleNode  # noqa: E402
from rclpy.node import Node  # noqa: E402
from rclpy.serialization import deserialize_message, serialize_message  # noqa: E402
from ros_station import wait_for  # noqa: E402

REPO = Path(__file__).resolve().parent.parent
ROBOTS = sorted((REPO / "launch" / "config").glob("*.yaml"))
SHARED_MEMORY, SEGMENT = Path("/dev/shm"), 16 * 1024 * 1024
HEADER, TIME = "std_msgs/Header", "builtin_interfaces/Time"
FIELDS = {
    RunTask.Goal: {"instruction": "string", "max_duration_s": "double", "speed_scale": "double"},
    RunTask.Result: {
        "success_reported": "boolean", "cause": "string", "text": "string", "chunks": "uint32", "commands": "uint32",
        "rejected_chunks": "uint32", "duration_s": "double",
    },
    RunTask.Feedback: {
        "state": "string", "chunks": "uint32", "commands": "uint32", "observation_age_s": "double",
        "infer_s": "double", "queue_s": "double", "scale": "double",
    },
    RuntimeStatus: {
        "header": HEADER, "state": "string", "cause": "string", "text": "string", "motion_enabled": "boolean",
        "armed": "boolean", "permit": "boolean", "artifact_id": "string", "policy_id": "string", "heartbeat": "uint64",
        "tick_p99_s": "double", "tick_max_s": "double", "observation_age_s": "double", "scale": "double",
        "streams": "sequence<string>", "stream_age_s": "sequence<double>", "stream_hz": "sequence<double>",
    },
    ActionChunk: {
        "header": HEADER, "sequence": "uint64", "names": "sequence<string>", "step_dt": "double", "horizon": "uint32",
        "data": "sequence<double>", "valid_until": TIME, "artifact_id": "string", "infer_s": "double",
    },
    SceneStatus: {
        "header": HEADER, "task": "int32", "state": "int32", "seed": "int32", "steps": "uint32", "commands": "uint32",
        "success": "boolean", "fault": "string",
    },
    ResetScene.Request: {"task": "int32", "state": "int32", "seed": "int32"},
    ResetScene.Response: {"ok": "boolean", "text": "string", "instruction": "string", "max_steps": "int32"},
}  # fmt: skip
EXECUTABLES = {
    "dropgate_controller": {"controller_node", "guard_node", "security_policy"},
    "dropgate_sim": {"regress", "sim_arm_node", "sim_robot_node"},
}


def prefix_of(package: str) -> Path:
    """Where the package is installed: as ament says, or in the environment of the wheels."""
    prefixes = [*filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)), sys.prefix]
    index = Path("share", "ament_index", "resource_index", "packages", package)
    return next(Path(prefix) for prefix in prefixes if (Path(prefix) / index).exists())


@pytest.mark.parametrize("kind", FIELDS, ids=lambda kind: kind.__name__)
def test_fields_are_as_agreed(kind: Any) -> None:
    assert dict(kind.get_fields_and_field_types()) == FIELDS[kind]


def test_message_survives_the_wire() -> None:
    chunk = ActionChunk(
        sequence=2**63, names=["dx", "dy"], step_dt=0.05, horizon=2, data=[0.1, -0.2, 0.3, float("inf")]
    )
    assert deserialize_message(serialize_message(chunk), ActionChunk) == chunk


def test_task_goes_to_another_process_and_its_result_comes_back(context: rclpy.Context, tmp_path: Path) -> None:
    segments = set(SHARED_MEMORY.glob("fastrtps_*"))
    log = tmp_path / "server.log"
    node = Node("run_task_client", context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    client = ActionClient(node, RunTask, "run_task")
    feedback: list[RunTask.Feedback] = []

    def until(fact: Any, what: str) -> None:
        wait_for(lambda: executor.spin_once(timeout_sec=0.05) or fact(), lambda: f"{what}\n{log.read_text()}")

    with log.open("wb") as stream:
        script = Path(__file__).with_name("run_task_server.py")
        server = subprocess.Popen([sys.executable, str(script)], stdout=stream, stderr=stream)
    try:
        until(client.server_is_ready, "the server")
        if SHARED_MEMORY.is_dir():
            new = set(SHARED_MEMORY.glob("fastrtps_*")) - segments
            assert max((path.stat().st_size for path in new), default=0) >= SEGMENT, "our DDS profile is not in use"
        goal = RunTask.Goal(instruction="put the block in the tray", max_duration_s=12.5, speed_scale=0.25)
        sent = client.send_goal_async(goal, feedback_callback=lambda message: feedback.append(message.feedback))
        until(sent.done, "the goal")
        assert sent.result().accepted
        ended = sent.result().get_result_async()
        until(ended.done, "the result")
        until(lambda: feedback, "the feedback")
    finally:
        server.kill()
        server.wait()
        executor.shutdown()
        node.destroy_node()
    result = ended.result().result
    assert (result.success_reported, result.cause, result.text) == (False, "finished", "put the block in the tray")
    assert (result.commands, result.duration_s) == (7, 12.5)
    assert (feedback[0].state, feedback[0].chunks, feedback[0].scale) == ("running", 1, 0.25)


@pytest.mark.parametrize("robot", ROBOTS, ids=lambda path: path.stem)
def test_controller_declares_every_parameter_of_the_robots_file(context: rclpy.Context, robot: Path) -> None:
    from artifact_factory import policy_spec
    from dropgate_controller import declared, parameters
    from dropgate_sim.robot_file import find_robot_file

    from runtime.safety.limits import limits_digest

    arguments = ["--ros-args", "--params-file", str(robot), "-p", "artifact:=/somewhere"]
    node = LifecycleNode("dropgate_controller", context=context, cli_args=arguments)
    try:
        declared.declare(node)
        station = parameters.read(node, policy_spec())
        unknown = sorted(set(node._parameter_overrides) - set(node._parameters))
    finally:
        node.destroy_node()
    assert not unknown, f"{robot.name} sets what nobody reads: {unknown}"
    assert station.robot == robot.stem
    assert not station.enable_motion
    if station.simulated:  # what the regression writes down is what the controller runs with
        assert find_robot_file(str(robot)).limits_sha256 == limits_digest(station.limits, station.timing)


@pytest.mark.parametrize("package", EXECUTABLES)
def test_executables_lie_where_launch_looks_for_them(package: str) -> None:
    folder = prefix_of(package) / "lib" / package
    assert {path.name for path in folder.iterdir()} == EXECUTABLES[package]
    assert all(os.access(path, os.X_OK) for path in folder.iterdir())
    assert (prefix_of(package) / "share" / package / "package.xml").is_file()


def test_launch_files_and_robots_are_installed_side_by_side() -> None:
    share = prefix_of("dropgate_bringup") / "share" / "dropgate_bringup"
    assert {path.name for path in share.glob("*.launch.py")} == {"controller.launch.py", "sim.launch.py"}
    assert {path.name for path in (share / "config").glob("*.yaml")} == {path.name for path in ROBOTS}
