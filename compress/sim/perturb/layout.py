# SPDX-License-Identifier: Apache-2.0
"""Objects stand elsewhere: each free one moves on its support, and only to a place where everything stays at rest.

The trial runs on a scratch copy of the physics: an object put into another, or over an edge, moves within a tenth of a
second, and then the old place is tried again. A layout that would reach the goal by itself is not used either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from compress.sim.perturb.base import Perturbation
from compress.sim.perturb.scene_model import SceneModel

if TYPE_CHECKING:
    from compress.sim.envs import TaskEnv

_TRIES = 10
_TRIAL_STEPS, _TOLERANCE_M = 50, 0.006


class Layout(Perturbation):
    """strength: largest displacement of an object [m], in the plane."""

    axis, unit, default, highest = "layout", "m", 0.04, 0.15

    def initial_state(self, env: TaskEnv, state: np.ndarray) -> np.ndarray:
        scene, rng = SceneModel.of(env), self.rng()
        found = state
        for place in scene.free_objects():
            for _ in range(_TRIES):
                tried = found.copy()
                tried[1 + place : 3 + place] += _in_disc(rng, self.strength)
                if scene.rests(tried, _TRIAL_STEPS, _TOLERANCE_M) and not env.goal_holds(tried):
                    found = tried
                    break
        return found


def _in_disc(rng: np.random.Generator, radius: float) -> np.ndarray:
    angle, distance = rng.uniform(0, 2 * np.pi), radius * np.sqrt(rng.uniform())
    return np.asarray(distance * np.array([np.cos(angle), np.sin(angle)]))
