# SPDX-License-Identifier: Apache-2.0
"""The problem class that LIBERO builds from the suite's BDDL files (import after `prepare_libero`).

It is LIBERO's own tabletop problem with another arena, another camera and a low-poly robot: predicates, placement,
robot, controller and timing are LIBERO's.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from libero.libero.envs.bddl_base_domain import TASK_MAPPING, register_problem
from libero.libero.envs.regions import REGION_SAMPLERS, TableRegionSampler
from robosuite.environments.manipulation.single_arm_env import SingleArmEnv
from robosuite.models.arenas import Arena
from robosuite.models.tasks import ManipulationTask

from compress.sim.tabletop import objects as _objects  # noqa: F401  (registers the blocks and trays)
from compress.sim.tabletop.low_poly import draw_low_poly, plain_rendering

_ARENA = Path(__file__).parent / "xml" / "arena.xml"
# `register_problem` returns nothing, so LIBERO's class is only to be had from the registry
_LiberoTabletop: Any = TASK_MAPPING["libero_tabletop_manipulation"]
PROBLEM = "dropgate_tabletop_manipulation"
CAMERA_POSITION = (0.56, 0.0, 1.52)
CAMERA_PITCH_DEG = -34.5  # below the horizon, looking along -x at the robot
CAMERA_FOVY_DEG = 38.0


class ZoneSampler(TableRegionSampler):
    """Uniform over the zone's rectangle: zones are disjoint by construction, so no margin and no rejection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.update(ensure_object_boundary_in_range=False, ensure_valid_placement=False, z_offset=0.002)
        super().__init__(*args, **kwargs)


class DropGate_Tabletop_Manipulation(_LiberoTabletop):  # noqa: N801
    """LIBERO derives the registry's key from this name, and the BDDL files carry it."""

    def _load_model(self) -> None:
        SingleArmEnv._load_model(self)  # LIBERO's own version builds one of its textured arenas
        robot = self.robots[0].robot_model
        robot.set_base_xpos(robot.base_xpos_offset["table"](self.table_full_size[0]))
        draw_low_poly(robot)
        arena = Arena(str(_ARENA))
        arena.table_body = arena.worldbody.find("./body[@name='table']")
        self._setup_camera(arena)
        self._load_fixtures_in_arena(arena)
        self._load_objects_in_arena(arena)
        self._load_sites_in_arena(arena)
        self._generate_object_state_wrapper()
        self._setup_placement_initializer(arena)
        self.objects, self.fixtures = list(self.objects_dict.values()), list(self.fixtures_dict.values())
        self.model = ManipulationTask(mujoco_arena=arena, mujoco_robots=[robot], mujoco_objects=self.objects)
        plain_rendering(self.model.root)

    def _setup_camera(self, mujoco_arena: Arena) -> None:
        half = math.radians(90.0 + CAMERA_PITCH_DEG) / 2.0
        quat = math.sqrt(0.5) * np.array([math.cos(half), math.sin(half), math.sin(half), math.cos(half)])
        fovy = {"fovy": str(CAMERA_FOVY_DEG)}
        mujoco_arena.set_camera(camera_name="agentview", pos=CAMERA_POSITION, quat=quat, camera_attribs=fovy)
        mujoco_arena.set_camera(camera_name="frontview", pos=(1.0, 0.0, 1.48), quat=(0.56, 0.43, 0.43, 0.56))


register_problem(DropGate_Tabletop_Manipulation)
REGION_SAMPLERS[PROBLEM] = {"table": ZoneSampler}
