# SPDX-License-Identifier: Apache-2.0
"""A cell on the real graph: controller and guard as processes, a point-like arm with two cameras, and an operator."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import numpy as np
import rclpy
import yaml
from admission_factory import demands, gate_json, panel, sign_release, write_policy
from artifact_factory import TASK, judge, policy_spec, write_draft
from dropgate_interfaces.action import RunTask
from dropgate_interfaces.msg import RuntimeStatus
from dropgate_sim.question import Question, TransitionQuestion
from geometry_msgs.msg import PoseStamped, TwistStamped
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.action import ActionClient
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from sensor_msgs.msg import Image, JointState
from signing_factory import nothing_revoked, people, trusted, write_trust
from std_msgs.msg import Float64
from std_srvs.srv import SetBool, Trigger

from runtime.contract.admission import StationFacts
from runtime.contract.artifact import Artifact, load_manifest
from runtime.contract.conventions import Verdict
from runtime.contract.trust_store import Role, TrustStore
from runtime.contract.utc_time import format_utc, utc_now
from runtime.safety.limits import limits_digest, station_limits

TOPIC, PATIENCE_S, HZ = "/servo_node/delta_twist_cmds", 60.0, 50.0
GREY = 88  # with the test artifact's graph: about 0.2 m/s along each axis
SOURCES = ["tcp.x", "tcp.y", "tcp.z", "tcp.rx", "tcp.ry", "tcp.rz", "joint.grip_left", "joint.grip_right"]
PARAMETERS = {
    "robot": "point", "command.interface": "twist", "command.topic": TOPIC, "command.frame": "base",
    "gripper.topic": "/gripper/command", "joints.topic": "/joint_states", "joints.names": ["grip_left", "grip_right"],
    "tcp.topic": "/tcp_pose", "tcp.frame": "base", "cameras.agentview.topic": "/agentview/image_raw",
    "cameras.wrist.topic": "/wrist/image_raw", "state": SOURCES, "enable_motion": True,
    "ramp_in_s": 0.2, "permit_timeout_s": 4.0, "lead_s": 0.2,  # the policy may be slow
    "max_clock_step_s": 5.0, "limits.linear_m_s": 1.0, "limits.angular_rad_s": 10.0,
    "limits.linear_m_s2": 20.0, "limits.angular_rad_s2": 200.0, "limits.workspace_low": [-9.0, -9.0, -9.0],
    "limits.workspace_high": [9.0, 9.0, 9.0], "limits.max_start_jump_m": 0.5, "limits.max_start_jump_rad": 3.0,
    "worker.threads": 1, "worker.request_timeout_s": 20.0, "max_pause_s": 20.0,
}  # fmt: skip


WHO = people()  # builder and releaser whom the stations of this test run believe
POLICY = demands(panels={"in_distribution": {"margin": 0.03, "alpha": 0.05, "min_pairs": 30}}, require_regression=False)


def station_facts() -> StationFacts:
    """What a controller with PARAMETERS says of itself."""
    number = {name.removeprefix("limits."): value for name, value in PARAMETERS.items()}.__getitem__
    limits = limits_digest(station_limits("twist", number, PARAMETERS["joints.names"]))
    return StationFacts(PARAMETERS["robot"], limits, ("agentview", "wrist"), policy_spec().action.dt_s)


def release(root: Path, days: float = 1.0, **changes: object) -> None:
    """Sign, as builder and releaser, what lies in `root`; from now on, for so many days."""
    now = utc_now()
    times = {"issued_at": format_utc(now), "expires_at": format_utc(now + timedelta(days=days))}
    sign_release(Artifact(root, *load_manifest(root)), WHO, station_facts(), **{**times, **changes})


def believe(folder: Path, **revoked: tuple[str, ...]) -> Path:
    """The station's trust store."""
    ends = format_utc(utc_now() + timedelta(days=30))
    keys = (trusted(WHO.builder, Role.BUILDER, not_after=ends), trusted(WHO.releaser, Role.RELEASER, not_after=ends))
    return write_trust(folder, TrustStore(keys, nothing_revoked(updated_at=format_utc(utc_now()), **revoked)))


def patient_artifact(folder: Path, verdict: Verdict, reason: str = "20 of 20 episodes") -> Path:
    """A sealed and, if promoted, released test artifact whose observations may be older than on a robot: test machines
    are busy."""
    spec = policy_spec()
    images = tuple(dataclasses.replace(image, max_age_s=3.0) for image in spec.observation.images)
    state = dataclasses.replace(spec.observation.state, max_age_s=3.0)
    seen = dataclasses.replace(spec.observation, images=images, state=state, max_skew_s=1.0)
    draft = write_draft(folder / "draft", policy=dataclasses.replace(spec, observation=seen))
    report = gate_json(draft.manifest.policy_id, [panel("in_distribution")], verdict=verdict.value)
    root = judge(draft, folder / verdict.value, verdict, reason, report).root
    if verdict is Verdict.PROMOTE:
        release(root)
    return root


