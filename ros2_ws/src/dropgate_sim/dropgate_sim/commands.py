# SPDX-License-Identifier: Apache-2.0
"""What the simulated arm was told, and what that means for its next control step. Knows no ROS and no simulator.

A twist holds until a newer one comes, for at most COMMAND_TIMEOUT_NS (as MoveIt Servo's `incoming_command_timeout`);
a trajectory brings its own end; a gripper command stays. Times are integer nanoseconds of the robot's own clock.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

STEP_S = 0.05  # LIBERO controls at 20 Hz
STEP_NS = 50_000_000
COMMAND_TIMEOUT_NS = 100_000_000
OSC_SCALE = (0.05,) * 3 + (0.5,) * 3  # robosuite OSC_POSE: metres and radians of target offset per command of 1.0
GRIPPER_OPENS, GRIPPER_CLOSES = -1.0, 1.0  # LIBERO's gripper command; only its sign has an effect
OPEN_FROM = 0.5  # opening ratio from which the fingers open

Floats = NDArray[np.float64]


class CommandRefused(ValueError):
    """A command that the arm does not take; what it did before goes on (and times out)."""


class TwistInput:
    """The newest twist; `action` turns it into the motion part of an OSC_POSE action.

    Args:
        frame: the frame in which twists must be given; robosuite's deltas are along the axes of `world`.
    """

    def __init__(self, frame: str) -> None:
        self._frame = frame
        self.forget()

    def forget(self) -> None:
        """Nothing was commanded."""
        self._twist, self._stamp_ns = np.zeros(6), -COMMAND_TIMEOUT_NS

    def accept(self, twist: Sequence[float] | Floats, frame: str, stamp_ns: int, now_ns: int) -> None:
        """Takes (6,) [m/s, rad/s] that hold from `stamp_ns`. Raises CommandRefused."""
        values = _finite(twist, (6,), "twist")
        if frame != self._frame:
            raise CommandRefused(
                f"twist is in frame {frame!r}, expected {self._frame!r}. Next: set command.frame in the parameter file"
            )
        _on_time(stamp_ns, now_ns, "twist")
        if stamp_ns < self._stamp_ns:
            raise CommandRefused(f"twist is {(self._stamp_ns - stamp_ns) * 1e-9:.3f} s older than the one before it")
        self._twist, self._stamp_ns = values, stamp_ns

    def action(self, now_ns: int) -> Floats:
        """(6,) in OSC commands; zero once the newest twist is COMMAND_TIMEOUT_NS old.

        Rounded to float32, which is what policies answer: so dividing by `dt` on one side and multiplying on the
        other leaves no trace, and an unfiltered command arrives bit for bit as it would in process.
        """
        if now_ns - self._stamp_ns >= COMMAND_TIMEOUT_NS:
            return np.zeros(6)
        return (self._twist * STEP_S / np.array(OSC_SCALE)).astype(np.float32).astype(np.float64)


class TrajectoryInput:
    """The newest joint trajectory, followed from its start to its end, where the arm stays.

    Args:
        names: arm joints in the robot's order; a command may have any order, never other joints.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._times_ns: NDArray[np.int64] = np.zeros(0, dtype=np.int64)

    def rest(self, positions: Floats, now_ns: int) -> None:
        """Nothing was commanded: stay at `positions` (n,) [rad]."""
        self._times_ns = np.array([now_ns], dtype=np.int64)
        self._positions = np.array(positions, dtype=np.float64)[None]
        self._velocities = np.zeros_like(self._positions)

    def accept(
        self,
        names: Sequence[str],
        times_s: Sequence[float],
        positions: Sequence[Sequence[float]],
        velocities: Sequence[Sequence[float]],
        stamp_ns: int,
        now_ns: int,
    ) -> None:
        """Takes points (n, joints) [rad, rad/s] at `times_s` [s] after `stamp_ns` (0: now).

        Until the first point the arm goes there from its present set point. Raises CommandRefused.
        """
        if sorted(names) != sorted(self.names):
            raise CommandRefused(f"trajectory names the joints {list(names)}, expected {list(self.names)}")
        if not len(times_s):
            raise CommandRefused("trajectory has no points")
        start_ns = stamp_ns or now_ns
        _on_time(start_ns, now_ns, "trajectory")
        shape = (len(times_s), len(self.names))
        after = _finite(times_s, shape[:1], "trajectory time_from_start")
        if after[0] < 0.0 or (np.diff(after) <= 0.0).any():
            raise CommandRefused(f"trajectory times are {list(times_s)}, expected rising seconds from 0")
        order = [list(names).index(name) for name in self.names]
        here = self.sample(now_ns)
        places = _finite(positions, shape, "trajectory positions")[:, order]
        speeds = _finite(velocities, shape, "trajectory velocities")[:, order]
        times_ns = start_ns + np.round(after * 1e9).astype(np.int64)
        if times_ns[0] > now_ns:
            times_ns = np.concatenate([[now_ns], times_ns])
            places, speeds = np.concatenate([here[0][None], places]), np.concatenate([here[1][None], speeds])
        self._times_ns, self._positions, self._velocities = times_ns, places, speeds

    def sample(self, time_ns: int) -> tuple[Floats, Floats]:
        """Positions and velocities, (n,) each, by cubic Hermite interpolation; at rest after the last point."""
        last = len(self._times_ns) - 1
        i = int(np.searchsorted(self._times_ns, time_ns, side="right")) - 1
        if i < 0:
            return self._positions[0].copy(), np.zeros(len(self.names))
        if i >= last:
            return self._positions[last].copy(), np.zeros(len(self.names))
        span = float(self._times_ns[i + 1] - self._times_ns[i]) * 1e-9
        u = float(time_ns - self._times_ns[i]) * 1e-9 / span
        p0, p1, m0, m1 = self._positions[i], self._positions[i + 1], self._velocities[i], self._velocities[i + 1]
        place = (
            (2 * u**3 - 3 * u**2 + 1) * p0
            + (u**3 - 2 * u**2 + u) * span * m0
            + (3 * u**2 - 2 * u**3) * p1
            + (u**3 - u**2) * span * m1
        )
        speed = 6 * (u - u**2) / span * (p1 - p0) + (3 * u**2 - 4 * u + 1) * m0 + (3 * u**2 - 2 * u) * m1
        return place, speed


