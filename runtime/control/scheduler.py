# SPDX-License-Identifier: Apache-2.0
"""Which row of which chunk is due, and when to ask for the next one.

A chunk starts at its observation, not at its arrival: what has passed in the meantime is dropped, never shifted. From
then on its own time runs at the commanded speed, so slowing down keeps to the path.
"""

from __future__ import annotations

from dataclasses import dataclass

from runtime.safety.motion import AdmittedChunk


@dataclass(frozen=True)
class Pace:
    """When the next chunk is asked for.

    Attributes:
        rows: rows of a chunk that are executed; the rest is a reserve for late answers.
        lead_s: how long before their end the next one is asked for [s]; 0 asks when they are over.
    """

    rows: int
    lead_s: float

    def __post_init__(self) -> None:
        if self.rows < 1 or not self.lead_s >= 0.0:
            raise ValueError(f"pace: rows {self.rows}, lead_s {self.lead_s}, expected at least 1 and at least 0")


class Scheduler:
    """Holds the chunk in use. Times in seconds of one clock."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._chunk: AdmittedChunk | None = None
        self._progress_s = 0.0
        self._at_s = 0.0

    @property
    def chunk(self) -> AdmittedChunk | None:
        """The chunk in use."""
        return self._chunk

    def splice(self, chunk: AdmittedChunk, now_s: float) -> bool:
        """Use `chunk` from now on; False if all of it is over already."""
        progress = now_s - chunk.stamp_s
        if chunk.index_at(progress) is None:
            return False
        self._chunk, self._progress_s, self._at_s = chunk, progress, now_s
        return True

    def advance(self, now_s: float, speed: float) -> None:
        """Time has passed, at `speed` [0, 1] of the chunk's own."""
        self._progress_s += max(0.0, now_s - self._at_s) * speed
        self._at_s = now_s

    def due(self) -> tuple[AdmittedChunk, float] | None:
        """The chunk in use and how far into it we are [s]; None once its rows are used up."""
        if self._chunk is None or self._chunk.index_at(self._progress_s) is None:
            return None
        return self._chunk, self._progress_s

    @property
    def behind_s(self) -> float:
        """How far the chunk in use has fallen behind its own times, because motion was slowed [s]."""
        return 0.0 if self._chunk is None else max(0.0, self._at_s - self._chunk.stamp_s - self._progress_s)

    @property
    def left_s(self) -> float:
        """Content left [s]; the queue."""
        return 0.0 if self._chunk is None else max(0.0, self._chunk.length_s - self._progress_s)

    def wants_next(self) -> bool:
        """The rows to be executed end within the lead."""
        if self._chunk is None:
            return True
        rows = min(self._pace.rows, len(self._chunk.rows)) * self._chunk.dt_s
        return self._progress_s >= rows - self._pace.lead_s - 1e-9

    def clear(self) -> None:
        """Forget the chunk: a stop leaves nothing to go on with."""
        self._chunk, self._progress_s = None, 0.0
