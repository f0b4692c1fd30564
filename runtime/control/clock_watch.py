# SPDX-License-Identifier: Apache-2.0
"""Was the robot's clock set between two ticks? The machine's monotonic one tells by how much."""

from __future__ import annotations

from dataclasses import dataclass

_EDGE_S = 1e-6


@dataclass(frozen=True)
class ClockStep:
    """The clock shows `by_s` more than it would have shown [s]."""

    by_s: float
    text: str


class ClockWatch:
    """Two clocks at every tick; between two ticks the robot's goes by 0 to `most_s`, or it was set."""

    def __init__(self, most_s: float) -> None:
        self._most_s = most_s
        self._before: tuple[float, float] | None = None

    def look(self, now_s: float, wall_s: float) -> ClockStep | None:
        """What happened since the look before; None if nothing did."""
        before, self._before = self._before, (now_s, wall_s)
        if before is None or -_EDGE_S <= now_s - before[0] <= self._most_s:
            return None
        text = f"the clock went from {before[0]:.3f} s to {now_s:.3f} s between two ticks"
        return ClockStep(now_s - before[0] - (wall_s - before[1]), text)
