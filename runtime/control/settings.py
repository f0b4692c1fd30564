# SPDX-License-Identifier: Apache-2.0
"""How the loop runs: every number that an operator may choose, with its default."""

from __future__ import annotations

from dataclasses import dataclass, field

from runtime.control.blend import Blend
from runtime.control.scheduler import Pace


@dataclass(frozen=True)
class Settings:
    """How the loop runs; seconds.

    Attributes:
        pace: when to ask.
        ramp_in_s: time from rest to full speed after a start; 0 for none.
        late_speed: speed while an answer is overdue.
        permit_timeout_s: a permission older than this is none.
        require_permit: the guard must say so all the time.
        require_enable: an operator's enabling input must be held all the time.
        max_rejects: chunks rejected one after the other before it is a fault.
        max_pause_s: time that may be spent waiting for a fresh chunk before it is a fault.
        lockstep: a simulation's time stands still until a command comes, so every tick waits for the observation of its
            own instant and for the answer to it. Never for a robot.
        max_clock_step_s: a larger step of the clock during motion is a fault.
        max_duration_s: of a task without one of its own.
        blend: how a new chunk meets the one in use.
        follow_rad: distance of a joint from its command that may last.
        follow_lag_s: how far behind its commands an arm may run.
        follow_patience_s: how long a distance may last; longer is a fault.
        send_within_s: a joint command that is ready so long after its tick began is not sent, and is a fault; below
            `limits.splice_s` by the time that a message is under way.
    """

    pace: Pace
    ramp_in_s: float = 1.0
    late_speed: float = 0.5
    permit_timeout_s: float = 0.2
    require_permit: bool = True
    require_enable: bool = False
    max_rejects: int = 3
    max_pause_s: float = 2.0
    lockstep: bool = False
    max_clock_step_s: float = 0.5
    max_duration_s: float = 120.0
    blend: Blend = field(default_factory=Blend)
    follow_rad: float = 0.05
    follow_lag_s: float = 0.15
    follow_patience_s: float = 0.1
    send_within_s: float = 0.014
