# SPDX-License-Identifier: Apache-2.0
"""Two industrial arms as MuJoCo models, made of primitives from published kinematic numbers. No mesh, no vendor's file.

Kinematics: UR5e from Universal Robots' "DH parameters for calculations of kinematics and dynamics" (standard DH);
Panda from Franka's documentation, "Robot and interface specifications" (modified DH). Ranges, speeds and torques: data
sheets. Masses: Universal Robots' same page; Franka publishes none, so the Panda's 18 kg are divided by us. Inertias are
those of the primitives and therefore *not* the arms': what depends on them (torques under contact) is no statement
about a real arm. Links touch the floor and obstacles, not each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Link:
    """A joint about z of its own frame, and the body that it carries.

    Attributes:
        place: origin of the joint's frame in the frame before it [m].
        roll: turn of that frame about the x axis of the frame before it [rad].
        mass: [kg].
        low, high: range [rad].
        velocity: greatest [rad/s], by the data sheet.
        torque: greatest [N m].
    """

    name: str
    place: tuple[float, float, float]
    roll: float
    mass: float
    low: float
    high: float
    velocity: float
    torque: float


@dataclass(frozen=True)
class ArmModel:
    """Links from base to flange, the flange in the last one, and a posture from which a task can begin.

    `elbow` is the number of the link whose origin is the elbow.
    """

    name: str
    links: tuple[Link, ...]
    flange: tuple[float, float, float]
    home: tuple[float, ...]
    elbow: int

    @property
    def joints(self) -> tuple[str, ...]:
        """Names in order."""
        return tuple(link.name for link in self.links)

    def xml(self, timestep_s: float, obstacles: Sequence[Obstacle] = ()) -> str:
        """MJCF: gravity compensated, torque actuators, joint ranges as stops, a floor, a site `tcp`."""
        return _xml(self, timestep_s, obstacles)

    def urdf(self, names: Names | None = None) -> str:
        """The same kinematics as a URDF: links `<joint>_link`, and those of `names`. No geometry, so no collisions."""
        return _urdf(self, names or Names())


@dataclass(frozen=True)
class Names:
    """How a description calls the links that a robot's parameter file names."""

    base: str = "base"
    tcp: str = "tcp"
    elbow: str = "elbow"


@dataclass(frozen=True)
class Obstacle:
    """A fixed box: centre and half sizes [m]."""

    centre: tuple[float, float, float]
    half: tuple[float, float, float]


_TURN = math.pi / 2
_UR = {"low": -2 * math.pi, "high": 2 * math.pi, "velocity": math.pi}
UR5E = ArmModel(
    "ur5e",
    (
        Link("shoulder_pan_joint", (0.0, 0.0, 0.1625), 0.0, 3.761, torque=150.0, **_UR),
        Link("shoulder_lift_joint", (0.0, 0.0, 0.0), _TURN, 8.058, torque=150.0, **_UR),
        Link("elbow_joint", (-0.425, 0.0, 0.0), 0.0, 2.846, -math.pi, math.pi, math.pi, 150.0),
        Link("wrist_1_joint", (-0.3922, 0.0, 0.1333), 0.0, 1.37, torque=28.0, **_UR),
        Link("wrist_2_joint", (0.0, -0.0997, 0.0), _TURN, 1.3, torque=28.0, **_UR),
        Link("wrist_3_joint", (0.0, 0.0996, 0.0), -_TURN, 0.365, torque=28.0, **_UR),
    ),
    (0.0, 0.0, 0.0),  # d6 lies before the last joint, whose axis it runs along
    (0.0, -1.4, 1.6, -1.77, -1.57, 0.0),
    2,
)
PANDA = ArmModel(
    "panda",
    (
        Link("panda_joint1", (0.0, 0.0, 0.333), 0.0, 3.5, -2.8973, 2.8973, 2.175, 87.0),
        Link("panda_joint2", (0.0, 0.0, 0.0), -_TURN, 3.5, -1.7628, 1.7628, 2.175, 87.0),
        Link("panda_joint3", (0.0, -0.316, 0.0), _TURN, 3.0, -2.8973, 2.8973, 2.175, 87.0),
        Link("panda_joint4", (0.0825, 0.0, 0.0), _TURN, 3.0, -3.0718, -0.0698, 2.175, 87.0),
        Link("panda_joint5", (-0.0825, 0.384, 0.0), -_TURN, 2.5, -2.8973, 2.8973, 2.61, 12.0),
        Link("panda_joint6", (0.0, 0.0, 0.0), _TURN, 1.5, -0.0175, 3.7525, 2.61, 12.0),
        Link("panda_joint7", (0.088, 0.0, 0.0), _TURN, 1.0, -2.8973, 2.8973, 2.61, 12.0),
    ),
    (0.0, 0.0, 0.107),
    (0.0, -0.785, 0.0, -2.356, 0.0, 1.571, 0.785),
    3,
)
MODELS = {model.name: model for model in (UR5E, PANDA)}


