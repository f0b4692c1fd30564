# SPDX-License-Identifier: Apache-2.0
"""The independent watchdog: says whether motion is permitted. It may only take permission away, never start anything.

It lives in a process of its own and looks at what the controller cannot judge about itself: that it is alive, that
nobody else commands the arm, that the robot still reports.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from runtime.clock import Clock


@dataclass(frozen=True)
class GuardSettings:
    """Greatest silences [s] of wall time.

    Attributes:
        heartbeat_s: of the controller.
        joints_s: of the robot's joint states.
        require_enable: an operator's enabling input must be held too.
        enable_s: of that input.
        watch_program: the driver says, once and on every change, whether its program runs on the robot; it must.
        watch_scaling: the driver says all the time how much of the speed the robot goes, 0 to 1.
        least_scaling: less is no permission. A joint_trajectory_controller up to Kilted begins each new trajectory by
            absolute time however slow its own goes, so a stream jolts while it is slowed (docs/online.md).
        scaling_s: of that report.
        words: (what, greatest silence [s]) of everything else that the driver says of its robot; 0 where it is said on
            a change only, and then once is enough. All of it must have been heard, and none may object.
    """

    heartbeat_s: float = 0.3
    joints_s: float = 0.5
    require_enable: bool = False
    enable_s: float = 0.2
    watch_program: bool = False
    watch_scaling: bool = False
    scaling_s: float = 0.5
    least_scaling: float = 0.99
    words: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        for name in ("heartbeat_s", "joints_s", "enable_s", "scaling_s"):
            if not 0.0 < getattr(self, name) < 60.0:
                raise ValueError(f"guard: {name} is {getattr(self, name)}, expected seconds above 0 and below 60")
        if not 0.0 < self.least_scaling <= 1.0:
            raise ValueError(f"guard: least_scaling is {self.least_scaling}, expected a share in (0, 1]")
        for what, silence_s in self.words:
            if not 0.0 <= silence_s < 60.0:
                raise ValueError(f"guard: silence of {what} is {silence_s}, expected seconds from 0 to below 60")


class Guard:
    """Collects signs of life; `objection` says what is missing."""

    def __init__(self, settings: GuardSettings, wall: Clock) -> None:
        self._settings, self._wall = settings, wall
        self._beat: int | None = None
        self._seen: dict[str, float] = {}
        self.publishers = 0
        self._running: bool | None = None
        self._scaling = 1.0
        self._words: dict[str, str] = {}
        self._permitted, self._first = False, ""

    @property
    def first(self) -> str:
        """The objection that took a permission away that had been there, until it is back; others follow the first."""
        return self._first

    def heartbeat(self, count: int) -> None:
        """The controller's counter; only a counter that moves is a sign of life."""
        if count != self._beat:
            self._beat = count
            self._seen["heartbeat"] = self._wall.now()

    def joints(self) -> None:
        """The robot has reported."""
        self._seen["joints"] = self._wall.now()

    def enable(self, held: bool) -> None:
        """The enabling input; letting go counts at once."""
        if held:
            self._seen["enable"] = self._wall.now()
        else:
            self._seen.pop("enable", None)
        self.objection()

    def program(self, running: bool) -> None:
        """The driver: its program runs on the robot, or a vendor's stop or the pendant has ended it."""
        self._running = running
        self.objection()

    def word(self, what: str, objection: str) -> None:
        """The driver about its robot's `what`: why it forbids motion, or empty."""
        self._words[what], self._seen[what] = objection, self._wall.now()
        self.objection()

    def scaling(self, share: float) -> None:
        """The driver: share of the speed that the robot goes, 0 to 1."""
        self._scaling = share
        self._seen["scaling"] = self._wall.now()
        self.objection()

    def objection(self) -> str:
        """Why motion is not permitted, in words; empty if it is."""
        found = self._found()
        if not found:
            self._permitted, self._first = True, ""
        elif self._permitted:
            self._permitted, self._first = False, found
        return found

    def _found(self) -> str:
        settings = self._settings
        watched = [("heartbeat", settings.heartbeat_s, "the controller"), ("joints", settings.joints_s, "the robot")]
        if settings.require_enable:
            watched.append(("enable", settings.enable_s, "the enabling input"))
        if settings.watch_scaling:
            watched.append(("scaling", settings.scaling_s, "the robot's speed scaling"))
        watched += [(what, silence_s or math.inf, f"the robot's {what}") for what, silence_s in settings.words]
        for name, limit, who in watched:
            seen = self._seen.get(name)
            if seen is None:
                return f"nothing has been heard from {who}"
            if self._wall.now() - seen > limit:
                return f"{who} has been silent for {self._wall.now() - seen:.2f} s, at most {limit:g} s is allowed"
        for what, _ in settings.words:
            if self._words[what]:
                return f"the robot's {what} {self._words[what]}"
        if settings.watch_program and not self._running:
            if self._running is None:
                return "nothing has been heard of the driver's program"
            return "the driver's program does not run: a stop of the robot's own safety, or at the pendant"
        if settings.watch_scaling and not self._scaling >= settings.least_scaling:
            return f"the robot's speed scaling is {self._scaling:g}, expected at least {settings.least_scaling:g}"
        if self.publishers > 1:
            return f"{self.publishers} nodes publish commands for this arm, expected one"
        return ""
