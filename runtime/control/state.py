# SPDX-License-Identifier: Apache-2.0
"""What may happen next: the controller's state machine as one table.

    UNCONFIGURED -> INACTIVE -> IDLE -> ARMED -> RAMP_IN -> RUNNING <-> SLOWING
                                           ^        |  HOLDING (at rest, waits for a fresh chunk)
                                           |        v
                                         ENDING (controlled stop of a task that is over)
    any of them -> STOPPING -> FAULT_LATCHED -> (reset) -> IDLE

Nothing leads from a fault to motion but a reset, arming again and a new goal. What is not in the table is refused.
"""

from __future__ import annotations

from enum import Enum


class State(str, Enum):
    """Where the controller is."""

    UNCONFIGURED = "unconfigured"
    INACTIVE = "inactive"
    IDLE = "idle"
    ARMED = "armed"
    RAMP_IN = "ramp_in"
    RUNNING = "running"
    SLOWING = "slowing"
    HOLDING = "holding"
    ENDING = "ending"
    STOPPING = "stopping"
    FAULT_LATCHED = "fault_latched"


class Event(str, Enum):
    """What can happen."""

    CONFIGURED = "configured"
    CLEANED_UP = "cleaned_up"
    ACTIVATED = "activated"
    DEACTIVATED = "deactivated"
    ARMED = "armed"
    DISARMED = "disarmed"
    GOAL = "goal"
    RAMPED = "ramped"
    LATE = "late"
    ON_TIME = "on_time"
    STARVED = "starved"
    FRESH = "fresh"
    TASK_OVER = "task_over"
    AT_REST = "at_rest"
    FAULT = "fault"
    RESET = "reset"


TABLE: dict[tuple[State, Event], State] = {
    (State.UNCONFIGURED, Event.CONFIGURED): State.INACTIVE,
    (State.INACTIVE, Event.CLEANED_UP): State.UNCONFIGURED,
    (State.INACTIVE, Event.ACTIVATED): State.IDLE,
    (State.IDLE, Event.DEACTIVATED): State.INACTIVE,
    (State.IDLE, Event.ARMED): State.ARMED,
    (State.ARMED, Event.DISARMED): State.IDLE,
    (State.ARMED, Event.DEACTIVATED): State.INACTIVE,
    (State.ARMED, Event.GOAL): State.RAMP_IN,
    (State.RAMP_IN, Event.RAMPED): State.RUNNING,
    (State.RAMP_IN, Event.STARVED): State.HOLDING,
    (State.RAMP_IN, Event.TASK_OVER): State.ENDING,
    (State.RUNNING, Event.LATE): State.SLOWING,
    (State.RUNNING, Event.STARVED): State.HOLDING,
    (State.RUNNING, Event.TASK_OVER): State.ENDING,
    (State.SLOWING, Event.ON_TIME): State.RUNNING,
    (State.SLOWING, Event.STARVED): State.HOLDING,
    (State.SLOWING, Event.TASK_OVER): State.ENDING,
    (State.HOLDING, Event.FRESH): State.RAMP_IN,
    (State.HOLDING, Event.TASK_OVER): State.ENDING,
    (State.ENDING, Event.AT_REST): State.ARMED,
    (State.STOPPING, Event.AT_REST): State.FAULT_LATCHED,
    (State.FAULT_LATCHED, Event.DEACTIVATED): State.INACTIVE,
    (State.FAULT_LATCHED, Event.RESET): State.IDLE,
}
for _state in (State.IDLE, State.ARMED, State.RAMP_IN, State.RUNNING, State.SLOWING, State.HOLDING, State.ENDING):
    TABLE[_state, Event.FAULT] = State.STOPPING

ON_TASK = frozenset({State.RAMP_IN, State.RUNNING, State.SLOWING, State.HOLDING})
MOVING = ON_TASK | {State.ENDING, State.STOPPING}


class NotAllowed(Exception):
    """The event cannot happen in this state; the message says what can."""


class Machine:
    """The current state. `happen` changes it, and nothing else does."""

    def __init__(self) -> None:
        self.state = State.UNCONFIGURED

    def can(self, event: Event) -> bool:
        """Whether the table has an entry."""
        return (self.state, event) in TABLE

    def happen(self, event: Event) -> State:
        """The next state. Raises NotAllowed."""
        after = TABLE.get((self.state, event))
        if after is None:
            possible = sorted(known.value for state, known in TABLE if state is self.state)
            raise NotAllowed(f"{event.value} is not possible while {self.state.value}; possible: {', '.join(possible)}")
        self.state = after
        return after
