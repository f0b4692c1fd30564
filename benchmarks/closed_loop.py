# SPDX-License-Identifier: Apache-2.0
"""How fast is the loop over DDS: tick, inference, observation to command, and what of the streams arrives.

    python benchmarks/closed_loop.py ARTIFACT --seconds 20 --json out.json
    python benchmarks/closed_loop.py ARTIFACT --image-size 480x640 --camera-hz 30 --joint-hz 100

Three processes besides this one: drivers that publish two cameras, joints and tool pose (an arm that stands still,
pixels that change), the guard, and the controller with its policy worker, all on this machine. The policy is the
artifact's own; what it commands goes to a topic that the drivers hear and ignore. Needs ROS 2 and the built workspace;
limits and names are those of `launch/config/libero_panda.yaml`, but in real time. Numbers of a shared machine are upper
bounds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import signal
import sys
import tempfile
import threading
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

CONFIG = Path(__file__).resolve().parent.parent / "launch" / "config" / "libero_panda.yaml"
REAL_TIME = {"lockstep": False, "tick_hz": 50.0, "lead_s": 0.1, "ramp_in_s": 0.0, "max_duration_s": 600.0}
TASK = "put the red block in the left tray"
WAIT_S = 120.0


def drivers(given: argparse.Namespace) -> None:
    """Publish everything at its rate until killed."""
    import numpy as np
    import rclpy
    from dropgate_controller.ros_setup import use_shared_memory
    from geometry_msgs.msg import PoseStamped, TwistStamped
    from rclpy.node import Node
    from rclpy.qos import qos_profile_sensor_data
    from sensor_msgs.msg import Image, JointState

    use_shared_memory()
    rclpy.init(args=[])
    node = Node("drivers")
    parameters = station_parameters()
    height, width = map(int, given.image_size.split("x"))
    noise = [np.random.default_rng(k).integers(0, 256, (height, width, 3), np.uint8) for k in range(4)]
    frames = [Image(height=height, width=width, encoding="rgb8", step=3 * width, data=n.tobytes()) for n in noise]
    names = parameters["joints"]["names"]
    joints = JointState(name=names, position=[0.0] * len(names))
    pose = PoseStamped()
    pose.header.frame_id = parameters["tcp"]["frame"]
    pose.pose.position.x, pose.pose.position.z = -0.2, 1.1
    pose.pose.orientation.x, pose.pose.orientation.w = 1.0, 0.0
    publishers = [
        node.create_publisher(Image, camera["topic"], qos_profile_sensor_data)
        for camera in parameters["cameras"].values()
    ]
    joint_out = node.create_publisher(JointState, parameters["joints"]["topic"], qos_profile_sensor_data)
    pose_out = node.create_publisher(PoseStamped, parameters["tcp"]["topic"], qos_profile_sensor_data)
    node.create_subscription(TwistStamped, parameters["command"]["topic"], lambda message: None, 1)
    count = 0

    def cameras() -> None:
        nonlocal count
        count += 1
        frame = frames[count % len(frames)]
        frame.header.stamp = node.get_clock().now().to_msg()
        for publisher in publishers:
            publisher.publish(frame)

    def robot() -> None:
        joints.header.stamp = pose.header.stamp = node.get_clock().now().to_msg()
        joint_out.publish(joints)
        pose_out.publish(pose)

    node.create_timer(1.0 / given.camera_hz, cameras)
    node.create_timer(1.0 / given.joint_hz, robot)
    rclpy.spin(node)


def station_parameters() -> dict[str, Any]:
    import yaml

    return yaml.safe_load(CONFIG.read_text())["dropgate_controller"]["ros__parameters"]


def measure(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Bring the station up, run one task for the given time, and read what the controller measured about itself."""
    import rclpy
    from diagnostic_msgs.msg import DiagnosticArray
    from dropgate_interfaces.action import RunTask
    from dropgate_interfaces.msg import RuntimeStatus
    from dropgate_sim.processes import Processes, Program
    from dropgate_sim.question import Question, TransitionQuestion
    from lifecycle_msgs.srv import ChangeState, GetState
    from rclpy.action import ActionClient
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.node import Node
    from std_srvs.srv import SetBool

    context = rclpy.Context()
    rclpy.init(context=context)
    node, executor = Node("benchmark", context=context), SingleThreadedExecutor(context=context)
    executor.add_node(node)
    spinning = threading.Thread(target=executor.spin, daemon=True)
    seen: dict[str, Any] = {"status": [], "values": {}}
    node.create_subscription(RuntimeStatus, "/dropgate_controller/status", seen["status"].append, 10)
    node.create_subscription(
        DiagnosticArray,
        "/diagnostics",
        lambda m: [seen["values"].update({v.key: v.value for v in s.values}) for s in m.status],
        10,
    )
    task = ActionClient(node, RunTask, "/dropgate_controller/run_task")
    station = folder / "station.yaml"
    station.write_text(json.dumps(parameter_file()))
    loaded = ["--ros-args", "--params-file", str(station)]
    moving = ["-p", f"artifact:={given.artifact.absolute()}", "-p", "enable_motion:=true"]
    programs = (
        Program("guard", "dropgate_controller.guard_node", loaded, {}),
        Program("controller", "dropgate_controller.controller_node", [*loaded, *moving], {}),
    )
    here = [*sys.argv[1:], "--drivers"]
    driving = Driving(here)
    spinning.start()
    try:
        with Processes(programs, folder) as processes:
            change = ready(node, ChangeState, "/dropgate_controller/change_state")
            get = ready(node, GetState, "/dropgate_controller/get_state")
            for number in (1, 3):  # configure, activate
                if not settled(TransitionQuestion(change, get, number), "change_state"):
                    raise SystemExit(f"the controller refused:\n{processes.tail('controller')}")
            until = time.monotonic() + WAIT_S
            arm = ready(node, SetBool, "/dropgate_controller/arm")
            while not settled(Question(arm, SetBool.Request(data=True)), "arm").success:
                if time.monotonic() > until:
                    raise SystemExit(f"the controller cannot be armed:\n{processes.tail('controller')}")
            task.wait_for_server(WAIT_S)
            goal = wait(task.send_goal_async(RunTask.Goal(instruction=TASK, max_duration_s=given.seconds)))
            result = wait(goal.get_result_async(), given.seconds + WAIT_S).result
            time.sleep(1.5)  # the last diagnostics
            processes.check()
    finally:
        driving.end()
        executor.shutdown()
        rclpy.shutdown(context=context)
    running = [s for s in seen["status"] if s.state == "running"]
    return {
        "schema": "dropgate.closed_loop/1",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "task": {"cause": result.cause, "text": result.text, "chunks": result.chunks, "commands": result.commands},
        "rejected_chunks": result.rejected_chunks,
        "controller": seen["values"],
        "received_hz": received(running),
        "sent_hz": {"cameras": given.camera_hz, "joints and pose": given.joint_hz},
        "image_size": given.image_size,
        "seconds": given.seconds,
        "machine": {"cpu": cpu_name(), "cores": os.cpu_count(), "system": platform.platform()},
        "rmw": os.environ.get("RMW_IMPLEMENTATION", "rmw_fastrtps_cpp (default), shared-memory profile"),
        "seed": 0,
    }


