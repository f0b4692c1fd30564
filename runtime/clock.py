# SPDX-License-Identifier: Apache-2.0
"""Injected time [s]: monotonic on the robot, hand-driven in tests. Durations and ages never use the wall clock."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Time source. `now` never goes back; `sleep` returns at or after the requested duration."""

    def now(self) -> float:
        """Seconds since an arbitrary origin."""

    def sleep(self, duration_s: float) -> None:
        """Wait `duration_s` seconds; zero or negative returns at once."""


class MonotonicClock:
    """The machine's monotonic clock."""

    def now(self) -> float:
        """Seconds since an arbitrary origin (`time.monotonic`)."""
        return time.monotonic()

    def sleep(self, duration_s: float) -> None:
        """Block the calling thread for `duration_s` seconds."""
        if duration_s > 0.0:
            time.sleep(duration_s)


class FakeClock:
    """A clock that moves only when told: `sleep` and `advance` add to it and return at once."""

    def __init__(self, start_s: float = 0.0) -> None:
        self._now_s = float(start_s)

    def now(self) -> float:
        """Current fake time [s]."""
        return self._now_s

    def sleep(self, duration_s: float) -> None:
        """Move time forward by `duration_s`; zero or negative does nothing."""
        self._now_s += max(0.0, duration_s)

    def advance(self, duration_s: float) -> None:
        """Move time forward by `duration_s` [s]; ValueError if negative, because this clock is monotonic too."""
        if duration_s < 0.0:
            raise ValueError(
                f"FakeClock.advance: found {duration_s} s, expected >= 0: a monotonic clock never goes back"
            )
        self._now_s += duration_s
