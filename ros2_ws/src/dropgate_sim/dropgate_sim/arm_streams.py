# SPDX-License-Identifier: Apache-2.0
"""What the simulated arm's sensors say, and how they lie: one fault at a time. Knows no ROS.

camera_drop: the last camera is silent. camera_freeze: the first one repeats its picture with fresh stamps.
camera_delay: pictures come DELAY_S late, with the stamps of when they were taken. camera_swap: two cameras exchanged.
joints_stop: silence. joints_jump: the first joint is reported JUMP_RAD away. joints_reorder: another order, names with
it (harmless to who reads by name). joints_missing: the last joint is left out. joints_nan: a position is not a number.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from dropgate_sim.jtc_spline import Floats

JUMP_RAD, DELAY_S = 0.5, 1.0
GREY, STEP_GREY = 88, 24  # first camera's grey, and how much brighter the next one is


class StreamFault(str, Enum):
    """Closed list; the value is what people type."""

    NONE = "none"
    CAMERA_DROP = "camera_drop"
    CAMERA_FREEZE = "camera_freeze"
    CAMERA_DELAY = "camera_delay"
    CAMERA_SWAP = "camera_swap"
    JOINTS_STOP = "joints_stop"
    JOINTS_JUMP = "joints_jump"
    JOINTS_REORDER = "joints_reorder"
    JOINTS_MISSING = "joints_missing"
    JOINTS_NAN = "joints_nan"


@dataclass(frozen=True)
class JointReport:
    """names, and (n,) positions and velocities."""

    names: tuple[str, ...]
    positions: Floats
    velocities: Floats


@dataclass(frozen=True)
class Picture:
    """uint8 (H, W, 3) taken at `stamp_ns`."""

    stamp_ns: int
    pixels: NDArray[np.uint8]


class ArmStreams:
    """See the module.

    Args:
        names: joints.
        cameras: keys, in order.
        height, width: of the test pattern [pixels].
    """

    def __init__(self, names: Sequence[str], cameras: Sequence[str], height: int, width: int) -> None:
        self.names, self.cameras, self.fault = tuple(names), tuple(cameras), StreamFault.NONE
        self._size, self._frame = (height, width), 0
        self._shown: dict[str, NDArray[np.uint8]] = {}
        self._late: deque[dict[str, Picture]] = deque()

    def joints(self, positions: Floats, velocities: Floats) -> JointReport | None:
        """What the driver reports; None is silence."""
        names, places, fault = self.names, np.array(positions), self.fault
        if fault is StreamFault.JOINTS_STOP:
            return None
        if fault is StreamFault.JOINTS_JUMP:
            places[0] += JUMP_RAD
        if fault is StreamFault.JOINTS_NAN:
            places[0] = np.nan
        if fault is StreamFault.JOINTS_REORDER:
            return JointReport(names[::-1], places[::-1], velocities[::-1])
        if fault is StreamFault.JOINTS_MISSING:
            return JointReport(names[:-1], places[:-1], velocities[:-1])
        return JointReport(names, places, velocities)

    def pictures(self, now_ns: int) -> Mapping[str, Picture]:
        """One picture per camera that is not silent: a grey of its own with one brighter pixel that wanders."""
        self._frame += 1
        fresh: dict[str, Picture] = {}
        for k, key in enumerate(self.cameras):
            pixels = np.full((*self._size, 3), GREY + STEP_GREY * k, np.uint8)
            pixels[self._frame % self._size[0], self._frame // self._size[0] % self._size[1]] += 1
            if self.fault is StreamFault.CAMERA_FREEZE and k == 0:
                pixels = self._shown.get(key, pixels)
            fresh[key] = Picture(now_ns, pixels)
            self._shown[key] = pixels
        self._late.append(fresh)
        while len(self._late) > 1 and now_ns - next(iter(self._late[0].values()), Picture(now_ns, pixels)).stamp_ns > (
            DELAY_S * 1e9
        ):
            self._late.popleft()
        return self._disturbed(fresh)

    def _disturbed(self, fresh: dict[str, Picture]) -> Mapping[str, Picture]:
        if self.fault is StreamFault.CAMERA_DROP:
            return {key: picture for key, picture in fresh.items() if key != self.cameras[-1]}
        if self.fault is StreamFault.CAMERA_DELAY:
            return self._late[0]
        if self.fault is StreamFault.CAMERA_SWAP:
            return dict(zip(fresh, reversed(list(fresh.values())), strict=True))
        return fresh
