# SPDX-License-Identifier: Apache-2.0
"""What stands around an arm, and what of the arm itself may touch: the station's cell file.

    {"schema": "dropgate.cell/1",
     "capsules": [{"frame": "forearm", "from": [0, 0, 0], "to": [-0.39, 0, 0], "radius": 0.06}],
     "scene": [{"name": "table", "kind": "box", "size": [1.2, 0.8, 0.04], "xyz": [0.5, 0, -0.05], "rpy": [0, 0, 0]}],
     "may_touch": [["forearm", "wrist_2"]]}

`capsules` replace the collision geometry of an arm whose description has only meshes. `scene` is in the base frame;
kinds: box (full edge lengths), sphere (radius), capsule (radius, length along z). `may_touch` names pairs of frames or
scene objects that are never compared. Nothing else is accepted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.errors import ContractError

SCHEMA = "dropgate.cell/1"
SIZES = {"box": 3, "sphere": 1, "capsule": 2}
FAR = 1e6  # m: no cell is so large


@dataclass(frozen=True)
class Capsule:
    """A part of the arm: all points within `radius` [m] of the segment, in the coordinates of `frame`."""

    frame: str
    start: tuple[float, ...]
    end: tuple[float, ...]
    radius: float


@dataclass(frozen=True)
class Obstacle:
    """A static object in the base frame; lengths in metres, angles in radians."""

    name: str
    kind: str
    size: tuple[float, ...]
    xyz: tuple[float, ...]
    rpy: tuple[float, ...] = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Cell:
    """The cell; an empty one has no obstacles and takes the arm's shape from its description."""

    capsules: tuple[Capsule, ...] = ()
    scene: tuple[Obstacle, ...] = ()
    may_touch: tuple[tuple[str, str], ...] = ()

    @classmethod
    def load(cls, path: Path) -> Cell:
        """Read a cell file. Raises ContractError: unreadable, unknown key, impossible number."""
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ContractError(f"cell file {path}: cannot be read: {error}") from error
        return cls.from_json(found, str(path))

    @classmethod
    def from_json(cls, found: Any, where: str = "cell") -> Cell:
        """From plain values. Raises ContractError."""
        _keys(found, {"schema"}, {"capsules", "scene", "may_touch"}, where)
        if found["schema"] != SCHEMA:
            raise ContractError(f"{where}: schema is {found['schema']!r}, expected {SCHEMA!r}")
        capsules, scene, pairs = (_list(found, name, where) for name in ("capsules", "scene", "may_touch"))
        for pair in pairs:
            if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(name, str) for name in pair)):
                raise ContractError(f"{where}: may_touch holds {pair!r}, expected a list of two names")
        return cls(
            tuple(_capsule(item, f"{where}: capsules") for item in capsules),
            tuple(_obstacle(item, f"{where}: scene") for item in scene),
            tuple((pair[0], pair[1]) for pair in pairs),
        )


def _capsule(item: Any, where: str) -> Capsule:
    _keys(item, {"frame", "from", "to", "radius"}, set(), where)
    radius = _numbers([item["radius"]], 1, f"{where}.radius", positive=True)[0]
    start, end = (_numbers(item[key], 3, f"{where}.{key}") for key in ("from", "to"))
    return Capsule(str(item["frame"]), start, end, radius)


def _obstacle(item: Any, where: str) -> Obstacle:
    _keys(item, {"name", "kind", "size", "xyz"}, {"rpy"}, where)
    if not isinstance(item["kind"], str) or item["kind"] not in SIZES:
        raise ContractError(f"{where}: kind is {item['kind']!r}, expected one of {sorted(SIZES)}")
    size = _numbers(item["size"], SIZES[item["kind"]], f"{where}.size", positive=True)
    xyz, rpy = _numbers(item["xyz"], 3, f"{where}.xyz"), _numbers(item.get("rpy", [0, 0, 0]), 3, f"{where}.rpy")
    return Obstacle(str(item["name"]), item["kind"], size, xyz, rpy)


def _keys(item: Any, needed: set[str], allowed: set[str], where: str) -> None:
    if not isinstance(item, Mapping) or not needed <= set(item) <= needed | allowed:
        found = sorted(item) if isinstance(item, Mapping) else type(item).__name__
        raise ContractError(f"{where}: found {found}, expected {sorted(needed)}, and perhaps {sorted(allowed)}")


def _list(found: Mapping[str, Any], name: str, where: str) -> list[Any]:
    value = found.get(name, [])
    if not isinstance(value, list):
        raise ContractError(f"{where}: {name} is {value!r}, expected a list")
    return value


def _numbers(values: Any, count: int, where: str, positive: bool = False) -> tuple[float, ...]:
    plain = isinstance(values, list) and len(values) == count
    if not plain or not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values):
        raise ContractError(f"{where}: found {values!r}, expected {count} number(s)")
    if not all(abs(v) < FAR and (v > 0.0 or not positive) for v in values):  # false for NaN
        raise ContractError(f"{where}: found {values}, expected {'positive ' * positive}numbers below {FAR:g}")
    return tuple(float(v) for v in values)
