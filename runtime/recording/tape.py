# SPDX-License-Identifier: Apache-2.0
"""Clocks and a policy link that write down what they said, and ones that say it again.

Within one event (a tick, a sample, an operator's word) the loop asks for the time and for the policy's answer; an event
on tape holds every such answer in order. A replay that asks otherwise has left the recorded path: `Diverged`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from runtime.clock import Clock
from runtime.contract.guidance import Guidance
from runtime.control.observation import Snapshot
from runtime.control.policy_link import Answer, PolicyFailure, PolicyLink
from runtime.recording import values
from runtime.telemetry import StopCause

Event = dict[str, Any]
CLOCK, WALL, LINK = "clock", "wall", "link"
DECISION = "decision"  # an event of the gatekeeper: when, motion, reasons, instruction; it changes no controller


class Diverged(Exception):
    """The replay does something else than what was recorded."""


def _guidance(said: Guidance | None) -> list[Any]:
    """What follows a question on tape: nothing where nothing was said."""
    return [] if said is None else [[values.array(said.commands), values.array(said.weights)]]


class Tape:
    """The event that is going on; `keep` gets each one when it is over. Outside an event nothing is written."""

    def __init__(self, keep: Callable[[Event], None]) -> None:
        self._keep = keep
        self._event: Event | None = None
        self._count = 0

    @contextmanager
    def event(self, call: str, arguments: Mapping[str, Any]) -> Iterator[Event]:
        """One event; an event within an event is part of it. What is raised is written down and goes on."""
        if self._event is not None:
            yield {}
            return
        event: Event = {"n": self._count, "call": call, "args": dict(arguments), CLOCK: [], WALL: [], LINK: []}
        self._event, self._count = event, self._count + 1
        try:
            yield event
        except Exception as error:
            event["raised"] = f"{type(error).__name__}: {error}"
            raise
        finally:
            self._event = None
            self._keep(event)

    def said(self, who: str, what: Any) -> None:
        """An answer that the loop was given."""
        if self._event is not None:
            self._event[who].append(what)


class RecordedClock:
    """A clock that writes down what it says."""

    def __init__(self, clock: Clock, tape: Tape, name: str) -> None:
        self._clock, self._tape, self._name = clock, tape, name

    def now(self) -> float:
        """Seconds of the clock."""
        value = self._clock.now()
        self._tape.said(self._name, values.number(value))
        return value

    def sleep(self, duration_s: float) -> None:
        """Wait."""
        self._clock.sleep(duration_s)


class RecordedLink:
    """A policy link that writes down what it says."""

    def __init__(self, link: PolicyLink, tape: Tape) -> None:
        self._link, self._tape = link, tape

    @property
    def in_flight(self) -> bool:
        """A question is out."""
        out = self._link.in_flight
        self._tape.said(LINK, ["in_flight", out])
        return out

    def ask(self, snapshot: Snapshot, instruction: str, guidance: Guidance | None = None) -> None:
        """Send the question."""
        question, told = ["ask", values.number(snapshot.stamp_s), instruction], _guidance(guidance)
        try:
            self._link.ask(snapshot, instruction, guidance)
        except PolicyFailure as failure:
            self._tape.said(LINK, [*question, [failure.cause.value, str(failure)], *told])
            raise
        self._tape.said(LINK, [*question, None, *told])

    def answer(self) -> Answer | None:
        """The answer, or None."""
        try:
            found = self._link.answer()
        except PolicyFailure as failure:
            self._tape.said(LINK, ["answer", None, [failure.cause.value, str(failure)]])
            raise
        told = None if found is None else [values.chunk(found.chunk), values.number(found.infer_s)]
        self._tape.said(LINK, ["answer", told, None])
        return found


class Playback:
    """What the parts of a replay share: the event that is being done again."""

    def __init__(self) -> None:
        self._event: Mapping[str, Any] = {}
        self._next = {CLOCK: 0, WALL: 0, LINK: 0}

    def begin(self, event: Mapping[str, Any]) -> None:
        """From now on answers come from this event."""
        self._event, self._next = event, dict.fromkeys(self._next, 0)

    def finish(self) -> None:
        """Everything that was said then has been asked for. Raises Diverged."""
        left = {who: len(self._event[who]) - used for who, used in self._next.items() if len(self._event[who]) != used}
        if left:
            raise Diverged(f"{left} recorded answers were not asked for")

    def say(self, who: str) -> Any:
        """The next answer. Raises Diverged when there is none."""
        said = self._event.get(who, [])
        if self._next[who] >= len(said):
            raise Diverged(f"asks {who} once more than was recorded ({len(said)} times)")
        self._next[who] += 1
        return said[self._next[who] - 1]


class ReplayedClock:
    """Says what the recorded clock said."""

    def __init__(self, playback: Playback, name: str) -> None:
        self._playback, self._name = playback, name

    def now(self) -> float:
        """Seconds, as recorded."""
        return values.to_number(self._playback.say(self._name))

    def sleep(self, duration_s: float) -> None:
        """Nothing waits in a replay."""


class ReplayedLink:
    """Says what the recorded policy said."""

    def __init__(self, playback: Playback) -> None:
        self._playback = playback

    @property
    def in_flight(self) -> bool:
        """A question was out."""
        return bool(self._told("in_flight")[1])

    def ask(self, snapshot: Snapshot, instruction: str, guidance: Guidance | None = None) -> None:
        """The same question as then. Raises Diverged, or the failure of then."""
        told = self._told("ask")
        if _guidance(guidance) != told[4:]:
            raise Diverged(f"asks about the observation of {snapshot.stamp_s} s with other guidance than was recorded")
        if (values.number(snapshot.stamp_s), instruction) != (told[1], told[2]):
            raise Diverged(f"asks about the observation of {snapshot.stamp_s} s, recorded was {told[1]} s")
        self._fail(told[3])

    def answer(self) -> Answer | None:
        """The answer of then."""
        told = self._told("answer")
        self._fail(told[2])
        return None if told[1] is None else Answer(values.to_chunk(told[1][0]), values.to_number(told[1][1]))

    def _told(self, what: str) -> list[Any]:
        told: list[Any] = self._playback.say(LINK)
        if told[0] != what:
            raise Diverged(f"asks the policy for {what}, recorded was {told[0]}")
        return told

    @staticmethod
    def _fail(failure: list[str] | None) -> None:
        if failure is not None:
            raise PolicyFailure(StopCause(failure[0]), failure[1])
