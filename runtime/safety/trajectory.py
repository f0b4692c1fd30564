# SPDX-License-Identifier: Apache-2.0
"""What may reach a robot. Publishers accept only `SafeTrajectory`; only `runtime.safety.filter` builds one."""

from __future__ import annotations

from dataclasses import InitVar, dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from runtime.errors import ContractError

Floats = NDArray[np.float64]
_FILTER = object()  # held by the filter alone; a test looks that nobody else takes it


class CommandKind(str, Enum):
    """Which interface of the robot a command is for."""

    TWIST = "twist"
    JOINT_TRAJECTORY = "joint_trajectory"


@dataclass(frozen=True, eq=False)
class SafeTrajectory:
    """Checked motion that ends at rest.

    Attributes:
        kind: twist = velocity of the TCP, (1, 6) [m/s, rad/s] in the command frame, to be dropped by its receiver
            after the command time-out; joint_trajectory = positions, velocities and accelerations, at rest in the last
            row, of constant jerk between the rows: a controller's cubic and its quintic are the same curve.
        names: joints, or the six axes.
        start_s: instant from which it holds [s].
        times_s: (N,) seconds after `start_s`, ascending; a joint trajectory's first is at or just before it.
        velocities: (N, D).
        positions, accelerations: (N, D) for joints, otherwise None.
        gripper: opening ratio, 0 closed to 1 open; None leaves the gripper alone.
        scale: share of the speed that the policy meant, after all slowing.
    """

    kind: CommandKind
    names: tuple[str, ...]
    start_s: float
    times_s: Floats
    velocities: Floats
    positions: Floats | None
    gripper: float | None
    scale: float
    accelerations: Floats | None = None
    seal: InitVar[object] = None  # not kept, so that a copy with other numbers is not possible either

    def __post_init__(self, seal: object) -> None:
        if seal is not _FILTER:
            raise ContractError("SafeTrajectory: only the safety filter builds one; hand it your chunk")
        for name in ("times_s", "velocities", "positions", "accelerations"):
            value = getattr(self, name)
            if value is None:
                continue
            if not np.isfinite(value).all():
                raise ContractError(f"SafeTrajectory.{name}: found values that are not finite")
            value = np.array(value, dtype=np.float64)
            value.setflags(write=False)
            object.__setattr__(self, name, value)

    @property
    def moves(self) -> bool:
        """It asks for any motion at all."""
        return bool(np.any(self.velocities != 0.0))

    @property
    def end_s(self) -> float:
        """When a joint trajectory has come to rest [s]."""
        return self.start_s + float(self.times_s[-1])

    def at(self, time_s: float) -> tuple[Floats, Floats]:
        """(positions, velocities) of a joint trajectory at `time_s`, by the cubic that controllers interpolate with."""
        if self.positions is None:
            raise ContractError("SafeTrajectory.at: a twist has no positions")
        return hermite(self.times_s, self.positions, self.velocities, time_s - self.start_s)


def hermite(times: Floats, positions: Floats, velocities: Floats, time: float) -> tuple[Floats, Floats]:
    """Cubic Hermite interpolation; before the first knot that knot, from the last on the last one at rest.

    Args:
        times: (N,) ascending [s].
        positions, velocities: (N, D).
        time: [s] on the same axis.
    """
    if time >= times[-1] or len(times) == 1:
        return positions[-1].copy(), np.zeros(positions.shape[1])
    k = int(np.clip(np.searchsorted(times, time, side="right") - 1, 0, len(times) - 2))
    span = times[k + 1] - times[k]
    u = float(np.clip((time - times[k]) / span, 0.0, 1.0))
    p0, p1, m0, m1 = positions[k], positions[k + 1], velocities[k] * span, velocities[k + 1] * span
    place = (2 * u**3 - 3 * u**2 + 1) * p0 + (u**3 - 2 * u**2 + u) * m0 + (3 * u**2 - 2 * u**3) * p1
    place = place + (u**3 - u**2) * m1
    speed = (6 * u**2 - 6 * u) * p0 + (3 * u**2 - 4 * u + 1) * m0 + (6 * u - 6 * u**2) * p1 + (3 * u**2 - 2 * u) * m1
    return place, speed / span