def _xml(model: ArmModel, timestep_s: float, obstacles: Sequence[Obstacle]) -> str:
    ends = [*(link.place for link in model.links[1:]), model.flange]
    bodies, indent = [], "    "
    for link, end in zip(model.links, ends, strict=True):
        half = link.roll / 2
        bodies.append(
            f'{indent}<body name="{link.name}_link" pos="{_text(link.place)}" quat="{_text((math.cos(half), math.sin(half), 0.0, 0.0))}" gravcomp="1">\n'  # noqa: E501 one element
            f'{indent}  <joint name="{link.name}" axis="0 0 1" range="{link.low!r} {link.high!r}" armature="0.1"/>\n'
            f'{indent}  <geom type="sphere" size="0.055" mass="{link.mass / 2!r}"/>\n'
            f"{indent}  {_limb(end, link.mass / 2)}"
        )
        indent += "  "
    tip = f'{indent}<site name="tcp" pos="{_text(model.flange)}"/>'
    closing = "\n".join("    " + "  " * k + "</body>" for k in reversed(range(len(model.links))))
    boxes = "\n".join(
        f'    <geom type="box" pos="{_text(o.centre)}" size="{_text(o.half)}" contype="2" conaffinity="1"/>'
        for o in obstacles
    )
    motors = "\n".join(
        f'    <motor joint="{link.name}" ctrllimited="true" ctrlrange="{-link.torque!r} {link.torque!r}"/>'
        for link in model.links
    )
    return f"""<mujoco model="{model.name}">
  <compiler angle="radian" autolimits="true"/>
  <option timestep="{timestep_s!r}" integrator="implicitfast"/>
  <default><geom contype="1" conaffinity="2"/></default>
  <worldbody>
    <geom name="floor" type="plane" size="3 3 0.1" contype="2" conaffinity="1"/>
{boxes}
{chr(10).join(bodies)}
{tip}
{closing}
  </worldbody>
  <actuator>
{motors}
  </actuator>
</mujoco>
"""


def _urdf(model: ArmModel, names: Names) -> str:
    lines, parent = [f'<robot name="{model.name}">', f'<link name="{names.base}"/>'], names.base
    for link in model.links:
        child = f"{link.name}_link"
        lines += [
            f'<link name="{child}"/>',
            f'<joint name="{link.name}" type="revolute"><parent link="{parent}"/><child link="{child}"/>',
            f'<origin xyz="{_text(link.place)}" rpy="{link.roll!r} 0 0"/><axis xyz="0 0 1"/>',
            f'<limit lower="{link.low!r}" upper="{link.high!r}" velocity="{link.velocity!r}"',
            f'       effort="{link.torque!r}"/>',
            "</joint>",
        ]
        parent = child
    lines += _fixed("to_tcp", parent, names.tcp, model.flange)
    lines += _fixed("to_elbow", f"{model.links[model.elbow].name}_link", names.elbow, (0.0, 0.0, 0.0))
    return "\n".join([*lines, "</robot>\n"])


def _fixed(joint: str, parent: str, child: str, place: Sequence[float]) -> list[str]:
    """A link that is fixed to another one; a child that is there already is the parent itself."""
    if child == parent:
        return []
    way = f'<parent link="{parent}"/><child link="{child}"/><origin xyz="{_text(place)}" rpy="0 0 0"/>'
    return [f'<link name="{child}"/>', f'<joint name="{joint}" type="fixed">{way}</joint>']


def _limb(end: Sequence[float], mass: float) -> str:
    """From the joint to the next one; a sphere where the two fall together."""
    if math.hypot(*end) < 0.06:
        return f'<geom type="sphere" size="0.05" mass="{mass!r}"/>'
    return f'<geom type="capsule" fromto="0 0 0 {_text(end)}" size="0.045" mass="{mass!r}"/>'


def _text(values: Sequence[float]) -> str:
    return " ".join(repr(float(value)) for value in values)
