# SPDX-License-Identifier: Apache-2.0
"""Draws the robot as boxes fitted to its collision shapes, so that an image costs milliseconds on a CPU.

The Panda's visual meshes have about 180 thousand faces and are most of LIBERO's rendering cost. Only what is *drawn*
changes: every colliding geom, inertia, joint and actuator stays as robosuite ships it. Chosen: boxes, whose faces have
one colour each; rejected: the collision meshes, whose smooth shading made the recorded images three times as big.
"""

from __future__ import annotations

from typing import Any
from xml.etree.ElementTree import Element, SubElement

# robosuite toggles groups 0 (collision) and 1 (visual); MuJoCo draws group 2 by default and gives it no mass here
_DRAWN_GROUP = "2"
_LIGHT, _DARK, _PAD, _STAND = "0.93 0.93 0.95 1", "0.28 0.30 0.36 1", "0.13 0.13 0.14 1", "0.62 0.62 0.60 1"
_COLOURS = {"link": _LIGHT, "hand": _DARK, "finger": _PAD, "pedestal": _STAND, "controller": _STAND}


def draw_low_poly(robot: Any) -> None:
    """Edits robosuite's robot model (mount and gripper already merged in) in place."""
    for body in list(robot.worldbody.iter("body")):
        for geom in body.findall("geom"):
            if geom.get("group") == "1":
                body.remove(geom)
            elif geom.get("type") == "mesh" and "finger" not in geom.get("name", ""):
                body.append(_fitted_box(geom))
            else:
                geom.set("group", _DRAWN_GROUP)
                geom.set("rgba", _colour(geom.get("name", "")))
    used = {geom.get("mesh") for geom in robot.worldbody.iter("geom")}
    for asset in list(robot.asset):
        if asset.tag in ("material", "texture") or (asset.tag == "mesh" and asset.get("name") not in used):
            robot.asset.remove(asset)
    for part in (robot, *robot.models):
        part._visual_geoms = []


def plain_rendering(root: Element) -> None:
    """No shadow maps; two light levels only, so that a matte face has one colour and images compress well."""
    visual = root.find("visual")
    if visual is None:
        visual = SubElement(root, "visual")
    SubElement(visual, "quality", shadowsize="0", offsamples="0")
    SubElement(visual, "headlight", ambient="0.45 0.45 0.45", diffuse="0 0 0", specular="0 0 0")


def _colour(name: str) -> str:
    return next((colour for part, colour in _COLOURS.items() if part in name), _LIGHT)


def _fitted_box(mesh_geom: Element) -> Element:
    where = {key: mesh_geom.attrib[key] for key in ("pos", "quat", "mesh") if key in mesh_geom.attrib}
    drawn = {"type": "box", "group": _DRAWN_GROUP, "contype": "0", "conaffinity": "0"}
    return Element("geom", where | drawn | {"rgba": _colour(mesh_geom.get("name", ""))})
