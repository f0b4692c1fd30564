# SPDX-License-Identifier: Apache-2.0
"""The task in hand, and what one tick came to: plain data for whoever shows it."""

from __future__ import annotations

from dataclasses import dataclass, field

from runtime.control.policy_link import Answer
from runtime.control.settings import Settings
from runtime.control.state import State
from runtime.safety.motion import AdmittedChunk
from runtime.safety.trajectory import SafeTrajectory
from runtime.telemetry import LatencyHistogram, StopCause


@dataclass
class Task:
    """The task in hand and what became of it."""

    instruction: str
    max_duration_s: float
    speed_scale: float
    started_s: float
    moving_since_s: float | None = None
    waiting_since_s: float | None = None
    starved_since_s: float | None = None
    chunks: int = 0
    commands: int = 0
    rejected: int = 0
    rejected_in_a_row: int = 0
    skewed: str = ""
    cause: StopCause = StopCause.NONE
    text: str = ""


@dataclass(frozen=True)
class Tick:
    """What one tick came to.

    Attributes:
        state: afterwards.
        command: to publish now, or None.
        answer, admitted: a chunk that arrived in this tick, and what the filter made of it.
        ended: the task that is over and at rest since this tick.
    """

    state: State
    command: SafeTrajectory | None = None
    answer: Answer | None = None
    admitted: AdmittedChunk | None = None
    ended: Task | None = None


@dataclass
class Latencies:
    """Seconds: of a tick, of an inference, from the observation to the command made from it."""

    tick: LatencyHistogram = field(default_factory=LatencyHistogram)
    inference: LatencyHistogram = field(default_factory=LatencyHistogram)
    observation_to_command: LatencyHistogram = field(default_factory=LatencyHistogram)


def speed_of(task: Task, state: State, settings: Settings, now_s: float) -> float:
    """Share of the intended tempo: the goal's, the ramp's, and less while an answer is overdue."""
    speed = task.speed_scale * (settings.late_speed if state is State.SLOWING else 1.0)
    if state is not State.RAMP_IN or settings.ramp_in_s <= 0.0:
        return speed
    since = 0.0 if task.moving_since_s is None else now_s - task.moving_since_s
    return speed * min(1.0, max(0.05, since / settings.ramp_in_s))
