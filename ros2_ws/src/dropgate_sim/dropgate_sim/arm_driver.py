# SPDX-License-Identifier: Apache-2.0
"""Arm, controller and vendor's safety together: what a driver with its controller_manager does, cycle by cycle.

It has no clock: `advance(until)` runs all cycles of 2 ms up to an instant, and what arrives is put in with the instant
at which it arrived (`at`). So a process that is not scheduled for a while loses nothing: the cycles are made up for
with every message in its place, as a controller at real-time priority would have had it.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from enum import Enum

import numpy as np

from dropgate_sim.jtc import JointTrajectoryController, Trajectory, TrajectoryRefused
from dropgate_sim.jtc_spline import Floats
from dropgate_sim.motion_record import MotionRecord
from dropgate_sim.mujoco_arm import CYCLE_NS, MujocoArm

VENDOR_BRAKE_RAD_S2 = 10.0  # a protective stop brakes at what the drives can do, not at what a program asks for


class SafetyMode(Enum):
    """As in ur_dashboard_msgs/SafetyMode; those that can be injected."""

    NORMAL = 1
    PROTECTIVE_STOP = 3
    ROBOT_EMERGENCY_STOP = 7


class Scaling(str, Enum):
    """Who slows a motion down.

    ON_CONTROLLER: the controller's time is slow, the robot knows nothing. ON_ROBOT: the robot goes only a share of the
    way that a cycle asks for, and tells the share to the controller, whose time slows with it (UR).
    """

    ON_CONTROLLER = "on_controller"
    ON_ROBOT = "on_robot"


class ArmDriver:
    """See the module.

    Args:
        arm: at rest.
        controller: with the arm's joints in the arm's order; is activated here.
        start_ns: instant of the first cycle.
        scaling: who slows down.
    """

    def __init__(
        self, arm: MujocoArm, controller: JointTrajectoryController, start_ns: int, scaling: Scaling = Scaling.ON_ROBOT
    ) -> None:
        self.arm, self.controller, self._scaling = arm, controller, scaling
        self.now_ns = start_ns
        self.record = MotionRecord(arm.names, CYCLE_NS)
        self.asked = MotionRecord(arm.names, CYCLE_NS)  # what the controller told the drives
        self.mode, self.program_running, self.factor = SafetyMode.NORMAL, True, 1.0
        self.accepted, self.refused, self.last_refusal = 0, 0, ""
        self._due: list[tuple[int, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._speed = np.zeros(len(arm.names))
        controller.activate(arm.positions)

    @property
    def active(self) -> bool:
        """The controller moves the arm: no stop of the vendor, program running."""
        return self.mode is SafetyMode.NORMAL and self.program_running

    @property
    def scaling_factor(self) -> float:
        """As the driver reports it: 0 while the vendor has stopped the arm."""
        return self.factor if self.active else 0.0

    def at(self, time_ns: int, happens: Callable[[], None]) -> None:
        """`happens()` before the first cycle at or after `time_ns`; what is late happens before the next one."""
        heapq.heappush(self._due, (time_ns, next(self._order), happens))

    def command(self, trajectory: Trajectory) -> None:
        """A message on the controller's topic, now."""
        if not self.active:
            self._refuse("the controller is not active")
            return
        try:
            self.controller.accept(trajectory, self.now_ns)
        except TrajectoryRefused as error:
            self._refuse(str(error))
        else:
            self.accepted += 1

    def set_factor(self, factor: float) -> None:
        """Speed scaling, 0 to 1: the slider."""
        self.factor = float(np.clip(factor, 0.0, 1.0))
        self.controller.set_scaling(self.factor)

    def set_mode(self, mode: SafetyMode, program_running: bool = True) -> None:
        """What the vendor's safety or an operator at the pendant does. Back to normal: the controller begins anew."""
        was = self.active
        self.mode, self.program_running = mode, program_running
        if self.active and not was:
            self.controller.activate(self.arm.positions)
            self._speed = np.zeros(len(self.arm.names))

    def advance(self, until_ns: int) -> int:
        """All cycles before `until_ns`; gives their number."""
        cycles = 0
        while self.now_ns + CYCLE_NS <= until_ns:
            while self._due and self._due[0][0] <= self.now_ns:
                heapq.heappop(self._due)[2]()
            self._cycle()
            cycles += 1
        return cycles

    def _cycle(self) -> None:
        arm = self.arm
        before = arm.target
        if self.active:
            wanted = self.controller.update(self.now_ns, arm.positions, arm.velocities).positions
            target = before + self.factor * (wanted - before) if self._scaling is Scaling.ON_ROBOT else wanted
        else:
            target = before + self._braked()
        arm.step(target, powered=self.mode is not SafetyMode.ROBOT_EMERGENCY_STOP)
        if self.active:
            self._speed = (arm.target - before) / (CYCLE_NS * 1e-9)
        self.now_ns += CYCLE_NS
        self.record.add(self.now_ns, arm.positions, arm.velocities)
        self.asked.add(self.now_ns, arm.target.copy(), self._speed)

    def _braked(self) -> Floats:
        """The way of one cycle of a vendor's stop."""
        dt = CYCLE_NS * 1e-9
        self._speed = np.sign(self._speed) * np.maximum(np.abs(self._speed) - VENDOR_BRAKE_RAD_S2 * dt, 0.0)
        return self._speed * dt

    def _refuse(self, text: str) -> None:
        self.refused += 1
        self.last_refusal = text
