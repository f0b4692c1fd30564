# SPDX-License-Identifier: Apache-2.0
"""When the simulated robot takes its next step: in lockstep with whoever commands it, or by the wall clock."""

from __future__ import annotations

import math
from enum import Enum
from typing import Protocol

from runtime.clock import Clock

REPEAT_S = 0.1  # of an observation that nobody has answered yet
ON_TIME_NS = 1_000_000  # a command may be stamped so much before the observation that it answers
IDLE_WAIT_S = 0.2


class Turn(Enum):
    """What to do now."""

    WAIT = "wait"
    REPEAT = "repeat"
    STEP = "step"


class Pace(Protocol):
    """Two implementations; all times of `wait_s` are wall clock seconds."""

    def began(self, stamp_ns: int) -> None:
        """A scene begins, its first observation is stamped `stamp_ns`."""

    def stepped(self, stamp_ns: int) -> None:
        """The observation after a step, stamped `stamp_ns`, is being published."""

    def commanded(self, stamp_ns: int) -> None:
        """A motion command was accepted that holds from `stamp_ns`."""

    def turn(self) -> Turn:
        """What is due; a STEP is due until `stepped`, a REPEAT is told once."""

    def wait_s(self) -> float:
        """How long nothing will be due unless something arrives."""


class Lockstep:
    """Time stands still until the observation is answered by a command with the same stamp or a newer one.

    While it waits, the observation is repeated every REPEAT_S of wall clock, for who came late or lost a message, and
    as a sign of life. Before the first command of a scene it waits for ever. After it, a commander that is silent for
    `hold_after_s` of wall clock loses its turn: the step is taken with what was commanded before (which times out), so
    that time, and faults with it, go on.
    """

    def __init__(self, clock: Clock, hold_after_s: float) -> None:
        self._clock, self._hold_after_s = clock, hold_after_s
        self._stamp_ns: int | None = None
        self._answered = False
        self._repeat_at = self._hold_at = math.inf

    def began(self, stamp_ns: int) -> None:
        """Wait for the first command."""
        self._wait_for(stamp_ns, math.inf)

    def stepped(self, stamp_ns: int) -> None:
        """Wait for the next command, or for the end of patience."""
        self._wait_for(stamp_ns, self._clock.now() + self._hold_after_s)

    def commanded(self, stamp_ns: int) -> None:
        """Answers the observation if it is not meant for an earlier one."""
        if self._stamp_ns is not None and stamp_ns >= self._stamp_ns - ON_TIME_NS:
            self._answered = True

    def turn(self) -> Turn:
        """STEP when answered or out of patience; REPEAT every REPEAT_S until then."""
        now = self._clock.now()
        if self._answered or now >= self._hold_at:
            return Turn.STEP
        if now < self._repeat_at:
            return Turn.WAIT
        self._repeat_at = now + REPEAT_S
        return Turn.REPEAT

    def wait_s(self) -> float:
        """Until the next repetition or the end of patience."""
        return max(0.0, min(IDLE_WAIT_S, min(self._repeat_at, self._hold_at) - self._clock.now()))

    def _wait_for(self, stamp_ns: int, hold_at: float) -> None:
        self._stamp_ns, self._answered, self._hold_at = stamp_ns, False, hold_at
        self._repeat_at = self._clock.now() + REPEAT_S


class RealTime:
    """A step every `period_s` of wall clock, on absolute deadlines; deadlines that were missed are left out."""

    def __init__(self, clock: Clock, period_s: float) -> None:
        self._clock, self._period_s = clock, period_s
        self._due_s: float | None = None
        self.missed = 0

    def began(self, stamp_ns: int) -> None:
        """The next step is one period from now."""
        self._due_s = self._clock.now() + self._period_s

    def stepped(self, stamp_ns: int) -> None:
        """On to the next deadline that is not past."""
        assert self._due_s is not None
        behind = int((self._clock.now() - self._due_s) / self._period_s)
        self.missed += behind
        self._due_s += (1 + behind) * self._period_s

    def commanded(self, stamp_ns: int) -> None:
        """Commands do not set the pace."""

    def turn(self) -> Turn:
        """STEP at the deadline."""
        return Turn.STEP if self._due_s is not None and self._clock.now() >= self._due_s else Turn.WAIT

    def wait_s(self) -> float:
        """Until the deadline."""
        return IDLE_WAIT_S if self._due_s is None else max(0.0, self._due_s - self._clock.now())
