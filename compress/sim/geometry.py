# SPDX-License-Identifier: Apache-2.0
"""Where things are: the privileged view of LIBERO's simulator that the scripted expert plans on.

LIBERO's objects collide as unions of primitive geoms; corners and filled samples of those are all the shape it needs.
"""

from __future__ import annotations

from typing import Any

import numpy as np

_BOX, _CYLINDER, _SPHERE, _CAPSULE = 6, 5, 2, 3  # mjtGeom
_CORNERS = np.array([[i, j, k] for i in (-1, 1) for j in (-1, 1) for k in (-1, 1)], dtype=float)
_SURFACES = ("table", "floor")


class Scene:
    """Positions [m, world frame] of objects, sites and the hand, read live from a LIBERO environment."""

    def __init__(self, base: Any) -> None:
        self.base = base

    @property
    def model(self) -> Any:
        return self.base.sim.model._model

    @property
    def data(self) -> Any:
        return self.base.sim.data._data

    def is_body(self, name: str) -> bool:
        """True for an object or fixture, False for a region site."""
        return name in self.base.obj_body_id

    def origin(self, name: str) -> np.ndarray:
        """(3,) body origin of an object or fixture."""
        return np.array(self.data.xpos[self.base.obj_body_id[name]])

    def target_point(self, name: str) -> np.ndarray:
        """(3,) where a carried object's origin has to end up: a region's site or another object's origin."""
        if name in self.base.object_sites_dict:
            return np.array(self.base.sim.data.get_site_xpos(name))
        return self.origin(name)

    def points(self, name: str) -> np.ndarray:
        """(n, 3) corners of the colliding geoms."""
        corners = [self._place(g, _CORNERS * self._half_size(g)) for g in self._colliding(name)]
        return np.concatenate(corners) if corners else self.origin(name)[None]

    def samples(self, name: str, pitch: float) -> np.ndarray:
        """(n, 3) points filling the colliding boxes every `pitch` [m]: corners alone miss a long drawer wall."""
        found = [self.points(name)]
        for geom in self._colliding(name):
            if self.model.geom_type[geom] == _BOX:
                axes = [np.linspace(-h, h, max(2, int(np.ceil(2 * h / pitch)) + 1)) for h in self.model.geom_size[geom]]
                found.append(self._place(geom, np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)))
        return np.concatenate(found)

    def clutter(self, name: str, around: np.ndarray, radius: float) -> np.ndarray:
        """(n, 3) points of everything but `name` and the supporting surface within `radius` [m] in xy."""
        found = []
        for other in self.movables():
            if other != name and not any(surface in other for surface in _SURFACES):
                near = self.samples(other, 0.015)
                found.append(near[np.linalg.norm(near[:, :2] - around[:2], axis=1) < radius])
        return np.concatenate(found) if found else np.zeros((0, 3))

    def movables(self) -> list[str]:
        """Names of objects and fixtures that have a body."""
        return [name for name in (*self.base.objects_dict, *self.base.fixtures_dict) if self.is_body(name)]

    def owner_points(self, site: str) -> np.ndarray:
        """(n, 3) corners of the object whose region `site` is; the site itself when there is none."""
        for name in self.movables():
            if site.startswith(name):
                return self.points(name)
        return self.target_point(site)[None]

    def hand(self) -> tuple[np.ndarray, np.ndarray]:
        """Grip site position (3,) and rotation (3, 3)."""
        site = self.model.site("gripper0_grip_site").id
        return np.array(self.data.site_xpos[site]), self.data.site_xmat[site].reshape(3, 3).copy()

    def finger_tips(self) -> np.ndarray:
        """(2, 3) positions of the two finger tips; their line is the finger axis (the grip site's y axis is not)."""
        return np.array([self.data.xpos[self.model.body(f"gripper0_finger_joint{k}_tip").id] for k in (1, 2)])

    def robot_base(self) -> np.ndarray:
        """(3,) position of the arm's base."""
        return np.array(self.data.xpos[self.model.body("robot0_base").id])

    def _colliding(self, name: str) -> list[int]:
        bodies = {self.base.obj_body_id[name]}
        for body in range(min(bodies) + 1, self.model.nbody):
            if self.model.body_parentid[body] in bodies:
                bodies.add(body)
        owner, solid = self.model.geom_bodyid, self.model.geom_contype
        return [g for g in range(self.model.ngeom) if owner[g] in bodies and solid[g]]

    def _half_size(self, geom: int) -> np.ndarray:
        kind, size = int(self.model.geom_type[geom]), np.array(self.model.geom_size[geom])
        if kind == _BOX:
            return size
        if kind == _CYLINDER:
            return size[[0, 0, 1]]
        if kind == _SPHERE:
            return size[[0, 0, 0]]
        if kind == _CAPSULE:
            return np.array([size[0], size[0], size[0] + size[1]])
        return np.full(3, self.model.geom_rbound[geom] / np.sqrt(3))  # mesh, ellipsoid: the bounding sphere

    def _place(self, geom: int, local: np.ndarray) -> np.ndarray:
        return np.asarray(local @ self.data.geom_xmat[geom].reshape(3, 3).T + self.data.geom_xpos[geom])
