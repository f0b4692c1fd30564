# SPDX-License-Identifier: Apache-2.0
"""One recorded expert episode: what varies from episode to episode, and what is kept of each step.

The label is the expert's clean action for the state it is in; noise only disturbs what is executed, so that the
recording also shows recoveries (the idea of DART, arXiv 1703.09327). Both are kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from compress.sim.envs import TaskEnv, axis_angle
from compress.sim.expert import TaskExpert

_BURST_START, _BURST_STEPS = 0.08, (3, 10)  # chance per step, length range


@dataclass(frozen=True)
class EpisodeSpec:
    """Everything that decides one episode.

    Attributes:
        task: task name.
        attempt: number of the attempt at this task, from 0.
        seed: layout seed; also seeds noise and speed.
        noise: largest standard deviation of the action noise, in action units (1.0 = 5 cm or 0.5 rad of offset).
        arm_noise: standard deviation [rad] of the start pose's joints.
        speed: range of the expert's speed.
    """

    task: str
    attempt: int
    seed: int
    noise: float
    arm_noise: float
    speed: tuple[float, float]


@dataclass(frozen=True)
class Recording:
    """Arrays of T steps, observation t taken before action t. Images as LIBERO stores them (upside down).

    Attributes:
        success: the goal was reached within the task's step cap.
        arrays: name -> (T, ...) as in LIBERO's HDF5 files, plus `executed_actions`.
        init_state: float64 (S,), the simulator state at t = 0.
        speed, noise: what was drawn for this episode.
    """

    success: bool
    arrays: dict[str, np.ndarray]
    init_state: np.ndarray
    speed: float
    noise: float


def record_episode(env: TaskEnv, spec: EpisodeSpec) -> Recording:
    """Runs the expert once from a fresh layout, drawing both cameras at every step."""
    rng = np.random.default_rng([spec.seed, 2])
    speed, noise = float(rng.uniform(*spec.speed)), float(rng.uniform(0.0, spec.noise))
    env.reset(seed=spec.seed, arm_noise=spec.arm_noise)
    expert, bursts = TaskExpert(env, speed), _Bursts(rng, noise)
    rows: list[dict[str, np.ndarray]] = []
    while env.steps < env.task.max_steps and not env.success:
        clean = expert.act()
        if clean is None:
            break
        clean = clean.astype(np.float32).astype(np.float64)
        executed = bursts.disturb(clean)
        rows.append(_row(env, clean, executed))
        env.step(executed)
    arrays = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    last = np.zeros(len(rows), dtype=np.uint8)
    last[-1] = env.success
    arrays |= {"rewards": last, "dones": last.copy()}
    return Recording(env.success, arrays, arrays["states"][0], speed, noise)


class _Bursts:
    """Gaussian noise on the six motion axes, on for a few steps and off for longer ones."""

    def __init__(self, rng: np.random.Generator, sd: float) -> None:
        self._rng, self._sd, self._left = rng, sd, 0

    def disturb(self, action: np.ndarray) -> np.ndarray:
        noise = self._rng.normal(0.0, self._sd, 6)
        if self._left == 0 and self._rng.random() < _BURST_START:
            self._left = int(self._rng.integers(*_BURST_STEPS, endpoint=True))
        if self._left == 0:
            return action
        self._left -= 1
        moved = np.clip(action[:6] + noise, -1.0, 1.0)
        return np.concatenate([moved, action[6:]])


def _row(env: TaskEnv, clean: np.ndarray, executed: np.ndarray) -> dict[str, np.ndarray]:
    o = env.raw_observation
    position, rotation, gripper = o["robot0_eef_pos"], axis_angle(o["robot0_eef_quat"]), o["robot0_gripper_qpos"]
    return {
        "actions": clean,
        "executed_actions": executed,
        "states": np.array(env.libero.get_sim_state(), dtype=np.float64),
        "robot_states": np.concatenate([gripper, position, o["robot0_eef_quat"]]),
        "obs/agentview_rgb": o["agentview_image"].copy(),
        "obs/eye_in_hand_rgb": o["robot0_eye_in_hand_image"].copy(),
        "obs/ee_pos": np.array(position),
        "obs/ee_ori": rotation,
        "obs/ee_states": np.concatenate([position, rotation]),
        "obs/gripper_states": np.array(gripper),
        "obs/joint_states": np.array(o["robot0_joint_pos"]),
    }
