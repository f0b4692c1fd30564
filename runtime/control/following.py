# SPDX-License-Identifier: Apache-2.0
"""Does the arm do what it was told? Joint commands against the joints that are measured, a moment later.

A driver whose program has stopped, a vendor's protective stop, a controller that was switched away: commands go out,
nobody follows, and the distance grows until somebody lets the arm go. So a distance that lasts is a fault.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import numpy as np

from runtime.control.loop import ControlLoop
from runtime.control.state_map import ObservationProblem
from runtime.safety.motion import Measured, Situation
from runtime.safety.trajectory import CommandKind, SafeTrajectory
from runtime.telemetry import StopCause

KEPT_S = 1.0  # of commands: longer than any report may be old
LOOKS = 11  # instants of the past with which a report is compared


class Following:
    """Remembers what was commanded.

    Args:
        limit_rad: distance of any joint that may last.
        lag_s: how far behind an arm may run and still follow [s].
        patience_s: how long a distance may last [s].
    """

    def __init__(self, limit_rad: float, lag_s: float, patience_s: float) -> None:
        self._limit_rad, self._lag_s, self._patience_s = limit_rad, lag_s, patience_s
        self._sent: deque[SafeTrajectory] = deque()
        self._away_since_s: float | None = None

    def commanded(self, command: SafeTrajectory) -> None:
        """A command has been released; twists cannot be compared with joints."""
        if command.kind is not CommandKind.JOINT_TRAJECTORY:
            return
        self._sent.append(command)
        while len(self._sent) > 1 and self._sent[1].start_s < command.start_s - KEPT_S:
            self._sent.popleft()

    def problem(self, measured: Measured) -> str:
        """What is wrong, in words; empty while the arm follows, or nothing was commanded."""
        if not self._sent or not set(self._sent[-1].names) <= set(measured.joints):
            return ""
        here = np.array([measured.joints[name] for name in self._sent[-1].names])
        times = measured.stamp_s - np.linspace(0.0, self._lag_s, LOOKS)
        away = np.array([np.abs(self._where(float(time)) - here) for time in times if time >= self._sent[0].start_s])
        if not len(away) or away.max(axis=1).min() <= self._limit_rad:
            self._away_since_s = None
            return ""
        if self._away_since_s is None:
            self._away_since_s = measured.stamp_s
        lasted = measured.stamp_s - self._away_since_s
        if lasted < self._patience_s:
            return ""
        nearest = away[int(away.max(axis=1).argmin())]
        joint = int(nearest.argmax())
        return (
            f"{self._sent[-1].names[joint]} is {nearest[joint]:.3f} rad from where it was commanded, for {lasted:.2f} "
            f"s; at most {self._limit_rad:g} rad is allowed. Next: is the driver's program running, its speed scaled?"
        )

    def forget(self) -> None:
        """The arm rests."""
        self._sent.clear()
        self._away_since_s = None

    def _where(self, time_s: float) -> np.ndarray:
        command = next((c for c in reversed(self._sent) if c.start_s <= time_s), self._sent[0])
        return command.at(time_s)[0]


class FollowedLoop(ControlLoop):
    """The loop that also looks whether it is obeyed, and plans in the robot's own time."""

    speed_factor = 1.0  # 0 to 1, as the driver reports it: the controller's time goes so fast
    _following: Following | None = None

    def scaled(self, factor: float) -> None:
        """The driver's speed scaling; what is no share of a speed counts as 0."""
        self.speed_factor = min(1.0, factor) if factor >= 0.0 else 0.0

    def _situation(self, now: float) -> Situation:
        return replace(super()._situation(now), speed_factor=self.speed_factor)

    def _watch(self, now: float) -> None:
        super()._watch(now)
        following = self._following
        if following is None or self.task is None or self.task.cause is not StopCause.NONE:
            return
        try:
            problem = following.problem(self.buffer.measured(now))
        except ObservationProblem:
            return  # the loop has said so already
        if problem:
            self.fault(StopCause.NOT_FOLLOWING, problem)

    def _commanded(self, command: SafeTrajectory, now: float) -> SafeTrajectory:
        if self._following is None:
            settings = self.settings
            self._following = Following(settings.follow_rad, settings.follow_lag_s, settings.follow_patience_s)
        self._following.commanded(command)
        return super()._commanded(command, now)

    def _brake(self, now: float) -> SafeTrajectory | None:
        """A robot that is slowed plays the stop of the last command in its own time, and is sent nothing: a controller
        begins each new trajectory by absolute time, so every message would jolt. At speed 0 its own stop holds it, and
        what is left of ours must not be played later."""
        if self.speed_factor >= 1.0 or (self.speed_factor > 0.0 and self._filter.kind is CommandKind.TWIST):
            return super()._brake(now)
        if self.speed_factor > 0.0 and self._filter.playing(
            Situation(now, Measured(now), speed_factor=self.speed_factor)
        ):
            return None
        self._rests()
        return None

    def _forget(self) -> None:
        super()._forget()
        if self._following is not None:
            self._following.forget()
