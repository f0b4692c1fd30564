# SPDX-License-Identifier: Apache-2.0
"""One task of one suite as an environment: reset to a stored or fresh scene, observe, step.

Conventions of openvla-oft's and openpi's LIBERO evaluations: images turned by 180 degrees, state = end effector
position, axis-angle, two finger joints; ten settle steps with the gripper open before the policy sees anything.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from compress.sim.on_demand import OnDemandCameras
from compress.sim.suites import EMBEDDED_SUITE, MAX_STEPS, SUITES, Suite, Task, UnknownTask, open_suite

__all__ = [
    "EMBEDDED_SUITE",
    "MAX_STEPS",
    "SUITES",
    "BadAction",
    "NotReset",
    "StaleImages",
    "Suite",
    "Task",
    "TaskEnv",
    "UnknownTask",
    "open_suite",
]

ACTION_DIM = 7  # x, y, z, rotation vector: OSC_POSE deltas in [-1, 1]; gripper: -1 opens, +1 closes
CONTROL_HZ = 20
SETTLE_STEPS = 10
SETTLE_ACTION = (0.0,) * 6 + (-1.0,)
AGENT_CAMERA, WRIST_CAMERA = "agentview", "robot0_eye_in_hand"
IMAGE_KEYS = {AGENT_CAMERA: "agentview", WRIST_CAMERA: "wrist"}


class BadAction(ValueError):
    """An action of the wrong shape, or with NaN or inf."""


class NotReset(RuntimeError):
    """`step` or `observe` before the first `reset`."""


class StaleImages(RuntimeError):
    """`observe` after a step that was told not to draw."""


class Change(Protocol):
    """What may be different about one episode; `compress.sim.perturb` has the robustness axes."""

    def initial_state(self, env: TaskEnv, state: np.ndarray) -> np.ndarray:
        """Where the scene starts instead of `state`, flattened simulator state (S,)."""

    def edit_scene(self, env: TaskEnv) -> None:
        """Edit the compiled model or the controller before anything moves; the next reset makes new ones."""

    def observed(self, observation: dict[str, np.ndarray], step: int) -> dict[str, np.ndarray]:
        """What is seen of the observation after `step` control steps."""


class TaskEnv:
    """LIBERO's environment for one task, with images drawn on demand.

    Args:
        suite: from `open_suite`.
        task: a task of that suite (or its index, name or sentence).
        image_size: height and width of every image in pixels.
        cameras: MuJoCo camera names; they become the observation keys `agentview` and `wrist`.
        render: False builds no renderer at all; observations then hold the state only.
    """

    def __init__(
        self,
        suite: Suite,
        task: Task | int | str,
        image_size: int = 128,
        cameras: tuple[str, ...] = (AGENT_CAMERA, WRIST_CAMERA),
        render: bool = True,
    ) -> None:
        self.suite, self.task, self.image_size = suite, suite.task(task), image_size
        self._cameras = tuple(cameras) if render else ()
        if suite.name == EMBEDDED_SUITE:
            import compress.sim.tabletop.problem  # noqa: F401  (registers the problem class with LIBERO)
        from libero.libero.envs.env_wrapper import ControlEnv

        self.libero = ControlEnv(
            bddl_file_name=str(self.task.bddl),
            use_camera_obs=bool(self._cameras),
            has_offscreen_renderer=bool(self._cameras),
            camera_names=list(self._cameras or (AGENT_CAMERA,)),
            camera_heights=image_size,
            camera_widths=image_size,
        )
        names = tuple(f"{camera}_image" for camera in self._cameras)
        self._draw = OnDemandCameras(self.libero.env, names, (image_size, image_size, 3))
        self._obs: dict[str, Any] | None = None
        self._fresh_images = False
        self._change: Change | None = None
        self.success = False
        self.steps = 0

    def reset(
        self,
        initial_state_index: int | None = None,
        seed: int = 0,
        arm_noise: float = 0.0,
        change: Change | None = None,
    ) -> dict[str, np.ndarray]:
        """Starts an episode and returns the first observation.

        Args:
            initial_state_index: a stored initial state; None draws a fresh layout from `seed`.
            seed: seeds the scene (fixtures are drawn at each reset and are not part of a stored state).
            arm_noise: standard deviation [rad] of a disturbance of the seven arm joints, drawn from `seed`;
                only for fresh layouts.
            change: what is different about this episode; the next reset knows nothing of it.
        """
        self._change = change
        state = self.draw_layout(seed, arm_noise)
        if initial_state_index is not None:
            state = self.suite.initial_state(self.task, initial_state_index)
        self._set_state(state if change is None else change.initial_state(self, state))
        if change is not None:
            change.edit_scene(self)
        for k in range(SETTLE_STEPS):
            self._draw.due = k == SETTLE_STEPS - 1
            self._obs, *_ = self.libero.step(list(SETTLE_ACTION))
        self._fresh_images, self.success, self.steps = True, False, 0
        return self.observe()

    def draw_layout(self, seed: int, arm_noise: float = 0.0) -> np.ndarray:
        """A fresh layout before settling, as a flattened simulator state, float64 (S,); see `reset`."""
        outside = np.random.get_state()  # LIBERO draws scenes from numpy's global generator: leave it as it was
        try:
            self.libero.seed(seed)
            self._draw.due = False
            self.libero.reset()
        finally:
            np.random.set_state(outside)
        state = np.array(self.libero.get_sim_state(), dtype=np.float64)
        if arm_noise:
            joints = 1 + np.asarray(self.libero.robots[0]._ref_joint_pos_indexes)  # state = time, positions, velocities
            noise = np.random.default_rng([seed, 1]).normal(0.0, arm_noise, len(joints))
            state[joints] += np.clip(noise, -2 * arm_noise, 2 * arm_noise)
        return state

    def step(self, action: np.ndarray, want_images: bool = True) -> bool:
        """Executes one action of 50 ms and returns whether the goal holds now.

        Args:
            action: (7,), OSC_POSE deltas in [-1, 1] and the gripper (-1 open, +1 close); clipped by the controller.
            want_images: draw the cameras in this step, for the next `observe`.

        Raises:
            BadAction: not seven finite numbers.
        """
        values = np.asarray(action, dtype=np.float64)
        if values.shape != (ACTION_DIM,):
            raise BadAction(f"action has shape {values.shape}, expected ({ACTION_DIM},)")
        if not np.isfinite(values).all():
            raise BadAction(f"action is not finite: {values.tolist()}. Next: check the policy's output before stepping")
        if self._obs is None:
            raise NotReset("step before reset. Next: call reset() first")
        self._draw.due = bool(want_images)
        self._obs, _, done, _ = self.libero.step(values)
        self._fresh_images, self.steps = bool(want_images), self.steps + 1
        self.success = self.success or bool(done)
        return bool(done)

    def observe(self) -> dict[str, np.ndarray]:
        """`agentview` and `wrist`, uint8 (H, W, 3) RGB turned by 180 degrees, and `state`, float32 (8,), as perturbed.

        Raises:
            StaleImages: the last step did not draw.
        """
        if self._obs is None:
            raise NotReset("observe before reset. Next: call reset() first")
        if self._cameras and not self._fresh_images:
            raise StaleImages("the last step drew no images. Next: step(action, want_images=True) before observe()")
        turned = {camera: self._obs[f"{camera}_image"][::-1, ::-1] for camera in self._cameras}
        images = {IMAGE_KEYS.get(camera, camera): np.ascontiguousarray(image) for camera, image in turned.items()}
        observation = {**images, "state": self.state}
        return observation if self._change is None else self._change.observed(observation, self.steps)

    def goal_holds(self, state: np.ndarray) -> bool:
        """Whether the goal is reached in a flattened state (S,); the simulator is left in it, so set one afterwards."""
        self._set_state(state)
        return bool(self.libero.check_success())

    @property
    def state(self) -> np.ndarray:
        """float32 (8,): end effector position [m], axis-angle [rad], finger joints [m]; always current."""
        if self._obs is None:
            raise NotReset("state before reset. Next: call reset() first")
        o = self._obs
        rotation = axis_angle(o["robot0_eef_quat"])
        return np.concatenate([o["robot0_eef_pos"], rotation, o["robot0_gripper_qpos"]]).astype(np.float32)

    @property
    def raw_observation(self) -> dict[str, Any]:
        """LIBERO's own observation of the last step (images as LIBERO stores them, upside down)."""
        if self._obs is None:
            raise NotReset("raw_observation before reset. Next: call reset() first")
        return self._obs

    def close(self) -> None:
        """Frees the simulator and its renderer; may be called twice."""
        libero, self.libero, self._obs = getattr(self, "libero", None), None, None
        if libero is not None:
            libero.close()

    def __enter__(self) -> TaskEnv:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _set_state(self, state: np.ndarray) -> None:
        # the solver's warm start is not part of a flattened state: without this it would carry the drawn layout over
        self.libero.env.sim.data._data.qacc_warmstart[:] = 0.0
        self.libero.set_init_state(state)


def axis_angle(quaternion: np.ndarray) -> np.ndarray:
    """(x, y, z, w) unit quaternion -> rotation vector (3,) [rad], as robosuite's `quat2axisangle`."""
    w = float(np.clip(quaternion[3], -1.0, 1.0))
    sine = np.sqrt(1.0 - w * w)
    if np.isclose(sine, 0.0):
        return np.zeros(3)
    return np.asarray(quaternion[:3]) * (2.0 * np.arccos(w) / sine)
