# SPDX-License-Identifier: Apache-2.0
"""Which shapes of an arm and its cell are compared with each other. The libraries are handed in by `kinematics`."""

from __future__ import annotations

from typing import Any

import numpy as np

from runtime.errors import ContractError
from runtime.safety.cell import Cell
from runtime.safety.trajectory import Floats


class CellShapes:
    """Puts the cell's objects beside the arm's own in pinocchio's geometry model `shapes`; `base` (3, 4)."""

    def __init__(self, pin: Any, coal: Any, model: Any, shapes: Any, base: Floats) -> None:
        self._pin, self._coal, self._model, self._shapes, self._base = pin, coal, model, shapes, base

    def compare(self, cell: Cell) -> list[tuple[str, str, bool]]:
        """Shapes, and the pairs of them that are compared: not on one link, not on neighbours, not may_touch."""
        pin, shapes = self._pin, self._shapes
        arm = self._arm_shapes(cell)
        names = [frame.name for frame in self._model.frames]
        owner = {i: names[shapes.geometryObjects[i].parentFrame] for i in arm}
        still = {}
        for item in cell.scene:
            turn = pin.rpy.rpyToMatrix(*item.rpy)
            place = pin.SE3(self._base[:, :3] @ turn, self._base[:, :3] @ np.array(item.xyz) + self._base[:, 3])
            still[self._add(f"scene:{item.name}", 0, place, self._shape(item.kind, item.size))] = item.name
        known = {*names, *still.values()}
        unknown = sorted({name for pair in cell.may_touch for name in pair} - known)
        if unknown:
            raise ContractError(f"cell: may_touch names {unknown}, known are {sorted(known)}")
        may = {frozenset(pair) for pair in cell.may_touch}
        shapes.removeAllCollisionPairs()
        pairs: list[tuple[str, str, bool]] = []
        joint = {i: int(shapes.geometryObjects[i].parentJoint) for i in arm}
        for n, i in enumerate(arm):
            others: list[tuple[int, str, int | None]] = [(j, owner[j], joint[j]) for j in arm[n + 1 :]]
            for j, name, moved_by in others + [(j, name, None) for j, name in still.items()]:
                if frozenset((owner[i], name)) in may or self._neighbours(joint[i], moved_by):
                    continue
                shapes.addCollisionPair(pin.CollisionPair(i, j))
                pairs.append((owner[i], name, moved_by is None))
        return pairs

    def _neighbours(self, first: int, second: int | None) -> bool:
        """Two joints, whose shapes need no look; None is the scene."""
        if second is None:
            return first == 0  # what does not move cannot come nearer
        return first == second or first == self._model.parents[second] or second == self._model.parents[first]

    def _arm_shapes(self, cell: Cell) -> list[int]:
        """Indices of the arm's own shapes; a cylinder counts as the capsule around it, which is larger and faster."""
        if not cell.capsules:
            for item in self._shapes.geometryObjects:
                if isinstance(item.geometry, self._coal.Cylinder):
                    item.geometry = self._coal.Capsule(item.geometry.radius, 2.0 * item.geometry.halfLength)
            return list(range(len(self._shapes.geometryObjects)))
        while len(self._shapes.geometryObjects):
            self._shapes.removeGeometryObject(self._shapes.geometryObjects[0].name)
        made = []
        for n, item in enumerate(cell.capsules):
            index = frame_of(self._pin, self._model, item.frame, "cell")
            frame = self._model.frames[index]
            start, end = np.array(item.start), np.array(item.end)
            length = float(np.linalg.norm(end - start))
            along = end - start if length > 1e-9 else np.array([0.0, 0.0, 1.0])  # of any length
            turn = self._pin.Quaternion.FromTwoVectors(np.array([0.0, 0.0, 1.0]), along).toRotationMatrix()
            place = frame.placement * self._pin.SE3(turn, (start + end) / 2.0)
            shape = self._coal.Capsule(item.radius, length)
            made.append(self._add(f"capsule:{n}", int(frame.parentJoint), place, shape, index))
        return made

    def _add(self, name: str, joint: int, place: Any, shape: Any, frame: int = 0) -> int:
        return int(self._shapes.addGeometryObject(self._pin.GeometryObject(name, joint, frame, place, shape)))

    def _shape(self, kind: str, size: tuple[float, ...]) -> Any:
        if kind == "box":
            return self._coal.Box(*size)
        return self._coal.Sphere(*size) if kind == "sphere" else self._coal.Capsule(*size)


def frame_of(pin: Any, model: Any, name: str, where: str) -> int:
    """Index of a frame; of a link and a joint of one name it is the link. Raises ContractError: there is none."""
    found = [k for k, frame in enumerate(model.frames) if frame.name == name]
    if not found:
        raise ContractError(
            f"{where}: frame {name!r} is not in the description, which has {sorted({f.name for f in model.frames})}"
        )
    return max(found, key=lambda k: bool(model.frames[k].type == pin.FrameType.BODY))
