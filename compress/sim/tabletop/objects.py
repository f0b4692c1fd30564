# SPDX-License-Identifier: Apache-2.0
"""The suite's own objects: boxes, registered with LIBERO's object registry (import after `prepare_libero`)."""

from __future__ import annotations

from pathlib import Path

from libero.libero.envs.base_object import register_object
from robosuite.models.objects import MujocoXMLObject
from robosuite.utils.mjcf_utils import array_to_string

_XML = Path(__file__).parent / "xml"


class _BoxObject(MujocoXMLObject):
    """A free body from one of the suite's XML files in one plain colour, never turned."""

    file = ""
    rgb = (1.0, 1.0, 1.0)

    def __init__(self, name: str, joints: str = "default") -> None:
        file = str(_XML / self.file)
        super().__init__(file, name=name, joints=joints, obj_type="all", duplicate_collision_geoms=False)
        for geom in self._obj.iter("geom"):
            if geom.get("group") == "1":
                geom.set("rgba", array_to_string((*self.rgb, 1.0)))
        self.category_name = type(self).__name__.lower()
        self.rotation = (0.0, 0.0)
        self.rotation_axis = "z"
        self.object_properties: dict[str, dict[str, bool]] = {"vis_site_names": {}}


@register_object
class RedBlock(_BoxObject):
    """4 cm cube."""

    file, rgb = "block.xml", (0.85, 0.10, 0.10)


@register_object
class BlueBlock(_BoxObject):
    """4 cm cube."""

    file, rgb = "block.xml", (0.10, 0.25, 0.90)


@register_object
class YellowTray(_BoxObject):
    """The left tray (the robot's left, +y; the left of the rotated image too)."""

    file, rgb = "tray.xml", (0.95, 0.80, 0.15)


@register_object
class GreenTray(_BoxObject):
    """The right tray (-y)."""

    file, rgb = "tray.xml", (0.15, 0.60, 0.25)
