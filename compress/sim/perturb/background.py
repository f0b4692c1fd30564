# SPDX-License-Identifier: Apache-2.0
"""Other surfaces: table, floor and walls take a random colour (a texture is tinted by it). Objects keep theirs."""

from __future__ import annotations

import colorsys
from typing import TYPE_CHECKING

import numpy as np

from compress.sim.perturb.base import BadPerturbation, Perturbation
from compress.sim.perturb.scene_model import SceneModel

if TYPE_CHECKING:
    from compress.sim.envs import TaskEnv

_DRAWN = 1  # geom group of what is seen but never touched
_PLAIN = (0.5, 0.5, 0.5, 1.0)  # MuJoCo: a geom with this colour takes its material's
_SATURATION, _VALUE = (0.0, 0.6), (0.35, 1.0)  # pale enough for saturated objects to stand out


class Background(Perturbation):
    """strength: share of the new colour in the mix with the old one."""

    axis, unit, default, highest = "background", "share of the new colour", 0.6, 1.0

    def edit_scene(self, env: TaskEnv) -> None:
        model, rng = SceneModel.of(env).model, self.rng()
        surfaces = [g for g in range(model.ngeom) if model.geom_group[g] == _DRAWN and _of_the_room(model, g)]
        if not surfaces:
            raise BadPerturbation("the scene has no geom of a table, floor or wall")
        colours: dict[int, np.ndarray] = {}
        for geom in surfaces:
            material = int(model.geom_matid[geom])
            if material not in colours:  # what shares a material looks alike
                colours[material] = _pale(rng)
            own = model.geom_rgba[geom].copy()
            if material >= 0 and np.allclose(own, _PLAIN):
                own = model.mat_rgba[material].copy()
            own[:3] += self.strength * (colours[material] - own[:3])
            model.geom_rgba[geom] = own


def _of_the_room(model: object, geom: int) -> bool:
    body = model.body(int(model.geom_bodyid[geom])).name  # type: ignore[attr-defined]  # mujoco.MjModel
    return bool(body == "world" or body.endswith(("table", "floor")))


def _pale(rng: np.random.Generator) -> np.ndarray:
    return np.array(colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(*_SATURATION), rng.uniform(*_VALUE)))
