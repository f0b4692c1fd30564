# SPDX-License-Identifier: Apache-2.0
"""Other light: its direction, how bright it is and its colour."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from compress.sim.perturb.base import Perturbation
from compress.sim.perturb.camera import rotation
from compress.sim.perturb.scene_model import SceneModel

if TYPE_CHECKING:
    from compress.sim.envs import TaskEnv

_TILT_RAD = np.radians(60.0)


class Light(Perturbation):
    """strength s: lamps tilt by up to 60 s degrees, brightness changes by a factor of up to exp(s) either way, each
    colour channel by up to 100 s / 2 per cent."""

    axis, unit, default, highest = "light", "fraction", 0.5, 1.0

    def edit_scene(self, env: TaskEnv) -> None:
        model, rng = SceneModel.of(env).model, self.rng()
        gain = np.exp(rng.uniform(-self.strength, self.strength))
        gain = gain * (1 + rng.uniform(-1, 1, 3) * self.strength / 2)
        heading, tilt = rng.uniform(0, 2 * np.pi), rng.uniform(0, self.strength) * _TILT_RAD
        turn = rotation(np.array([np.cos(heading), np.sin(heading), 0.0]), tilt)
        head = model.vis.headlight
        for colours in (model.light_ambient, model.light_diffuse, model.light_specular, head.ambient, head.diffuse):
            colours[:] = np.clip(colours * gain, 0.0, 1.0)
        model.light_dir[:] = model.light_dir @ turn.T
