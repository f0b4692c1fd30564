# SPDX-License-Identifier: Apache-2.0
"""One episode of a policy on the simulated arm, with the filter off or on; what `filter_closed_loop.py` compares.

Off is the gate's own rollout. On is the whole command path without ROS: drivers' reports in the simulation's time, the
real `Controller` and `SafetyFilter`, the twist, the arm's command input with its time-out.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from dropgate_sim.arm_models import PANDA, Names
from dropgate_sim.sim_robot import FRAME, JOINTS, RobotState, Scene, SimRobot

from compress.gate.episodes import STEP_S, run_episode
from compress.gate.plan import Pair
from compress.gate.policies import PolicyLike
from compress.models.reference_specs import OSC_FOLLOWS
from compress.sim.envs import axis_angle
from runtime.clock import FakeClock
from runtime.contract.artifact import Artifact
from runtime.contract.chunk import ActionChunk
from runtime.contract.guidance import Guidance
from runtime.contract.spec import orient
from runtime.control.controller import Controller
from runtime.control.observation import JOINTS as JOINTS_STREAM
from runtime.control.observation import TCP, Joints, Pose, Snapshot
from runtime.control.policy_link import Answer
from runtime.control.robot_file import read_robot_file
from runtime.control.scheduler import Pace
from runtime.control.settings import Settings
from runtime.control.state import MOVING, ON_TASK
from runtime.control.task import Task, Tick
from runtime.recording.setup import Arm, Setup
from runtime.safety.cell import Cell
from runtime.safety.filter import SafetyFilter
from runtime.safety.kinematics import Frames
from runtime.safety.limits import TOOL_DEFAULTS, CartesianLimits, JointLimits, Timing, station_limits
from runtime.safety.motion import AdmittedChunk, ChunkRejected, Situation
from runtime.safety.trajectory import CommandKind, SafeTrajectory

OFF, ON = "off", "on"
START_S, TICK_S = 100.0, 0.01
FREE = 1e3  # times the station's limits: nothing is ever limited
WIDE, RATES = 50.0, ("velocity", "acceleration", "jerk")
# OSC's arm moves with about sqrt(150) / 2 / 20 = 0.31 of the nominal speed of a lasting delta (kp 150, damping 1)
FOLLOWS = 0.31
COLLABORATIVE = {"linear_m_s": 0.25, "angular_rad_s": 0.62, "linear_m_s2": 1.0, "angular_rad_s2": 2.0}  # fr3.yaml
BODIES = ("robot0_link0", "robot0_link7")
PATIENCE = 2  # times the steps that count, so that slow is told from wrong
ARMS: dict[str, str] = {
    OFF: "the gate's rollout: every row is applied as it comes",
    ON: "the robot's file as shipped: its limits, all checks, in lockstep",
    "latency": "on, in real time: the answer comes later, the next chunk is asked for early",
    "ramp": "latency, with 1 s from rest to full speed",
    "wide": "latency, limits 1000 times as wide",
    "slow": "on, with the limits of a collaborative arm (fr3.yaml): what time scaling costs",
    "joint": "latency, as joint trajectories for a stiff joint controller, with the joint limits of the robot's file",
    "joint_wide": "joint, with limits of speed, acceleration and jerk 50 times as wide: what the interface alone costs",
}
JOINT_ARMS = ("joint", "joint_wide")


@dataclass(frozen=True)
class Row:
    """One episode of one arm; a step is 50 ms. What the filter counted is zero with the filter off.

    Attributes:
        success: the goal was reached within the steps that the gate gives; late: only after them.
        rejected: chunks by cause, `why` in the filter's words; cut: admitted in part.
        scaled: commands slower than the policy meant; changed: twists equal to none of the rows at their tempo.
        end: where the tool stood after the last step that counts [m]; the simulator is deterministic.
        cause, text: of the task, if it ended by itself.
    """

    arm: str
    task: int
    state: int
    seed: int
    success: bool
    steps: int
    chunks: int
    late: bool = False
    admitted: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    why: list[str] = field(default_factory=list)
    trips: int = 0
    commands: int = 0
    scaled: int = 0
    changed: int = 0
    cut: int = 0
    end: list[float] = field(default_factory=list)
    cause: str = ""
    text: str = ""
    wall_s: float = 0.0

    @property
    def key(self) -> tuple[str, int, int, int]:
        """Never run twice."""
        return self.arm, self.task, self.state, self.seed


def setup_of(artifact: Artifact, robot: Path, arm: str, description: Arm | None = None) -> Setup:
    """The controller's parts, from the robot's own file, changed by what `arm` is about; joints need a description."""
    given = read_robot_file(robot).controller

    def number(name: str) -> Any:
        return given[f"limits.{name}"] if f"limits.{name}" in given else TOOL_DEFAULTS[name]

    joints = tuple(given["joints.names"])
    if given["command.interface"] != "twist":
        raise SystemExit(f"{robot}: interface {given['command.interface']!r}, expected twist")
    limits = station_limits("joint_trajectory" if arm in JOINT_ARMS else "twist", number, joints)
    timing = Timing(**{n: float(number(n)) for n in Timing.__dataclass_fields__ if f"limits.{n}" in given})
    names = ("ramp_in_s", "late_speed", "permit_timeout_s", "max_pause_s", "max_clock_step_s", "lockstep")
    policy = artifact.manifest.policy
    pace = Pace(int(given.get("execute_rows", 0)) or policy.action.horizon, float(given.get("lead_s", 0.1)))
    settings = Settings(pace, **{name: given[name] for name in names if name in given})
    if arm in ("latency", "ramp", "wide", *JOINT_ARMS):
        pace = Pace(policy.action.horizon, 0.1)
        settings = replace(settings, lockstep=False, pace=pace, ramp_in_s=1.0 if arm == "ramp" else 0.0)
    if arm == "wide":
        limits = CartesianLimits(**{name: _times(value, FREE) for name, value in asdict(limits).items()})
    if arm == "joint_wide":
        limits = replace(limits, **{name: _times(getattr(limits, name), WIDE) for name in RATES})
    if arm == "slow":
        limits = replace(limits, **{name: value / FOLLOWS for name, value in COLLABORATIVE.items()})
    if arm in JOINT_ARMS:  # such an arm goes where it is told; artifacts of before 2026-11-28 do not say the share
        action = replace(policy.action, follows=policy.action.follows or OSC_FOLLOWS)
        policy = replace(policy, action=action.as_motion())
    about = {"artifact_id": artifact.manifest.artifact_id, "robot": str(given["robot"])}
    return Setup(
        policy, limits, timing, settings, tuple(given["state"]), joints, True, about, description,
        trained=artifact.normalizers().action,
    )  # fmt: skip


def _times(value: Any, factor: float) -> Any:
    return tuple(v * factor for v in value) if isinstance(value, tuple) else value * factor


class LatePolicy:
    """The policy's own answer, `latency_s` of the simulation's time after the question."""

    def __init__(self, policy: PolicyLike, clock: FakeClock, latency_s: float) -> None:
        self._policy, self._clock, self._latency_s = policy, clock, latency_s
        self._due: tuple[float, Answer] | None = None

    @property
    def in_flight(self) -> bool:
        return self._due is not None

    def ask(self, snapshot: Snapshot, instruction: str, guidance: Guidance | None = None) -> None:
        began = time.perf_counter()
        del guidance  # replace mode
        chunk = self._policy.infer(snapshot.inputs, instruction, snapshot.stamp_s)
        self._due = self._clock.now() + self._latency_s, Answer(chunk, time.perf_counter() - began)

    def answer(self) -> Answer | None:
        if self._due is None or self._clock.now() < self._due[0] - 1e-9:
            return None
        (_, found), self._due = self._due, None
        return found


class Watched(SafetyFilter):
    """The filter, which keeps the words of every rejection: the loop keeps only those of a fault."""

    def __init__(self, setup: Setup) -> None:
        arm = setup.arm.kinematics(setup.limits.names) if isinstance(setup.limits, JointLimits) else None
        super().__init__(setup.policy.action, setup.limits, setup.timing, arm, setup.trained)
        self.why: list[str] = []

    def admit(self, chunk: ActionChunk, situation: Situation) -> AdmittedChunk:
        try:
            return super().admit(chunk, situation)
        except ChunkRejected as rejection:
            self.why.append(f"{rejection.cause.value}: {rejection}"[:300])
            raise


class Filtered:
    """The robot behind the controller, one episode at a time.

    Args:
        robot: simulated; its environments are kept.
        policy: answers.
        setup: of `setup_of`.
        latency_s: of an answer, where time does not wait for it.
    """

    def __init__(self, robot: SimRobot, policy: PolicyLike, setup: Setup, latency_s: float) -> None:
        self._robot, self._policy, self._setup = robot, policy, setup
        self._latency_s = 0.0 if setup.settings.lockstep else latency_s
        self._images = {image.key: image for image in setup.policy.observation.images}

    def run(self, arm: str, pair: Pair, max_steps: int) -> Row:
        """Until the goal, the task's own end, or PATIENCE times `max_steps`, of which the first count."""
        began, state = time.perf_counter(), self._robot.reset(Scene(*pair), _ns(START_S))
        self._clock, self._wall = FakeClock(START_S), FakeClock(0.0)
        self._buffer, self._filter = self._setup.buffer(), Watched(self._setup)
        link = LatePolicy(self._policy, self._clock, self._latency_s)
        self._controller = Controller(self._setup.settings, self._filter, self._buffer, link, self._clock, self._wall)
        self._tally, self._chunk = Counter[str](), None
        self._see(state)
        task, end = self._begin(), list[float]()
        while state.steps < PATIENCE * max_steps and not state.success and self._controller.state in MOVING:
            state = self._step()
            end = state.tcp_position.tolist() if state.steps <= max_steps else end
        return Row(
            arm, *pair, success=state.success and state.steps <= max_steps, steps=state.steps, chunks=task.chunks,
            late=state.success and state.steps > max_steps, admitted=self._filter.admitted,
            rejected={cause.value: n for cause, n in self._filter.rejected.items()}, why=self._filter.why,
            trips=self._filter.trips, commands=task.commands, scaled=self._tally["scaled"],
            changed=self._tally["changed"], cut=self._tally["cut"], end=end,
            cause=task.cause.value, text=task.text[:400], wall_s=round(time.perf_counter() - began, 3),
        )  # fmt: skip

    def _begin(self) -> Task:
        controller = self._controller
        controller.permission.permit(True)
        controller.activate()
        controller.arm(True)
        return controller.start(self._robot.instruction)

    def _step(self) -> RobotState:
        """The instant's ticks, then 50 ms of motion under the newest command, with ticks meanwhile."""
        began_s, lockstep = self._clock.now(), self._setup.settings.lockstep
        for _ in range(3 if lockstep else 1):  # ask, hear and command: simulated time waits
            if self._tick().command is not None:
                break
        state = self._robot.step(_ns(began_s))
        for _ in range(0 if lockstep else round(STEP_S / TICK_S) - 1):
            self._clock.advance(TICK_S)
            self._tick()
        self._clock.advance(began_s + STEP_S - self._clock.now())
        self._see(state)
        return state

    def _tick(self) -> Tick:
        self._wall.advance(TICK_S)
        self._controller.permission.permit(True)
        tick = self._controller.tick()
        if tick.admitted is not None:
            self._chunk = tick.admitted
            self._tally["cut"] += bool(tick.admitted.ended_by)
        command = tick.command
        if command is not None:
            now_s = self._clock.now()
            if command.gripper is not None:
                self._robot.apply_gripper(command.gripper)
            self._send(command, _ns(now_s))
            if self._controller.state in ON_TASK:
                self._tally["scaled"] += command.scale < 1.0 - 1e-9
                if command.kind is CommandKind.TWIST:
                    self._count(command.velocities[0], command.scale)
        return tick

    def _send(self, command: SafeTrajectory, now_ns: int) -> None:
        if command.positions is None:
            self._robot.apply_twist(command.velocities[0], FRAME, _ns(command.start_s), now_ns)
            return
        early_s = min(0.0, float(command.times_s[0]))  # the first point may lie before the start
        times = command.times_s - early_s
        start_ns = _ns(command.start_s + early_s)
        self._robot.apply_joint_trajectory(
            command.names, times, command.positions, command.velocities, start_ns, now_ns
        )  # fmt: skip

    def _count(self, twist: np.ndarray, scale: float) -> None:
        """A twist that is none of the chunk's rows at its tempo."""
        if self._chunk is not None:
            rows = self._chunk.rows * scale * self._chunk.time_scale
            self._tally["changed"] += bool(np.abs(rows - twist).max(axis=1).min() > 1e-6)

    def _see(self, state: RobotState) -> None:
        """The drivers report, all with the stamp of now, as `dropgate_controller` reads their messages."""
        now = self._clock.now()
        for key, spec in self._images.items():
            self._buffer.put(key, now, np.ascontiguousarray(orient(state.images[key], spec)), now)
        joints = dict(zip(JOINTS, map(float, state.positions), strict=True))
        self._buffer.put(JOINTS_STREAM, now, Joints(joints), now)
        self._buffer.put(TCP, now, Pose(state.tcp_position, axis_angle(state.tcp_quaternion)), now)