class GripperInput:
    """The newest gripper command; LIBERO's scenes begin with open fingers."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Open, as after a reset."""
        self.action = GRIPPER_OPENS

    def accept(self, ratio: float) -> None:
        """Takes an opening ratio, 0 closed to 1 open. Raises CommandRefused."""
        value = float(_finite([ratio], (1,), "gripper command")[0])
        if not 0.0 <= value <= 1.0:
            raise CommandRefused(f"gripper command is {value}, expected an opening ratio from 0 (closed) to 1 (open)")
        self.action = GRIPPER_OPENS if value >= OPEN_FROM else GRIPPER_CLOSES


def _finite(values: object, shape: tuple[int, ...], what: str) -> Floats:
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise CommandRefused(f"{what} is not numbers of shape {shape} ({error})") from error
    if array.shape != shape:
        raise CommandRefused(f"{what} has shape {array.shape}, expected {shape}")
    if not np.isfinite(array).all():
        raise CommandRefused(f"{what} is not finite: {array.tolist()}")
    return array


def _on_time(stamp_ns: int, now_ns: int, what: str) -> None:
    age = now_ns - stamp_ns
    if abs(age) >= COMMAND_TIMEOUT_NS:
        side = "old" if age > 0 else "ahead of the robot's clock"
        raise CommandRefused(
            f"{what} is stamped {abs(age) * 1e-9:.3f} s {side}, expected less than {COMMAND_TIMEOUT_NS * 1e-9:g} s. "
            "Next: compare the clocks (use_sim_time)"
        )
