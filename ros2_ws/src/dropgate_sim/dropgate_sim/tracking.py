# SPDX-License-Identifier: Apache-2.0
"""robosuite's JOINT_POSITION controller, made to track a moving set point as a real arm's joint controller does.

Chosen: set point sampled at every physics substep, velocity fed forward, gains of a stiff servo (20 rad/s, critically
damped). Rejected: its stock form (kp 50, no feed-forward), which trails a moving target by 0.3 s.
Imports robosuite: only after `compress.sim.libero_setup.prepare_libero`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from robosuite.controllers.joint_pos import JointPositionController

from dropgate_sim.commands import TrajectoryInput

STIFFNESS = 400.0  # [1/s^2], times the arm's own mass matrix
OSC_DIMS = 6  # arm numbers of a TaskEnv action; this controller ignores them


class TrackingController(JointPositionController):  # type: ignore[misc]
    """Takes the place of the OSC controller of a robosuite robot that has been reset; `source` says where to be.

    Args:
        robot: robosuite's robot.
        source: the trajectory; its joints are in the robot's order.
        step_ns: length of one physics substep.
    """

    def __init__(self, robot: Any, source: TrajectoryInput, step_ns: int) -> None:
        known = {k: robot.controller_config[k] for k in ("sim", "eef_name", "joint_indexes", "actuator_range")}
        super().__init__(**known, kp=STIFFNESS)
        self.control_dim = OSC_DIMS  # the environment goes on stepping with seven numbers
        self._source, self._step_ns, self._now_ns = source, step_ns, 0

    @property
    def control_limits(self) -> tuple[np.ndarray, np.ndarray]:
        """Of the numbers that are ignored; their count is what the environment checks."""
        return -np.ones(OSC_DIMS), np.ones(OSC_DIMS)

    def begin(self, now_ns: int) -> None:
        """The next environment step starts at `now_ns`."""
        self._now_ns = now_ns

    def set_goal(self, action: Any, set_qpos: Any = None) -> None:
        """Nothing: the goal is the trajectory."""
        self.update()

    def run_controller(self) -> np.ndarray:
        """Torques (n,) for the next substep."""
        self.update()
        self._now_ns += self._step_ns
        position, velocity = self._source.sample(self._now_ns)
        wanted = self.kp * (position - self.joint_pos) + self.kd * (velocity - self.joint_vel)
        self.torques = self.mass_matrix @ wanted + self.torque_compensation
        self.new_update = True
        return self.torques