def panda_description(robot: SimRobot, pair: Pair) -> Arm:
    """The arm that stands in LIBERO's scenes, from published numbers: `world` to the grip site of its gripper.

    Raises SystemExit if that is not where the simulator has it.
    """
    state = robot.reset(Scene(*pair), _ns(START_S))
    sim = robot.built(pair.task).libero.sim
    base, last = (_placed(sim.data.body_xpos[i], sim.data.body_xmat[i]) for i in map(sim.model.body_name2id, BODIES))
    grip = sim.model.site_name2id("gripper0_grip_site")
    tool = np.linalg.inv(last) @ _placed(sim.data.site_xpos[grip], sim.data.site_xmat[grip])
    urdf = PANDA.urdf(Names(base="panda_base")).replace(
        '<link name="panda_base"/>', '<link name="world"/>' + _fixed("stand", "world", "panda_base", base)
    )
    urdf = urdf.replace("</robot>", _fixed("hand", f"{PANDA.joints[-1]}_link", "grip", tool) + "</robot>")
    found = Arm(urdf, Frames(tcp="grip", base="world"), Cell())
    away = found.kinematics(PANDA.joints).pose(state.positions[:7])[0] - state.tcp_position
    if not np.abs(away).max() < 1e-3:
        raise SystemExit(f"the description has the tool {away} m away from where the simulator has it")
    return found


