# SPDX-License-Identifier: Apache-2.0
"""A joint trajectory controller that takes, refuses and plays trajectories as ros2_control's does. Knows no ROS.

Rules after ros-controls/ros2_controllers @94e74de (2026-08-18), joint_trajectory_controller/src: branch `master`, and
`jazzy` @ed360c9 where the two agree; a comment names the function that a rule was read in. What that controller does
not do, this one does not do either: no limit is checked, nothing is compared with the measured state, a position that
is not a number is played. Left out: the action interface, tolerances, effort, partial joint lists, angle wraparound,
integration of velocity-only points, `decelerate_on_cancel`, `positions_upsampling`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from dropgate_sim.jtc_spline import Floats, Point, Setpoint, interpolate

STILL = float(np.finfo(np.float32).eps)  # validate_trajectory_msg: the last velocity may be so far from zero


class TrajectoryRefused(ValueError):
    """A trajectory that is not taken; what was played before goes on, and the sender is not told."""


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Points for `names`, from `stamp_ns` on; 0: from when it is first played."""

    names: tuple[str, ...]
    points: tuple[Point, ...]
    stamp_ns: int = 0


@dataclass(frozen=True)
class JtcSettings:
    """Parameters of the controller that matter here; defaults are those of ros2_controllers.

    Attributes:
        interpolate_from_desired_state: a new trajectory begins where the old one would be, not where the arm is
            measured (Jazzy and later; `open_loop_control` on Humble).
        allow_nonzero_velocity_at_trajectory_end: take trajectories that end in motion.
        allow_trajectory_replacement: keep the old trajectory until a stamp in the future, join there; a stamp in the
            past counts as now. Master only, where it is the default; Humble to Kilted play by absolute time.
        cmd_timeout_s: after the last point [s], hold where the arm is measured; 0 never.
        period_ns: of one control cycle.
    """

    interpolate_from_desired_state: bool = False
    allow_nonzero_velocity_at_trajectory_end: bool = False
    allow_trajectory_replacement: bool = False
    cmd_timeout_s: float = 0.0
    period_ns: int = 2_000_000


@dataclass
class _Playing:
    """The trajectory in use; its points are in the controller's own order of joints."""

    trajectory: Trajectory
    start_ns: int
    sampled: bool = False
    before_ns: int = 0
    before: Point | None = None
    arrived: bool = field(default=False)