class Arm(Node):
    """Integrates the last twist until it times out, and reports at 50 Hz; faults are sets of stream names."""

    def __init__(self, context: rclpy.Context) -> None:
        super().__init__("arm", context=context)
        self.place, self.twist, self.twist_s = np.zeros(3), np.zeros(6), -np.inf
        self.received: list[tuple[int, np.ndarray]] = []  # (the sender's stamp [ns], twist)
        self.gripper: list[float] = []
        self.silent: set[str] = set()
        self.frozen: set[str] = set()
        self.stale, self.joint_names, self._frame = False, ["grip_left", "grip_right"], 0
        self._images = {
            key: self.create_publisher(Image, f"/{key}/image_raw", qos_profile_sensor_data)
            for key in ("agentview", "wrist")
        }
        self._joints = self.create_publisher(JointState, "/joint_states", qos_profile_sensor_data)
        self._tcp = self.create_publisher(PoseStamped, "/tcp_pose", qos_profile_sensor_data)
        self.create_subscription(TwistStamped, TOPIC, self._on_twist, QoSProfile(depth=10))
        self.create_subscription(Float64, "/gripper/command", lambda m: self.gripper.append(m.data), 10)
        self.create_timer(1.0 / HZ, self._step)

    @property
    def speed(self) -> float:
        """What the arm is told now, time-out included."""
        return float(np.linalg.norm(self.twist[:3])) if time.monotonic() - self.twist_s <= 0.1 else 0.0

    def _on_twist(self, message: TwistStamped) -> None:
        t = message.twist
        self.twist = np.array([t.linear.x, t.linear.y, t.linear.z, t.angular.x, t.angular.y, t.angular.z])
        self.twist_s = time.monotonic()
        stamp = message.header.stamp
        self.received.append((stamp.sec * 10**9 + stamp.nanosec, self.twist))

    def _step(self) -> None:
        if self.speed:
            self.place = self.place + self.twist[:3] / HZ
        stamp = self.get_clock().now().to_msg()
        if self.stale:
            stamp.sec -= 10
        self._frame += 1
        for key, publisher in self._images.items():
            if key in self.silent:
                continue
            pixels = np.full((16, 12, 3), GREY, np.uint8)
            if key not in self.frozen:
                pixels[self._frame % 16, self._frame // 16 % 12] += 1
            image = Image(height=16, width=12, encoding="rgb8", step=36, data=pixels.tobytes())
            image.header.stamp = stamp
            publisher.publish(image)
        if "joints" not in self.silent:
            positions = {"grip_left": 0.02, "grip_right": -0.02}
            message = JointState(name=self.joint_names, position=[positions[n] for n in self.joint_names])
            message.header.stamp = stamp
            self._joints.publish(message)
        if "tcp" not in self.silent:
            pose = PoseStamped()
            pose.header.stamp, pose.header.frame_id = stamp, "base"
            pose.pose.position.x, pose.pose.position.y, pose.pose.position.z = map(float, self.place)
            pose.pose.orientation.w = 1.0
            self._tcp.publish(pose)


class Operator(Node):
    """Lifecycle, services, the action, and the latest status."""

    def __init__(self, context: rclpy.Context) -> None:
        super().__init__("operator", context=context)
        latched = QoSProfile(
            depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
        )
        self.status = RuntimeStatus()  # empty until something is heard
        self.causes: list[str] = []
        self.create_subscription(RuntimeStatus, "/dropgate_controller/status", self._on_status, latched)
        self._calls = {
            "change_state": self.create_client(ChangeState, "/dropgate_controller/change_state"),
            "get_state": self.create_client(GetState, "/dropgate_controller/get_state"),
            "arm": self.create_client(SetBool, "/dropgate_controller/arm"),
            "stop": self.create_client(Trigger, "/dropgate_controller/stop"),
            "reset_fault": self.create_client(Trigger, "/dropgate_controller/reset_fault"),
        }
        self.tasks = ActionClient(self, RunTask, "/dropgate_controller/run_task")

    def _on_status(self, message: RuntimeStatus) -> None:
        self.status = message
        if message.cause != "none" and (not self.causes or self.causes[-1] != message.cause):
            self.causes.append(message.cause)

    def call(self, name: str, request: object) -> object:
        """Call a service and wait for its answer."""
        wait_for(self._calls[name].service_is_ready, f"service {name}")
        question = Question(self._calls[name], request)
        wait_for(question.done, name)
        return question.answer()

    def transition(self, name: str) -> bool:
        """A lifecycle transition: configure, activate, deactivate, cleanup."""
        number = getattr(Transition, f"TRANSITION_{name.upper()}")
        wait_for(self._calls["change_state"].service_is_ready, "service change_state")
        question = TransitionQuestion(self._calls["change_state"], self._calls["get_state"], number)
        wait_for(question.done, name)
        return question.answer()


class Station:
    """`with Station(artifact, tmp) as cell: cell.bring_up(); cell.start()`."""

    def __init__(self, artifact: Path, tmp: Path, guard: bool = True, **parameters: object) -> None:
        self._tmp, self.evidence = tmp, tmp / "evidence"
        self.trust, self.policy = believe(tmp / "trust"), write_policy(tmp / "station_policy.json", POLICY)
        own = {"trust_store": str(self.trust), "station_policy": str(self.policy), "evidence_dir": str(self.evidence)}
        values = {**PARAMETERS, "artifact": str(artifact), **own, **parameters}
        self._shadow = not values["enable_motion"]
        self._file = tmp / "parameters.yaml"
        flat = {"dropgate_controller": {"ros__parameters": values}}
        flat["dropgate_guard"] = {
            "ros__parameters": {"command.topic": TOPIC, "heartbeat_s": 5.0, "joints_s": 5.0}
        }  # a busy test machine is no dead controller
        self._file.write_text(yaml.safe_dump(flat))
        self._guard = guard
        self.processes: dict[str, subprocess.Popen] = {}

    def __enter__(self) -> Station:
        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        self.arm, self.operator = Arm(self._context), Operator(self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.arm)
        self._executor.add_node(self.operator)
        self._thread = threading.Thread(target=self._executor.spin, daemon=True)
        self._thread.start()
        for name in ("controller", "guard")[: 1 + self._guard]:
            self.launch(name)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes.values():
            process.terminate()  # a killed one leaves its part of the graph in shared memory
        for process in self.processes.values():
            try:
                process.wait(timeout=4.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._executor.shutdown()
        self._thread.join(timeout=10)
        self.arm.destroy_node()
        self.operator.destroy_node()
        rclpy.shutdown(context=self._context)

    def launch(self, name: str) -> None:
        """Start (again) the controller or the guard."""
        command = [sys.executable, "-m", f"dropgate_controller.{name}_node", "--ros-args", "--params-file", self._file]
        with (self._tmp / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [str(part) for part in command], stdout=log, stderr=log, env=os.environ.copy()
            )

    def log(self, name: str = "controller") -> str:
        """What a process has written."""
        return (self._tmp / f"{name}.log").read_text()

    def decisions(self) -> list[dict[str, object]]:
        """What the controller has written down about motion."""
        path = self.evidence / "admission.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def bring_up(self) -> None:
        """Configured, active, armed; a shadow is never armed."""
        assert self.operator.transition("configure"), self.log()
        assert self.operator.transition("activate"), self.log()
        if not self._shadow:
            self.rearm()

    def rearm(self) -> None:
        """Arm as soon as permission and observations are there."""
        answer = None

        def armed() -> bool:
            nonlocal answer
            answer = self.operator.call("arm", SetBool.Request(data=True))
            return answer.success

        wait_for(armed, "arming")

    def start(self, instruction: str = TASK, **goal: float) -> object:
        """Send a goal; gives its handle."""
        wait_for(self.operator.tasks.server_is_ready, "the action server")
        request = RunTask.Goal(instruction=instruction, **goal)
        return result_of(self.operator.tasks.send_goal_async(request), "the goal")

    def run(self, **goal: float) -> object:
        """Send a goal and wait until the arm moves."""
        handle = self.start(**goal)
        assert handle.accepted
        wait_for(lambda: self.arm.speed > 0.1, lambda: f"motion: {self.log()}")
        return handle

    def run_and_cancel(self, commands: int = 10) -> object:
        """A task that ends when so many commands have arrived in motion, however slow the machine is; its result."""
        handle, before = self.run(), len(self.arm.received)
        wait_for(lambda: len(self.arm.received) >= before + commands, lambda: f"commands: {self.log()}")
        assert result_of(handle.cancel_goal_async(), "the cancellation").goals_canceling
        return result_of(handle.get_result_async(), "the result").result

    def wait_rest(self) -> None:
        """Until the last command that arrived is to stand still: a result may overtake it."""
        wait_for(lambda: not self.arm.received[-1][1][:3].any(), lambda: f"the command to stand still: {self.log()}")

    def state(self) -> str:
        """From the latest status."""
        return self.operator.status.state

    def wait_state(self, wanted: str) -> None:
        """Until the status says so."""
        wait_for(lambda: self.state() == wanted, lambda: f"state {wanted}; now {self.state()}\n{self.log()[-2000:]}")

    def assert_still(self, seconds: float = 1.0) -> None:
        """Nothing moves for a while."""
        place = self.arm.place.copy()
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(0.02)
        assert np.array_equal(self.arm.place, place)


def result_of(future: object, what: str) -> object:
    """The future's result; it is completed by the spinning thread."""
    wait_for(future.done, what)
    return future.result()


def wait_for(fact: Callable[[], bool], what: str | Callable[[], str], patience_s: float = PATIENCE_S) -> None:
    """Poll until `fact`; `what` is for the reader of a failure."""
    until = time.monotonic() + patience_s
    while not fact():
        if time.monotonic() > until:
            raise AssertionError(f"still waiting after {patience_s:g} s for {what() if callable(what) else what}")
        time.sleep(0.005)
