# SPDX-License-Identifier: Apache-2.0
"""The other side of the simulated robot's topics, for tests: hears everything, commands, resets."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import rclpy
import ros_domains
from dropgate_interfaces.msg import SceneStatus
from dropgate_interfaces.srv import ResetScene
from dropgate_sim.question import Question
from dropgate_sim.sim_robot_node import GRIPPER_TOPIC, TRAJECTORY_TOPIC, TWIST_TOPIC
from geometry_msgs.msg import PoseStamped, TwistStamped
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float64
from trajectory_msgs.msg import JointTrajectory

LATCHED = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
STREAMS = {
    "joints": (JointState, "/joint_states"),
    "tcp": (PoseStamped, "/tcp_pose"),
    "agentview": (Image, "/agentview/image_raw"),
    "wrist": (Image, "/wrist/image_raw"),
}
KEPT = 200  # messages of each stream
PATIENCE_S = 240.0  # of every wait: a limit for hangs, no measurement


def ns(stamp) -> int:
    return stamp.sec * 10**9 + stamp.nanosec


class RobotProcess:
    """`sim_robot_node` as a child process in a ROS domain of its own."""

    def __init__(self, log: Path, **parameters) -> None:
        given = [part for name, value in parameters.items() for part in ("-p", f"{name}:={value}")]
        self.log, self.domain = log, ros_domains.take(ros_domains.ROBOTS)
        with log.open("wb") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "dropgate_sim.sim_robot_node", "--ros-args", *given],
                env={**os.environ, "ROS_DOMAIN_ID": self.domain, "LP_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL, stdout=stream, stderr=stream,
            )  # fmt: skip

    def check(self) -> None:
        code = self.process.poll()
        assert code is None, f"the robot ended with {code}: {self.log.read_text()}"

    def end(self) -> int:
        """Ctrl-C; the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout=PATIENCE_S)

    def kill(self) -> None:
        """Whatever happened, it is gone."""
        self.process.kill()
        self.process.wait()
        ros_domains.free(self.domain)


class Client:
    """Keeps what it heard last of every stream, and all scenes and clocks. Every wait fails if the robot dies.

    Streams are best effort: any message may be lost, and one of an earlier instant may still come. So what belongs
    together is found in `heard`, by the messages' own stamps.
    """

    def __init__(self, robot: RobotProcess) -> None:
        self._robot = robot
        self._context = rclpy.Context()
        rclpy.init(context=self._context, domain_id=int(robot.domain))
        self._node = rclpy.create_node("client", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._clients: dict = {}
        self.newest: dict = {}
        self.heard: dict[str, dict[int, object]] = {name: {} for name in STREAMS}  # stamp [ns] -> message
        self.counts: dict[str, int] = defaultdict(int)
        self.scenes: list[SceneStatus] = []
        self.clock_ns: list[int] = []
        make = self._node.create_subscription
        for name, (kind, topic) in STREAMS.items():
            make(kind, topic, lambda m, name=name: self._take(name, m), qos_profile_sensor_data)
        make(SceneStatus, "/sim_robot/scene", self.scenes.append, LATCHED)
        make(Clock, "/clock", lambda m: self.clock_ns.append(ns(m.clock)), 100)
        self._twist = self._node.create_publisher(TwistStamped, TWIST_TOPIC, 10)
        self._gripper = self._node.create_publisher(Float64, GRIPPER_TOPIC, 10)
        self._trajectory = self._node.create_publisher(JointTrajectory, TRAJECTORY_TOPIC, 10)

    def _take(self, name: str, message) -> None:
        self.newest[name] = message
        self.counts[name] += 1
        heard = self.heard[name]
        heard[ns(message.header.stamp)] = message
        if len(heard) > KEPT:
            del heard[next(iter(heard))]

    @property
    def scene(self) -> SceneStatus:
        return self.scenes[-1]

    @property
    def stamps(self) -> dict[str, int]:
        return {name: ns(message.header.stamp) for name, message in self.newest.items()}

    def spin(self, duration_s: float = 0.0) -> None:
        until = time.monotonic() + duration_s
        while True:
            self._robot.check()
            self._executor.spin_once(timeout_sec=0.01)
            if time.monotonic() >= until:
                return

    def until(self, done, what: str) -> None:
        limit = time.monotonic() + PATIENCE_S
        while not done():
            assert time.monotonic() < limit, f"waited {PATIENCE_S:g} s for {what}: {self.stamps}, {self.scenes[-1:]}"
            self.spin()

    def observed(self, after_ns: int = 0) -> int:
        """Wait until all four streams have shown one instant after `after_ns`; the last such instant, now `newest`."""

        def common() -> set[int]:
            return {stamp for stamp in set.intersection(*map(set, self.heard.values())) if stamp > after_ns}

        self.until(common, f"an observation after {after_ns}")
        stamp = max(common())
        self.newest = {name: heard[stamp] for name, heard in self.heard.items()}
        return stamp

    def reach(self, names: Iterable[str], stamp_ns: int) -> None:
        """Wait until each of these streams has shown `stamp_ns` or a later instant."""
        self.until(
            lambda: all(max(self.heard[name], default=0) >= stamp_ns for name in names), f"{names} at {stamp_ns}"
        )

    def pixels(self, camera: str) -> np.ndarray:
        message = self.newest[camera]
        assert message.encoding == "rgb8"
        return np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3)

    def meet(self) -> None:
        """Wait until the robot hears our commands."""
        self.until(lambda: self._gripper.get_subscription_count() == 1, "the robot's gripper subscription")
        heard = (self._twist, self._trajectory)
        self.until(lambda: sum(out.get_subscription_count() for out in heard) == 1, "the robot's motion subscription")

    def twist(self, values, stamp_ns: int, frame: str = "world") -> None:
        message = TwistStamped()
        message.header.frame_id = frame
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 10**9)
        linear, angular = message.twist.linear, message.twist.angular
        linear.x, linear.y, linear.z, angular.x, angular.y, angular.z = (float(value) for value in values)
        self._twist.publish(message)

    def gripper(self, ratio: float) -> None:
        self._gripper.publish(Float64(data=float(ratio)))

    def trajectory(self, message: JointTrajectory) -> None:
        self._trajectory.publish(message)

    def reset(self, task: int, state: int, seed: int = 0) -> ResetScene.Response:
        return self._call(ResetScene, "/sim_robot/reset", ResetScene.Request(task=task, state=state, seed=seed))

    def stand(self, task: int, state: int, seed: int = 0) -> int:
        """Reset, and wait for the first observation; its stamp."""
        before = max(self.stamps.values(), default=0)
        answer = self.reset(task, state, seed)
        assert answer.ok, answer.text
        return self.observed(before + 500_000_000)

    def set(self, name: str, value: str) -> tuple[bool, str]:
        """A text parameter of the robot; (taken, why not)."""
        wanted = ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=value)
        request = SetParameters.Request(parameters=[Parameter(name=name, value=wanted)])
        result = self._call(SetParameters, "/sim_robot/set_parameters", request).results[0]
        return result.successful, result.reason

    def _call(self, kind, name: str, request):
        if name not in self._clients:
            self._clients[name] = self._node.create_client(kind, name)
        client = self._clients[name]
        self.until(client.service_is_ready, name)
        question = Question(client, request)
        self.until(question.done, f"an answer of {name}")
        return question.answer()

    def close(self) -> None:
        self._executor.shutdown()
        self._node.destroy_node()
        rclpy.shutdown(context=self._context)
