# SPDX-License-Identifier: Apache-2.0
"""Is a joint command sent in time? One that was made too late is not sent: the arm plays the stop that it has.

A joint command departs from the one before it `limits.splice_s` after its tick began. What reaches the controller later
finds the arm elsewhere, and the controller, which plays by absolute time, jumps there. So a tick that took too long (a
machine that is busy, a page fault, a stopped process) ends in a stop with its cause, and not in a jolt. What a message
loses on its way after that is covered by the rest of `splice_s`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from runtime.control.following import FollowedLoop
from runtime.control.task import Tick
from runtime.safety.motion import Situation
from runtime.safety.trajectory import CommandKind, SafeTrajectory
from runtime.telemetry import StopCause


class PunctualLoop(FollowedLoop):
    """The loop that withholds what is late."""

    _sent: SafeTrajectory | None = None
    _before: tuple[SafeTrajectory | None, Mapping[str, float] | None] = (None, None)  # of the last, if it is taken back
    _withheld: SafeTrajectory | None = None
    _left_s, _looked_s = 0.0, 0.0  # of the stop that is being played, in the controller's own time; when it was counted
    _held: Mapping[str, float] | None = None  # where that stop ends: the filter only knows what was withheld
    _began_s = -math.inf

    def tick(self) -> Tick:
        """Do what is due now."""
        self._began_s = self._wall.now()
        tick = super().tick()
        command = tick.command
        if command is None or command.kind is CommandKind.TWIST or self.settings.lockstep:
            return tick
        self._before, self._sent, self._held = (self._sent, self._held), command, None
        return tick if self.still_in_time() else replace(tick, state=self.state, command=None)

    def still_in_time(self) -> bool:
        """Whether the last tick's command may be sent now: to be asked again at the last moment. False: it must not be
        sent, and the arm stops."""
        command, took, most = self._sent, self._wall.now() - self._began_s, self.settings.send_within_s
        if command is None or self.settings.lockstep or took <= most:
            return True
        self._sent, self._held = self._before
        self._withhold(command)
        text = f"a command was ready {took:.3f} s after its tick began, at most {most:g} s is allowed; it was not sent"
        self.fault(StopCause.COMMAND_LATE, f"{text}, and the arm plays the stop of the one before")
        return False

    def _withhold(self, command: SafeTrajectory) -> None:
        """Nothing more is sent until the stop that was sent is over, and the one that was not would be."""
        sent = self._sent
        ends = [each.end_s for each in (sent, command) if each is not None]
        self._withheld, self._looked_s = command, command.start_s
        self._left_s = max(0.0, max(ends) - command.start_s)
        if sent is not None and sent.positions is not None:
            self._held = dict(zip(sent.names, sent.positions[-1].tolist(), strict=True))

    def _brake(self, now: float) -> SafeTrajectory | None:
        if self._withheld is None:
            return super()._brake(now)
        gone = min(max(0.0, now - self._looked_s), self.settings.max_clock_step_s)  # a clock may be set meanwhile
        self._left_s, self._looked_s = self._left_s - gone * self.speed_factor, now
        if self._left_s > 0.0 and self.speed_factor > 0.0:
            return None
        self._rests()
        return None

    def _situation(self, now: float) -> Situation:
        found = super()._situation(now)
        return found if self._held is None else replace(found, held=self._held)

    def _forget(self) -> None:
        super()._forget()
        self._withheld = None