def _placed(place: np.ndarray, turn: np.ndarray) -> np.ndarray:
    return np.block([[np.reshape(turn, (3, 3)), np.reshape(place, (3, 1))], [np.zeros((1, 3)), np.ones((1, 1))]])


def _fixed(name: str, parent: str, child: str, way: np.ndarray) -> str:
    """A link and the joint that fixes it."""
    turn = way[:3, :3]
    rpy = np.arctan2(turn[2, 1], turn[2, 2]), -np.arcsin(np.clip(turn[2, 0], -1, 1)), np.arctan2(turn[1, 0], turn[0, 0])
    xyz, angles = (" ".join(repr(float(v)) for v in values) for values in (way[:3, 3], rpy))
    return (
        f'<link name="{child}"/><joint name="{name}" type="fixed"><parent link="{parent}"/><child link="{child}"/>'
        f'<origin xyz="{xyz}" rpy="{angles}"/></joint>'
    )


def unfiltered(robot: SimRobot, policy: PolicyLike, pair: Pair, max_steps: int, open_loop: int) -> Row:
    """The gate's rollout of the same scene."""
    env = robot.built(pair.task)
    found = run_episode(env, policy, pair.state, pair.seed, env.task.language, max_steps, open_loop)
    return Row(
        OFF, *pair, success=found.success, steps=found.steps, chunks=found.queries, commands=found.steps,
        end=env.raw_observation["robot0_eef_pos"].tolist(), text=found.error, wall_s=round(found.wall_s, 3),
    )  # fmt: skip


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)
