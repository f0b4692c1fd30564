# SPDX-License-Identifier: Apache-2.0
"""The arm starts in another pose: each of its seven joints is turned by up to `strength` either way.

LIBERO-Plus: the axis on which pruned policies lose most. The controller holds the new pose (its goal and its rest
posture are set to it); without that it would turn the hand back before the policy sees anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from compress.sim.perturb.base import BadPerturbation, Perturbation
from compress.sim.perturb.scene_model import SceneModel

if TYPE_CHECKING:
    from compress.sim.envs import TaskEnv

_TRIES = 50


class RobotPose(Perturbation):
    """strength: largest turn of a joint [rad]."""

    axis, unit, default, highest = "robot_pose", "rad per joint", 0.15, 0.6

    def initial_state(self, env: TaskEnv, state: np.ndarray) -> np.ndarray:
        scene, rng = SceneModel.of(env), self.rng()
        for _ in range(_TRIES):
            moved = state.copy()
            moved[1 + scene.arm] += rng.uniform(-self.strength, self.strength, len(scene.arm))
            if scene.arm_is_free(moved):
                return moved
        raise BadPerturbation(f"no start pose within {self.strength:g} rad keeps the arm free, of {_TRIES} tried")

    def edit_scene(self, env: TaskEnv) -> None:
        robot = env.libero.robots[0]
        robot.controller.update_initial_joints(env.libero.env.sim.data.qpos[robot._ref_joint_pos_indexes])
