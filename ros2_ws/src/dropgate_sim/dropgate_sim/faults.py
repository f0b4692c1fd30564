# SPDX-License-Identifier: Apache-2.0
"""Faults of cameras and drivers, for tests of what a controller does about them. They change what is said, not what is.

camera_drop: no images. camera_freeze: old pixels with fresh stamps. stale_stamps: every stamp falls behind, by
1 - 1 / SLOWNESS of the time since the fault began. joint_reorder: joints in another order, names with them (harmless to
who reads by name). joint_missing: the last joint is not in the message. joint_stop: no joint states.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from dropgate_sim.commands import Floats
from dropgate_sim.sim_robot import JOINTS, RobotState

SLOWNESS = 10  # of the stamps' clock: still rising, so only their age gives them away


class Fault(str, Enum):
    """Closed list; the value is the node's parameter `fault`."""

    NONE = "none"
    CAMERA_DROP = "camera_drop"
    CAMERA_FREEZE = "camera_freeze"
    STALE_STAMPS = "stale_stamps"
    JOINT_REORDER = "joint_reorder"
    JOINT_MISSING = "joint_missing"
    JOINT_STOP = "joint_stop"


@dataclass(frozen=True)
class Reading:
    """What the drivers publish of one instant; nothing is published of what is None or empty.

    Attributes:
        stamp_ns: of every message.
        joints: names, positions (n,), velocities (n,).
        tcp: position (3,) and quaternion (4,).
        images: camera -> uint8 (H, W, 3).
    """

    stamp_ns: int
    joints: tuple[tuple[str, ...], Floats, Floats] | None
    tcp: tuple[Floats, Floats]
    images: Mapping[str, NDArray[np.uint8]]


class Drivers:
    """Robot state -> readings, with the fault that is set."""

    def __init__(self) -> None:
        self.fault = Fault.NONE
        self._frozen: Mapping[str, NDArray[np.uint8]] | None = None
        self._last: Mapping[str, NDArray[np.uint8]] = {}
        self._last_ns: int | None = None
        self._since_ns: int | None = None

    def set(self, fault: Fault) -> None:
        """From the next reading on; a frozen camera shows the picture that was published last."""
        self.fault = fault
        self._frozen = self._last or None if fault is Fault.CAMERA_FREEZE else None
        self._since_ns = self._last_ns if fault is Fault.STALE_STAMPS else None

    def read(self, state: RobotState, stamp_ns: int) -> Reading:
        """The reading of one instant."""
        reading = Reading(
            stamp_ns, (JOINTS, state.positions, state.velocities), (state.tcp_position, state.tcp_quaternion),
            state.images,
        )  # fmt: skip
        reading = self._disturbed(reading)
        self._last, self._last_ns = reading.images or self._last, stamp_ns
        return reading

    def _disturbed(self, reading: Reading) -> Reading:
        fault = self.fault
        if fault is Fault.CAMERA_DROP:
            return replace(reading, images={})
        if fault is Fault.CAMERA_FREEZE and reading.images:
            self._frozen = self._frozen or reading.images
            return replace(reading, images=self._frozen)
        if fault is Fault.STALE_STAMPS:
            self._since_ns = reading.stamp_ns if self._since_ns is None else self._since_ns
            return replace(reading, stamp_ns=self._since_ns + (reading.stamp_ns - self._since_ns) // SLOWNESS)
        if fault is Fault.JOINT_STOP or reading.joints is None:
            return replace(reading, joints=None)
        names, positions, velocities = reading.joints
        if fault is Fault.JOINT_REORDER:
            return replace(reading, joints=(names[::-1], positions[::-1], velocities[::-1]))
        if fault is Fault.JOINT_MISSING:
            return replace(reading, joints=(names[:-1], positions[:-1], velocities[:-1]))
        return reading