class JointTrajectoryController:
    """`accept` when a message comes, `update` once per cycle.

    Args:
        names: joints, in the order of every array given or returned.
        settings: see there.
    """

    def __init__(self, names: Sequence[str], settings: JtcSettings | None = None) -> None:
        self.names, self.settings = tuple(names), settings or JtcSettings()
        self.scaling = 1.0
        self.desired = Setpoint.resting(np.zeros(len(self.names)))
        self._commanded, self._commanded_ns = self.desired, 0
        self._playing: _Playing | None = None
        self._waiting: Trajectory | None = None
        self._holding, self._time_ns = True, 0

    @property
    def holding(self) -> bool:
        """Nothing was sent since activation or time-out: the arm stands where it was measured then."""
        return self._holding

    @property
    def arrived(self) -> bool:
        """The last point has been reached."""
        return self._playing is None or self._playing.arrived

    def activate(self, measured: Floats) -> None:
        """on_activate: the measured joints (n,) are state, last command and what is held."""
        self.desired = self._commanded = Setpoint.resting(measured)
        self._commanded_ns, self._waiting, self._time_ns = 0, None, 0
        self._hold(measured)

    def set_scaling(self, factor: float) -> None:
        """set_scaling_factor: share of the trajectory's own time that a cycle goes on; negative ones are ignored."""
        if factor >= 0.0:
            self.scaling = factor

    def accept(self, trajectory: Trajectory, now_ns: int) -> None:
        """topic_callback: the newest trajectory that is valid replaces the one before, from the next cycle on.

        Raises TrajectoryRefused; the original writes a line to its log and nothing else.
        """
        self._validate(trajectory, now_ns)
        self._waiting, self._holding = trajectory, False

    def update(self, now_ns: int, measured: Floats, velocities: Floats | None = None) -> Setpoint:
        """One cycle at `now_ns`: what the hardware is told for its end.

        Args:
            now_ns: of this cycle.
            measured: positions (n,) [rad].
            velocities: (n,) [rad/s] where the arm has such a state interface.
        """
        if self._waiting is not None:
            self._replace(self._waiting, now_ns)
            self._waiting = None
        playing = self._playing
        if playing is None:
            return self._commanded
        if not playing.sampled:
            self._begin(playing, now_ns, measured, velocities)
        else:
            self._time_ns += round(self.settings.period_ns * self.scaling)
        self.desired = self._sample(playing, self._time_ns) or self.desired
        command = self._sample(playing, self._time_ns + self.settings.period_ns)
        if command is None:
            return self._commanded
        last_ns = playing.start_ns + playing.trajectory.points[-1].time_ns
        playing.arrived = self._time_ns + self.settings.period_ns >= last_ns
        self._commanded, self._commanded_ns = command, now_ns
        patience = self.settings.cmd_timeout_s
        if playing.arrived and not self._holding and 0.0 < patience < (self._time_ns - last_ns) * 1e-9:
            self._hold(measured)
        return command

    def _begin(self, playing: _Playing, now_ns: int, measured: Floats, speeds: Floats | None) -> None:
        """update, first sampling: the state before the message, and what its time is."""
        if self.settings.interpolate_from_desired_state:
            state, playing.before_ns = self._commanded, self._commanded_ns or now_ns
            before = Point(0, state.positions, state.velocities, state.accelerations)
        else:
            # what is not measured but in the message counts as zero (set_point_before_trajectory_msg)
            playing.before_ns = now_ns
            first = playing.trajectory.points[0]
            zeros = np.zeros(len(self.names))
            before = Point(
                0,
                np.array(measured, dtype=np.float64),
                zeros if speeds is None and first.velocities is not None else speeds,
                None if first.accelerations is None else zeros,
            )
        playing.before, playing.sampled = before, True
        playing.start_ns = playing.trajectory.stamp_ns or now_ns
        self._time_ns = now_ns

    def _sample(self, playing: _Playing, time_ns: int) -> Setpoint | None:
        """Trajectory::sample: by absolute time, so points that are past are not played; after the last one, hold it."""
        points, start = playing.trajectory.points, playing.start_ns
        assert playing.before is not None
        if time_ns < playing.before_ns:
            return None
        if time_ns < start + points[0].time_ns:
            return interpolate(playing.before, playing.before_ns, points[0], start + points[0].time_ns, time_ns)
        for one, two in itertools.pairwise(points):
            if start + one.time_ns <= time_ns < start + two.time_ns:
                return interpolate(one, start + one.time_ns, two, start + two.time_ns, time_ns)
        return Setpoint.reached(points[-1])

    def _replace(self, trajectory: Trajectory, now_ns: int) -> None:
        blends = self.settings.allow_trajectory_replacement and not self._holding
        old = self._playing
        trajectory = self._in_order(trajectory)
        if blends and old is not None and old.sampled and len(old.trajectory.points) > 1:
            trajectory = self._blended(old, trajectory, now_ns)
        self._playing = _Playing(trajectory, trajectory.stamp_ns)

    def _blended(self, old: _Playing, new: Trajectory, now_ns: int) -> Trajectory:
        """blend_with_active_trajectory: old points until the stamp, the old curve's state there, then the new points.

        Times are made relative to the present point of the old trajectory's own (scaled) time.
        """
        cursor, stamp = self._time_ns, new.stamp_ns
        begins = cursor + (round((stamp - now_ns) * self.scaling) if stamp > now_ns else 0)
        kept = [
            replace(point, time_ns=old.start_ns + point.time_ns - cursor)
            for point in old.trajectory.points
            if cursor < old.start_ns + point.time_ns < begins
        ]
        bridge = self._sample(old, begins)
        if bridge is not None and new.points[0].time_ns > 0:
            kept.append(Point(begins - cursor, bridge.positions, bridge.velocities, bridge.accelerations))
        moved = [replace(point, time_ns=begins + point.time_ns - cursor) for point in new.points]
        return Trajectory(self.names, (*kept, *moved), 0)

    def _hold(self, measured: Floats) -> None:
        """set_hold_position: the one point where the arm is *measured* now."""
        self._playing = _Playing(Trajectory(self.names, (Point(0, np.array(measured, dtype=np.float64)),)), 0)
        self._holding = True

    def _in_order(self, trajectory: Trajectory) -> Trajectory:
        """sort_to_local_joint_order: by name."""
        order = [trajectory.names.index(name) for name in self.names]

        def sorted_(values: Floats | None) -> Floats | None:
            return None if values is None else np.asarray(values, dtype=np.float64)[order]

        points = tuple(
            Point(p.time_ns, np.asarray(p.positions, dtype=np.float64)[order], sorted_(p.velocities),
                  sorted_(p.accelerations))
            for p in trajectory.points
        )  # fmt: skip
        return Trajectory(self.names, points, trajectory.stamp_ns)

    def _validate(self, trajectory: Trajectory, now_ns: int) -> None:
        """validate_trajectory_msg, in its order."""
        names, points = trajectory.names, trajectory.points
        if len(names) != len(self.names) or any(name not in names for name in self.names):
            raise TrajectoryRefused(f"joints are {list(names)}, expected {list(self.names)} in any order")
        if not points:
            raise TrajectoryRefused("the trajectory has no points")
        last = points[-1]
        if last.velocities is not None and not self.settings.allow_nonzero_velocity_at_trajectory_end:
            fast = [abs(value) > STILL for value in last.velocities]  # of a NaN this is False: it passes
            if any(fast):
                raise TrajectoryRefused(f"the last point moves at {list(last.velocities)} rad/s, expected rest")
        if trajectory.stamp_ns and trajectory.stamp_ns + last.time_ns < now_ns:
            late = (now_ns - trajectory.stamp_ns - last.time_ns) * 1e-9
            raise TrajectoryRefused(f"the trajectory has ended {late:.3f} s ago")
        for k, point in enumerate(points):
            if k and point.time_ns <= points[k - 1].time_ns:
                raise TrajectoryRefused(
                    f"point {k} is at {point.time_ns * 1e-9} s, not after {points[k - 1].time_ns * 1e-9} s"
                )
            for what, given in (("positions", point.positions), ("velocities", point.velocities),
                                ("accelerations", point.accelerations)):  # fmt: skip
                if given is not None and len(given) != len(names):
                    raise TrajectoryRefused(f"point {k} has {len(given)} {what} for {len(names)} joints")
