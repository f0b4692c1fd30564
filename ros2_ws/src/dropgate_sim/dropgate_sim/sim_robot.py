# SPDX-License-Identifier: Apache-2.0
"""`SimRobot`: LIBERO's arm as a driver would see it: commands in, joints, tool pose and cameras out. Knows no ROS.

It has no clock of its own: whoever steps it says what time it is (`now_ns`), in simulated or in real time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compress.sim.envs import AGENT_CAMERA, IMAGE_KEYS, WRIST_CAMERA, TaskEnv
from compress.sim.suites import Suite
from dropgate_sim.commands import (
    COMMAND_TIMEOUT_NS,
    CommandRefused,
    Floats,
    GripperInput,
    TrajectoryInput,
    TwistInput,
)

ARM_JOINTS = tuple(f"panda_joint{i}" for i in range(1, 8))
FINGER_JOINTS = ("panda_finger_joint1", "panda_finger_joint2")
JOINTS = ARM_JOINTS + FINGER_JOINTS
CAMERAS = tuple(IMAGE_KEYS[name] for name in (AGENT_CAMERA, WRIST_CAMERA))
FRAME = "world"
SUBSTEP_NS = 2_000_000  # robosuite's physics step

__all__ = [
    "ARM_JOINTS", "CAMERAS", "COMMAND_TIMEOUT_NS", "FINGER_JOINTS", "FRAME", "JOINTS", "CommandRefused", "Interface",
    "NoScene", "RobotState", "Scene", "SimRobot",
]  # fmt: skip


class NoScene(RuntimeError):
    """The robot stands in no scene: before the first reset, or after one that failed."""


class Interface(str, Enum):
    """What moves the arm: twists through OSC_POSE, or joint trajectories through a joint position controller."""

    TWIST = "twist"
    JOINT_TRAJECTORY = "joint_trajectory"


@dataclass(frozen=True)
class Scene:
    """Which episode this is. `state` -1 draws a fresh layout from `seed`."""

    task: int
    state: int
    seed: int


@dataclass(frozen=True)
class RobotState:
    """What the drivers can see after a control step.

    Attributes:
        positions, velocities: (9,) of JOINTS [rad, rad/s; fingers m, m/s]. Finger signs are robosuite's: the second
            finger's position is negative, as in the state that LIBERO policies are trained on.
        tcp_position: (3,) of the grip site in `world` [m].
        tcp_quaternion: (4,) x, y, z, w of the hand, sign as robosuite gives it.
        images: camera -> uint8 (H, W, 3) RGB as LIBERO stores them, upside down; empty if the step drew none.
        steps, commands: control steps and accepted motion commands since the reset.
        success: the goal has been reached since the reset.
    """

    positions: Floats
    velocities: Floats
    tcp_position: Floats
    tcp_quaternion: Floats
    images: Mapping[str, NDArray[np.uint8]]
    steps: int
    commands: int
    success: bool


class SimRobot:
    """One arm in one scene at a time.

    Args:
        suite: from `compress.sim.suites.open_suite`.
        image_size: pixels, square.
        interface: which kind of motion command it takes.
        keep: environments kept built, one per task (0.3 to 2 GB each).
    """

    def __init__(self, suite: Suite, image_size: int, interface: Interface = Interface.TWIST, keep: int = 4) -> None:
        self._suite, self._image_size, self._interface, self._keep = suite, image_size, interface, keep
        self._envs: OrderedDict[int, TaskEnv] = OrderedDict()
        self._env: TaskEnv | None = None
        self._twist, self._gripper, self._trajectory = TwistInput(FRAME), GripperInput(), TrajectoryInput(ARM_JOINTS)
        self._tracking: Any = None
        self.scene: Scene | None = None
        self.commands = 0

    @property
    def instruction(self) -> str:
        """The sentence of the scene's task."""
        return self._standing().task.language

    @property
    def max_steps(self) -> int:
        """Control steps after which the task counts as failed."""
        return self._standing().task.max_steps

    def reset(self, scene: Scene, now_ns: int) -> RobotState:
        """Stands the robot into a scene, fingers open, nothing commanded.

        Raises:
            UnknownTask: no such task or stored state; the robot stays where it was.
            Exception: whatever the simulator raises; the robot then stands in no scene.
        """
        task = self._suite.task(scene.task)
        if scene.state >= 0:
            self._suite.initial_state(task, scene.state)
        self._env = self.scene = None
        env = self.built(task.index)
        env.reset(scene.state if scene.state >= 0 else None, scene.seed)
        self._twist.forget()
        self._gripper.forget()
        self._env, self.scene, self.commands = env, scene, 0
        if self._interface is Interface.JOINT_TRAJECTORY:
            self._take_over(env, now_ns)
        return self._read(env, draw=True)

    def apply_twist(self, twist: Sequence[float], frame: str, stamp_ns: int, now_ns: int) -> None:
        """(6,) [m/s, rad/s] in `frame`, from `stamp_ns` on. Raises CommandRefused or NoScene."""
        self._expects(Interface.TWIST)
        self._twist.accept(twist, frame, stamp_ns, now_ns)
        self.commands += 1

    def apply_joint_trajectory(
        self,
        names: Sequence[str],
        times_s: Sequence[float],
        positions: Sequence[Sequence[float]],
        velocities: Sequence[Sequence[float]],
        stamp_ns: int,
        now_ns: int,
    ) -> None:
        """See `TrajectoryInput.accept`. Raises CommandRefused or NoScene."""
        self._expects(Interface.JOINT_TRAJECTORY)
        self._trajectory.accept(names, times_s, positions, velocities, stamp_ns, now_ns)
        self.commands += 1

    def apply_gripper(self, ratio: float) -> None:
        """Opening ratio, 0 closed to 1 open; stays until the next. Raises CommandRefused."""
        self._gripper.accept(ratio)

    def step(self, now_ns: int, draw: bool = True) -> RobotState:
        """One control step of 50 ms that begins at `now_ns`. Raises NoScene."""
        env = self._standing()
        motion = np.zeros(6)
        if self._interface is Interface.TWIST:
            motion = self._twist.action(now_ns)
        else:
            self._tracking.begin(now_ns)
        env.step(np.append(motion, self._gripper.action), want_images=draw)
        return self._read(env, draw)

    def close(self) -> None:
        """Frees the simulator; more calls are harmless."""
        self._env = self.scene = None
        while self._envs:
            self._envs.popitem()[1].close()

    def _read(self, env: TaskEnv, draw: bool) -> RobotState:
        o = env.raw_observation
        images = {key: np.array(o[f"{camera}_image"]) for camera, key in IMAGE_KEYS.items()} if draw else {}
        return RobotState(
            np.concatenate([o["robot0_joint_pos"], o["robot0_gripper_qpos"]]),
            np.concatenate([o["robot0_joint_vel"], o["robot0_gripper_qvel"]]),
            np.array(o["robot0_eef_pos"], dtype=np.float64),
            np.array(o["robot0_eef_quat"], dtype=np.float64),
            images,
            env.steps,
            self.commands,
            env.success,
        )

    def built(self, task: int) -> TaskEnv:
        """The task's environment, kept."""
        if task not in self._envs:
            while len(self._envs) >= self._keep:
                self._envs.popitem(last=False)[1].close()
            self._envs[task] = TaskEnv(self._suite, task, image_size=self._image_size)
            self._envs[task].libero.env.ignore_done = True  # an arm does not vanish after robosuite's 1000 steps
        self._envs.move_to_end(task)
        return self._envs[task]

    def _take_over(self, env: TaskEnv, now_ns: int) -> None:
        """Every reset rebuilds the robot with OSC (scenes begin alike); from here on joints are commanded."""
        from dropgate_sim.tracking import TrackingController

        robot = env.libero.robots[0]
        self._trajectory.rest(env.raw_observation["robot0_joint_pos"], now_ns)
        self._tracking = robot.controller = TrackingController(robot, self._trajectory, SUBSTEP_NS)

    def _expects(self, interface: Interface) -> None:
        self._standing()
        if interface is not self._interface:
            raise CommandRefused(
                f"{interface.value} command, but this robot takes {self._interface.value}. "
                "Next: start it with the parameter command_interface"
            )

    def _standing(self) -> TaskEnv:
        if self._env is None:
            raise NoScene("the robot stands in no scene. Next: call ~/reset")
        return self._env
