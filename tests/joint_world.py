# SPDX-License-Identifier: Apache-2.0
"""Two joints `a` and `b` with round limits, straight chunks for them, and a path whose commands are played exactly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from runtime.contract.action import ActionDim, ActionSpec
from runtime.contract.chunk import ActionChunk
from runtime.contract.conventions import ActionKind, DimRole, Frame, GripperSign, HoldRule, RotationConvention, Unit
from runtime.safety.joints import JointPath
from runtime.safety.limits import JointLimits, Timing
from runtime.safety.motion import Measured, Motion, Situation
from runtime.safety.trajectory import hermite

NAMES = ("a", "b")
LIMITS = JointLimits(NAMES, (-1.0, -2.0), (1.0, 2.0), (1.0, 1.0), (4.0, 4.0), (40.0, 40.0), 0.1)
TIMING = Timing(max_time_scale=4.0, max_chunk_age_s=9.0)
DT, H = 0.05, 20
ZERO = np.zeros(2)


def spec(kind: ActionKind = ActionKind.ABSOLUTE, gripper: GripperSign = GripperSign.NONE) -> ActionSpec:
    unit = Unit.RADIAN_PER_SECOND if kind is ActionKind.VELOCITY else Unit.RADIAN
    dims = [ActionDim(name, DimRole.JOINT, unit, -3.0, 3.0) for name in NAMES]
    if gripper is not GripperSign.NONE:
        dims.append(ActionDim("grip", DimRole.GRIPPER, Unit.RATIO, -1.0, 1.0))
    hold = HoldRule.REPEAT_LAST if kind is ActionKind.ABSOLUTE else HoldRule.ZERO_MOTION
    return ActionSpec(tuple(dims), kind, Frame.JOINT, RotationConvention.NONE, gripper, H, DT, hold)


def rows(speed=(0.2, -0.1), start=(0.0, 0.0)) -> np.ndarray:
    """A straight line, row i due at (i + 1) dt."""
    return np.array(start) + np.arange(1, H + 1)[:, None] * DT * np.array(speed)


def chunk(values, of: ActionSpec | None = None, stamp: float = 0.0) -> ActionChunk:
    return ActionChunk(np.asarray(values, np.float32), stamp, DT, (of or spec()).names)


def seen(place=ZERO, stamp: float = 0.0) -> Measured:
    return Measured(stamp, dict(zip(NAMES, map(float, place), strict=True)))


def at(now: float = 0.0, place=ZERO, observed=ZERO, **more) -> Situation:
    return Situation(now, seen(place, now), None if observed is None else seen(observed), **more)


def made(**limits) -> JointPath:
    return JointPath(spec(), replace(LIMITS, **limits), TIMING)


class Driven:
    """A path whose commands are released and played exactly; 20 ms a tick."""

    def __init__(self, values=None, **limits) -> None:
        self.path, self.now, self.played = made(**limits), 0.0, 0.0
        self.admitted = self.path.admit(chunk(rows() if values is None else values), at())
        self.last: tuple[float, Motion] | None = None

    @property
    def place(self) -> np.ndarray:
        if self.last is None:
            return ZERO
        began, motion = self.last

        return hermite(motion.times_s, motion.positions, motion.velocities, self.played - began)[0]

    def situation(self, factor: float = 1.0) -> Situation:
        return at(self.now, self.place, speed_factor=factor)

    def take(self, motion: Motion | None, factor: float = 1.0) -> Motion | None:
        if motion is not None:
            assert self.path.breach(motion, self.situation(factor)) == ""
            self.path.commanded(motion, self.now)
            self.last = (self.played, motion)
        self.now, self.played = self.now + 0.02, self.played + 0.02 * factor
        return motion

    def go(self, ticks: int = 1, speed: float = 1.0) -> Motion | None:
        for _ in range(ticks):
            found = self.take(self.path.toward(self.admitted, self.now, self.situation(), speed))
        return found
