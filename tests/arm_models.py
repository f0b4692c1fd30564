# SPDX-License-Identifier: Apache-2.0
"""Two arms for tests, as URDF text: six and seven joints, with primitive collision shapes of our own.

Kinematic numbers: Universal Robots, "DH Parameters for calculations of kinematics and dynamics", UR5e; Franka
Robotics, "Robot and interface specifications", Panda (Craig's convention). Limits: the arms' data sheets; accelerations
and jerks of the six-joint arm are ours. No mesh, no vendor file.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import pi

import numpy as np

from runtime.safety.cell import Cell
from runtime.safety.kinematics import Frames, Kinematics
from runtime.safety.limits import JointLimits, ToolLimits

UR_JOINTS = tuple(f"j{n}" for n in range(1, 7))
PANDA_JOINTS = tuple(f"j{n}" for n in range(1, 8))
# (xyz, rpy) from each joint to the next; UR5e: d [m], a [m], alpha of the DH table
_UR = [
    ((0, 0, 0.1625), (pi / 2, 0, 0)), ((-0.425, 0, 0), (0, 0, 0)), ((-0.3922, 0, 0), (0, 0, 0)),
    ((0, 0, 0.1333), (pi / 2, 0, 0)), ((0, 0, 0.0997), (-pi / 2, 0, 0)),
]  # fmt: skip
_PANDA = [
    ((0, 0, 0), (-pi / 2, 0, 0)), ((0, -0.316, 0), (pi / 2, 0, 0)), ((0.0825, 0, 0), (pi / 2, 0, 0)),
    ((-0.0825, 0.384, 0), (-pi / 2, 0, 0)), ((0, 0, 0), (pi / 2, 0, 0)), ((0.088, 0, 0), (pi / 2, 0, 0)),
]  # fmt: skip


def _joint(name: str, parent: str, child: str, xyz, rpy, kind: str = "revolute") -> str:
    limit = '<axis xyz="0 0 1"/><limit lower="-6.3" upper="6.3" effort="1" velocity="9"/>' if kind != "fixed" else ""
    at = f'<origin xyz="{" ".join(map(str, xyz))}" rpy="{" ".join(map(str, rpy))}"/>'
    return f'<joint name="{name}" type="{kind}"><parent link="{parent}"/><child link="{child}"/>{at}{limit}</joint>'


def _link(name: str, shapes) -> str:
    """Cylinders (xyz of the middle, rpy, length, radius)."""
    parts = "".join(
        f'<collision><origin xyz="{" ".join(map(str, xyz))}" rpy="{" ".join(map(str, rpy))}"/>'
        f'<geometry><cylinder length="{length}" radius="{radius}"/></geometry></collision>'
        for xyz, rpy, length, radius in shapes
    )
    mass = '<inertial><mass value="1"/><inertia ixx="1" iyy="1" izz="1" ixy="0" ixz="0" iyz="0"/></inertial>'
    return f'<link name="{name}">{mass}{parts}</link>'


def _robot(name: str, ways, tool, shapes) -> str:
    links = [_link("base", shapes[0])] + [_link(f"l{n}", shape) for n, shape in enumerate(shapes[1:], 1)]
    joints = [_joint("j1", "base", "l1", *ways[0])]
    joints += [_joint(f"j{n}", f"l{n - 1}", f"l{n}", *way) for n, way in enumerate(ways[1:], 2)]
    last = f"l{len(ways)}"
    joints.append(_joint("to_tool", last, "tool", *tool, kind="fixed"))
    joints.append(_joint("to_elbow", "l3", "elbow", (0, 0, 0), (0, 0, 0), kind="fixed"))
    ends = '<link name="tool"/><link name="elbow"/>'
    return f'<robot name="{name}">{"".join(links)}{ends}{"".join(joints)}</robot>'


def six_joints() -> str:
    """UR5e-like."""
    ways = [((0, 0, 0.0), (0, 0, 0)), *_UR]
    shapes = [
        [((0, 0, 0.04), (0, 0, 0), 0.08, 0.075)],
        [((0, 0, 0.14), (0, 0, 0), 0.06, 0.06)],
        [((-0.2125, 0, 0.13), (0, pi / 2, 0), 0.4, 0.05)],
        [((-0.196, 0, 0.02), (0, pi / 2, 0), 0.36, 0.04)],
        [((0, 0, 0.0), (0, 0, 0), 0.05, 0.04)],
        [((0, 0, 0), (0, 0, 0), 0.05, 0.04)],
        [((0, 0, 0.08), (0, 0, 0), 0.02, 0.03)],
    ]
    return _robot("six", ways, ((0, 0, 0.0996), (0, 0, 0)), shapes)


def seven_joints() -> str:
    """Panda-like."""
    ways = [((0, 0, 0.333), (0, 0, 0)), *_PANDA]
    shapes = [
        [((0, 0, 0.06), (0, 0, 0), 0.1, 0.08)],
        [((0, 0, -0.1), (0, 0, 0), 0.16, 0.06)],
        [((0, -0.1, 0), (pi / 2, 0, 0), 0.16, 0.06)],
        [((0, 0, -0.06), (0, 0, 0), 0.1, 0.06)],
        [((-0.0825, 0.08, 0), (pi / 2, 0, 0), 0.1, 0.055)],
        [((0, 0, -0.2), (0, 0, 0), 0.16, 0.05)],
        [((0.044, 0, 0), (0, pi / 2, 0), 0.06, 0.05)],
        [((0, 0, 0.1), (0, 0, 0), 0.1, 0.04)],
    ]
    return _robot("seven", ways, ((0, 0, 0.2104), (0, 0, -pi / 4)), shapes)


@dataclass(frozen=True)
class Arm:
    """A test arm: its kinematics, limits, and a comfortable pose."""

    kinematics: Kinematics
    limits: JointLimits
    home: np.ndarray


TABLE = Cell.from_json(
    {
        "schema": "dropgate.cell/1",
        "scene": [{"name": "table", "kind": "box", "size": [1.6, 1.6, 0.04], "xyz": [0.0, 0, -0.08]}],
        "may_touch": [["base", "table"], ["l1", "table"]],
    }
)


@cache
def six() -> Arm:
    """UR5e-like at a quarter of its speed."""
    limits = JointLimits(
        UR_JOINTS, (-6.18, -6.18, -3.04, -6.18, -6.18, -6.18), (6.18, 6.18, 3.04, 6.18, 6.18, 6.18), (0.78,) * 6,
        (1.4,) * 6, (14.0,) * 6, 0.2,
        ToolLimits(0.5, 2.0, (-0.8, -0.8, 0.05), (0.8, 0.8, 0.9), (-0.6, -0.6, 0.05), (0.6, 0.6, 0.8)),
    )  # fmt: skip
    return Arm(
        Kinematics(six_joints(), UR_JOINTS, Frames("tool", "base", "elbow"), TABLE), limits,
        np.array([0.0, -1.4, 1.6, -1.77, -1.57, 0.0]),
    )  # fmt: skip


@cache
def seven() -> Arm:
    """Panda-like; limits of Franka's interface, a quarter of the speed."""
    limits = JointLimits(
        PANDA_JOINTS, (-2.8, -1.66, -2.8, -2.97, -2.8, 0.08, -2.8), (2.8, 1.66, 2.8, -0.17, 2.8, 3.65, 2.8),
        (0.54, 0.54, 0.54, 0.54, 0.65, 0.65, 0.65), (3.75, 1.875, 2.5, 3.125, 3.75, 5.0, 5.0),
        (37.5, 18.75, 25.0, 31.25, 37.5, 50.0, 50.0), 0.2,
        ToolLimits(0.5, 2.0, (0.1, -0.6, 0.05), (0.8, 0.6, 0.9), (-0.5, -0.5, 0.2), (0.5, 0.5, 1.0), (0, 0, -1.0), 1.2),
    )  # fmt: skip
    return Arm(
        Kinematics(seven_joints(), PANDA_JOINTS, Frames("tool", "base", "elbow"), TABLE), limits,
        np.array([0.0, -0.5, 0.0, -2.2, 0.0, 1.7, 0.785]),
    )  # fmt: skip
