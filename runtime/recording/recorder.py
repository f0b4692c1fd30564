# SPDX-License-Identifier: Apache-2.0
"""`RecordedController`: the controller, with a tape running. What it does is the controller's, untouched."""

from __future__ import annotations

from typing import Any

from runtime.clock import Clock
from runtime.control.controller import Controller
from runtime.control.observation import ObservationBuffer
from runtime.control.permission import Permission
from runtime.control.policy_link import PolicyLink
from runtime.control.settings import Settings
from runtime.control.task import Task, Tick
from runtime.recording import values
from runtime.recording.setup import Setup
from runtime.recording.tape import CLOCK, WALL, RecordedClock, RecordedLink, Tape
from runtime.safety.filter import SafetyFilter
from runtime.telemetry import StopCause


class RecordedBuffer(ObservationBuffer):
    """Writes down every sample that comes."""

    def __init__(self, setup: Setup, tape: Tape) -> None:
        super().__init__(setup.policy.observation, setup.state_map(), setup.joints, setup.needs_tcp)
        self._tape = tape

    def put(self, name: str, stamp_s: float, value: Any, now_s: float) -> bool:
        """Take a sample."""
        told = {"name": name, "stamp_s": values.number(stamp_s), "now_s": values.number(now_s)}
        with self._tape.event("put", told | {"value": values.sample(value)}) as event:
            event["out"] = taken = super().put(name, stamp_s, value, now_s)
        return taken


class RecordedPermission(Permission):
    """Writes down the words of guard and enabling input."""

    def __init__(self, settings: Settings, wall: Clock, tape: Tape) -> None:
        super().__init__(settings, wall)
        self._tape = tape

    def permit(self, granted: bool) -> None:
        """The guard's word."""
        with self._tape.event("permit", {"granted": granted}):
            super().permit(granted)

    def enable(self, held: bool) -> None:
        """The enabling input."""
        with self._tape.event("enable", {"held": held}):
            super().enable(held)


class RecordedController(Controller):
    """A controller whose every event goes to a tape."""

    def __init__(
        self, settings: Settings, filter_: SafetyFilter, buffer: RecordedBuffer, policy: PolicyLink, clock: Clock,
        wall: Clock, tape: Tape,
    ) -> None:  # fmt: skip
        clock, wall = RecordedClock(clock, tape, CLOCK), RecordedClock(wall, tape, WALL)
        super().__init__(settings, filter_, buffer, RecordedLink(policy, tape), clock, wall)
        self.permission = RecordedPermission(settings, wall, tape)
        self._tape = tape

    def tick(self) -> Tick:
        """Do what is due now."""
        with self._tape.event("tick", {}) as event:
            tick = super().tick()
            event["out"] = outcome(self, tick)
        return tick

    def still_in_time(self) -> bool:
        """See PunctualLoop."""
        with self._tape.event("still_in_time", {}) as event:
            event["out"] = kept = super().still_in_time()
        return kept

    def fault(self, cause: StopCause, text: str) -> None:
        """Stop and latch."""
        with self._tape.event("fault", {"cause": cause.value, "text": text}):
            super().fault(cause, text)

    def scaled(self, factor: float) -> None:
        """The driver's speed scaling."""
        with self._tape.event("scaled", {"factor": values.number(factor)}):
            super().scaled(factor)

    def activate(self) -> None:
        """See Controller."""
        with self._tape.event("activate", {}):
            super().activate()

    def deactivate(self) -> None:
        """See Controller."""
        with self._tape.event("deactivate", {}):
            super().deactivate()

    def arm(self, wanted: bool) -> None:
        """See Controller."""
        with self._tape.event("arm", {"wanted": wanted}):
            super().arm(wanted)

    def start(self, instruction: str, max_duration_s: float = 0.0, speed_scale: float = 1.0) -> Task:
        """See Controller."""
        told = {
            "instruction": instruction, "max_duration_s": values.number(max_duration_s),
            "speed_scale": values.number(speed_scale),
        }  # fmt: skip
        with self._tape.event("start", told):
            return super().start(instruction, max_duration_s, speed_scale)

    def cancel(self) -> None:
        """See Controller."""
        with self._tape.event("cancel", {}):
            super().cancel()

    def stop(self, text: str = "stop requested") -> None:
        """See Controller."""
        with self._tape.event("stop", {"text": text}):
            super().stop(text)

    def reset_fault(self) -> None:
        """See Controller."""
        with self._tape.event("reset_fault", {}):
            super().reset_fault()


def outcome(controller: Controller, tick: Tick) -> dict[str, Any]:
    """What came of a tick, every number of its command: recorded, and compared by a replay."""
    rows = None if tick.admitted is None else tick.admitted.rows
    return {
        "state": tick.state.value, "cause": controller.incident.cause.value, "text": controller.incident.text,
        "command": None if tick.command is None else values.command(tick.command),
        "admitted": None if rows is None else values.array(rows),
    }  # fmt: skip