class Driving:
    """The drivers' process."""

    def __init__(self, arguments: list[str]) -> None:
        import subprocess

        self._process = subprocess.Popen([sys.executable, __file__, *arguments])

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


def parameter_file() -> dict[str, Any]:
    """libero_panda's file, of a simulated arm, in real time: nothing here is a real one."""
    import yaml

    whole = yaml.safe_load(CONFIG.read_text())
    whole["dropgate_controller"]["ros__parameters"] |= REAL_TIME
    return whole


def ready(node: Any, kind: Any, name: str) -> Any:
    client = node.create_client(kind, name)
    if not client.wait_for_service(WAIT_S):
        raise SystemExit(f"service {name} is not there after {WAIT_S:g} s")
    return client


def settled(question: Any, name: str) -> Any:
    until = time.monotonic() + WAIT_S
    while not question.done():
        if time.monotonic() > until:
            raise SystemExit(f"service {name} gave no answer in {WAIT_S:g} s")
        time.sleep(0.005)
    return question.answer()


def wait(future: Any, patience_s: float = WAIT_S) -> Any:
    until = time.monotonic() + patience_s
    while not future.done():
        if time.monotonic() > until:
            raise SystemExit(f"no answer after {patience_s:g} s")
        time.sleep(0.005)
    return future.result()


def received(statuses: list[Any]) -> dict[str, float]:
    """Median rate of every stream while the task ran."""
    import statistics

    names = statuses[0].streams if statuses else []
    return {name: round(statistics.median(s.stream_hz[i] for s in statuses), 2) for i, name in enumerate(names)}


def cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--image-size", default="128x128", metavar="HxW")
    parser.add_argument("--camera-hz", type=float, default=30.0)
    parser.add_argument("--joint-hz", type=float, default=100.0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--drivers", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.drivers:
        drivers(given)
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that its processes end with it
    os.environ.setdefault("ROS_DOMAIN_ID", str(random.SystemRandom().randint(1, 101)))
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("ROS_LOG_DIR", folder)
        result = measure(given, Path(folder))
    print(json.dumps(result, indent=2))
    if given.json is not None:
        given.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
