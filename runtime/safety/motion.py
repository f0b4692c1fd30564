# SPDX-License-Identifier: Apache-2.0
"""Plain data between the checks: what was measured, what was admitted, what is meant to be commanded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from runtime.contract.chunk import ActionChunk
from runtime.safety.curve import Curve
from runtime.safety.trajectory import Floats
from runtime.telemetry import StopCause

_ON_TIME = 1e-6  # share of a row by which a clock may be early


class ChunkRejected(Exception):
    """A chunk that must not move the robot; `cause` is what is recorded, the message says what was found."""

    def __init__(self, cause: StopCause, text: str) -> None:
        super().__init__(text)
        self.cause = cause


@dataclass(frozen=True, eq=False)
class Measured:
    """The robot as its driver reports it.

    Attributes:
        stamp_s: when [s].
        joints: position of every joint by name [rad or m].
        tcp_position: (3,) [m], or None where the robot reports no pose.
        tcp_rotation: rotation vector (3,) [rad] in the same frame.
    """

    stamp_s: float
    joints: Mapping[str, float] = field(default_factory=dict)
    tcp_position: Floats | None = None
    tcp_rotation: Floats | None = None


@dataclass(frozen=True)
class Situation:
    """Everything that a check may look at.

    Attributes:
        now_s: the time [s].
        measured: the robot now.
        observed: the robot when the chunk was asked for.
        speed_factor: how much slower than written the robot's controller plays trajectories, (0, 1] (speed scaling);
            0 while it has stopped playing. It counts for the time since the situation before.
        held: the set-points at which the trajectory controller holds a resting arm, by joint, where its driver tells
            them. Without them the measured joints count, and a controller that stands off by its tracking error jumps
            by that much when it is first commanded.
    """

    now_s: float
    measured: Measured
    observed: Measured | None = None
    speed_factor: float = 1.0
    held: Mapping[str, float] | None = None


@dataclass(frozen=True, eq=False)
class AdmittedChunk:
    """A chunk that passed, in physical units and in its own (perhaps stretched) time.

    Attributes:
        stamp_s: of its observation [s].
        dt_s: row i holds during [i dt, (i + 1) dt) after the stamp, at full speed.
        rows: (H, D): twists [m/s, rad/s], or joint positions to be reached at the end of the row's time.
        gripper: (H,) opening ratio, or None.
        time_scale: how much it was slowed; 1 is not at all.
        path: of joints, in stretched time; None for twists.
        ended_by: why rows at its end were cut off; empty if none were.
    """

    stamp_s: float
    dt_s: float
    rows: Floats
    gripper: NDArray[np.float64] | None
    time_scale: float
    path: Curve | None = None
    ended_by: str = ""

    @property
    def length_s(self) -> float:
        """Time that the rows cover [s]."""
        return len(self.rows) * self.dt_s

    def index_at(self, progress_s: float) -> int | None:
        """The row that holds `progress_s` [s] into the chunk; None before the first and after the last."""
        index = math.floor(progress_s / self.dt_s + _ON_TIME)
        return index if 0 <= index < len(self.rows) else None


@dataclass(frozen=True, eq=False)
class Motion:
    """What is meant to be commanded, not yet released; fields as in `SafeTrajectory`."""

    times_s: Floats
    velocities: Floats
    positions: Floats | None
    gripper: float | None
    scale: float
    accelerations: Floats | None = None


class CommandPath(Protocol):
    """One kind of command interface. Implementations keep what was last commanded; they never publish."""

    @property
    def names(self) -> tuple[str, ...]:
        """Columns of a command: axes or joints."""

    def admit(self, chunk: ActionChunk, situation: Situation) -> AdmittedChunk:
        """Check and convert; raises ChunkRejected."""

    def toward(self, chunk: AdmittedChunk, progress_s: float, situation: Situation, speed: float) -> Motion | None:
        """The command `progress_s` into the chunk, at `speed` (0, 1] or, along the same path, slower.

        None if none keeps the limits: then brake.
        """

    def braking(self, situation: Situation) -> Motion | None:
        """The next command of a stop; None once the robot has been told to rest."""

    def breach(self, motion: Motion, situation: Situation) -> str:
        """What a finished motion breaks, in words; empty if nothing. Written apart from `toward` on purpose."""

    def commanded(self, motion: Motion, now_s: float) -> None:
        """`motion` has been released at `now_s`."""

    def forget(self) -> None:
        """Nothing has been commanded: the robot rests where it is."""

    def playing(self, situation: Situation) -> bool:
        """What was commanded last is still being played, if nothing else comes."""

    def clock_stepped(self, by_s: float) -> None:
        """The clock was set by so much [s]: what was kept in the old time moves with it."""


def gripper_ratio(commands: NDArray[np.floating], negative_opens: bool) -> NDArray[np.float64]:
    """Gripper commands in [-1, 1] -> opening ratio in [0, 1]; beyond the ends counts as the end."""
    signed = np.clip(np.asarray(commands, dtype=np.float64), -1.0, 1.0)
    ratio: NDArray[np.float64] = (1.0 - signed) / 2.0 if negative_opens else (1.0 + signed) / 2.0
    return ratio


def rotation_between(first: Floats, second: Floats) -> float:
    """Angle [rad] of the rotation that takes one rotation vector (3,) to another."""
    a, b = _quaternion(first), _quaternion(second)
    return 2.0 * math.acos(min(1.0, abs(float(np.dot(a, b)))))


def _quaternion(rotation: Floats) -> Floats:
    angle = float(np.linalg.norm(rotation))
    if angle < 1e-12:
        return np.array([0.0, 0.0, 0.0, 1.0])
    return np.append(np.asarray(rotation) / angle * math.sin(angle / 2.0), math.cos(angle / 2.0))
