# SPDX-License-Identifier: Apache-2.0
"""The agent camera stands elsewhere: it orbits the point it looks at, moves nearer or farther, and its lens changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from compress.sim.perturb.base import BadPerturbation, Perturbation
from compress.sim.perturb.scene_model import SceneModel

if TYPE_CHECKING:
    from compress.sim.envs import TaskEnv

_UP = np.array([0.0, 0.0, 1.0])


class Camera(Perturbation):
    """strength [deg]: orbit of up to that in azimuth and half in elevation; distance and field of view up to 1 % each
    per degree."""

    axis, unit, default, highest = "camera", "degrees of orbit", 8.0, 30.0

    def edit_scene(self, env: TaskEnv) -> None:
        import mujoco

        from compress.sim.envs import AGENT_CAMERA

        scene, rng = SceneModel.of(env), self.rng()
        model = scene.model
        camera = model.camera(AGENT_CAMERA).id
        if model.cam_bodyid[camera] != 0:
            raise BadPerturbation(
                f"camera {AGENT_CAMERA!r} is mounted on a body, expected one that stands in the world"
            )
        azimuth, elevation = np.radians(rng.uniform(-1, 1, 2) * self.strength * [1.0, 0.5])
        distance, lens = np.exp(rng.uniform(-1, 1, 2) * self.strength / 100)
        position, frame = model.cam_pos[camera].copy(), scene.data.cam_xmat[camera].reshape(3, 3).copy()
        centre = _looked_at(scene, position, -frame[:, 2])
        turn = rotation(_UP, azimuth) @ rotation(frame[:, 0], elevation)
        model.cam_pos[camera] = centre + distance * turn @ (position - centre)
        mujoco.mju_mat2Quat(model.cam_quat[camera], (turn @ frame).flatten())
        model.cam_fovy[camera] *= lens


def rotation(axis: np.ndarray, angle: float) -> np.ndarray:
    """(3, 3), right-handed by `angle` [rad] about a unit axis (Rodrigues)."""
    x, y, z = axis
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.asarray(np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross)


def _looked_at(scene: SceneModel, position: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Where the optical axis meets the height of the objects; one metre ahead if it does not."""
    heights = [scene.data.qpos[place + 2] for place in scene.free_objects()]
    if not heights or direction[2] > -0.1:
        return np.asarray(position + direction)
    return np.asarray(position + direction * (np.median(heights) - position[2]) / direction[2])
