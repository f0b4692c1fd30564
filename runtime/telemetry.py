# SPDX-License-Identifier: Apache-2.0
"""Why did the robot stop, and how long do things take? Closed causes, the first one kept; latency in fixed bins.

A leaf: imports nothing of ours, so that every layer may report.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import Any


class StopCause(str, Enum):
    """Every reason for which motion ends. Closed: a new reason is a new value here, never free text."""

    NONE = "none"
    CANCELLED = "cancelled"
    FINISHED = "finished"
    STOP_REQUESTED = "stop_requested"
    PERMIT_LOST = "permit_lost"
    ENABLE_LOST = "enable_lost"
    OBSERVATION_STALE = "observation_stale"
    OBSERVATION_MISSING = "observation_missing"
    OBSERVATION_SKEWED = "observation_skewed"
    OBSERVATION_FROZEN = "observation_frozen"
    OBSERVATION_INVALID = "observation_invalid"
    WORKER_DIED = "worker_died"
    WORKER_TIMEOUT = "worker_timeout"
    POLICY_ERROR = "policy_error"
    CHUNK_REJECTED = "chunk_rejected"
    CHUNK_LATE = "chunk_late"
    COMMAND_CONFLICT = "command_conflict"
    COMMAND_LATE = "command_late"
    NOT_FOLLOWING = "not_following"
    CLOCK_JUMP = "clock_jump"
    DEACTIVATED = "deactivated"
    INTERNAL_ERROR = "internal_error"


@dataclass(frozen=True)
class IncidentEvent:
    """One cause at `time_s` [s] (the reporter's clock), with one sentence for people."""

    cause: StopCause
    text: str
    time_s: float

    def to_json(self) -> dict[str, Any]:
        """Plain values; a time that is not finite is null."""
        return {
            "cause": self.cause.value,
            "text": self.text,
            "time_s": self.time_s if math.isfinite(self.time_s) else None,
        }


class Incident:
    """One stop: its first cause is the answer to "why"; what follows is appended, because it is often a consequence.

    Never cleared: a new attempt gets a new `Incident`. At most `MAX_EVENTS` are kept, the rest only counted.
    """

    MAX_EVENTS = 64

    def __init__(self) -> None:
        self._events: list[IncidentEvent] = []
        self.dropped = 0

    def record(self, cause: StopCause, text: str, time_s: float) -> bool:
        """Add a cause seen at `time_s` [s]; True if it is the first. ValueError for `StopCause.NONE`."""
        if cause is StopCause.NONE:
            raise ValueError(f"Incident.record: found cause 'none' ({text!r}), expected the reason of a stop")
        if len(self._events) >= self.MAX_EVENTS:
            self.dropped += 1
            return False
        self._events.append(IncidentEvent(cause, text, time_s))
        return len(self._events) == 1

    @property
    def first(self) -> IncidentEvent | None:
        """The event that began it, or None while nothing has happened."""
        return self._events[0] if self._events else None

    @property
    def later(self) -> tuple[IncidentEvent, ...]:
        """What came after the first, in order of arrival."""
        return tuple(self._events[1:])

    @property
    def cause(self) -> StopCause:
        """Cause of the first event; NONE while nothing has happened."""
        return self._events[0].cause if self._events else StopCause.NONE

    @property
    def text(self) -> str:
        """Text of the first event; empty while nothing has happened."""
        return self._events[0].text if self._events else ""

    def to_json(self) -> dict[str, Any]:
        """Plain values: cause and text of the first event, all events, how many were dropped."""
        events = [event.to_json() for event in self._events]
        return {"cause": self.cause.value, "text": self.text, "events": events, "dropped": self.dropped}


def _edges(low_s: float, decades: int, per_decade: int) -> tuple[float, ...]:
    return tuple(low_s * 10.0 ** (step / per_decade) for step in range(decades * per_decade + 1))


class LatencyHistogram:
    """Durations [s] in log-spaced bins from 10 us to 100 s, plus one bin below and one above. One writer.

    Adding costs the same however many were added. A percentile is the upper edge of its bin (never more than the
    maximum seen), so it may overstate by at most 4.8 % and does not understate; below 10 us it says 10 us or the
    maximum. Without samples percentiles and maximum are NaN: nothing measured is not fast.
    """

    LOW_S, DECADES, PER_DECADE = 1e-5, 7, 50
    EDGES_S = _edges(LOW_S, DECADES, PER_DECADE)

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all samples."""
        self._counts = [0] * (len(self.EDGES_S) + 1)
        self._count = 0
        self._max_s = math.nan

    def add(self, duration_s: float) -> None:
        """Count one duration [s]. ValueError if it is negative, NaN or infinite: the clock that gave it is wrong."""
        value = float(duration_s)
        if not 0.0 <= value < math.inf:
            raise ValueError(f"LatencyHistogram.add: found {value} s, expected a finite duration >= 0")
        self._counts[self._bin(value)] += 1
        self._count += 1
        if not value <= self._max_s:  # also when there is no maximum yet (NaN)
            self._max_s = value

    def _bin(self, value: float) -> int:
        """Index of the bin [EDGES_S[i - 1], EDGES_S[i]); the logarithm may miss by one at an edge."""
        if value < self.EDGES_S[0]:
            return 0
        if value >= self.EDGES_S[-1]:
            return len(self.EDGES_S)
        index = int(math.log10(value / self.LOW_S) * self.PER_DECADE) + 1
        index = min(max(index, 1), len(self.EDGES_S) - 1)
        if value < self.EDGES_S[index - 1]:
            return index - 1
        return index + 1 if value >= self.EDGES_S[index] else index

    def merge(self, other: LatencyHistogram) -> None:
        """Add the samples of another histogram; the bins are the same for all."""
        self._counts = [mine + theirs for mine, theirs in zip(self._counts, other._counts, strict=True)]
        if other._count and not other._max_s <= self._max_s:
            self._max_s = other._max_s
        self._count += other._count

    def percentile(self, percent: float) -> float:
        """Nearest-rank percentile [s], 0 < percent <= 100; NaN without samples."""
        if not 0.0 < percent <= 100.0:
            raise ValueError(f"LatencyHistogram.percentile: found {percent}, expected above 0 and at most 100")
        rank, seen = math.ceil(self._count * percent / 100.0), 0
        for index, count in enumerate(self._counts):
            seen += count
            if count and seen >= rank:
                return min(self.EDGES_S[index], self._max_s) if index < len(self.EDGES_S) else self._max_s
        return math.nan

    @property
    def count(self) -> int:
        """Number of samples."""
        return self._count

    @property
    def max_s(self) -> float:
        """Largest sample [s], exact; NaN without samples."""
        return self._max_s

    @property
    def p50_s(self) -> float:
        """Median [s]."""
        return self.percentile(50.0)

    @property
    def p95_s(self) -> float:
        """95th percentile [s]."""
        return self.percentile(95.0)

    @property
    def p99_s(self) -> float:
        """99th percentile [s]."""
        return self.percentile(99.0)

    def to_json(self) -> dict[str, Any]:
        """Summary, bin edges [s] and counts.

        `counts` holds one more number than `edges_s`: below the first edge, between edges, from the last edge on.
        A number that does not exist (no samples) is null.
        """
        summary = {"p50_s": self.p50_s, "p95_s": self.p95_s, "p99_s": self.p99_s, "max_s": self.max_s}
        return {
            "count": self._count,
            **{name: None if math.isnan(value) else value for name, value in summary.items()},
            "edges_s": list(self.EDGES_S),
            "counts": list(self._counts),
        }
