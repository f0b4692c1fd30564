# SPDX-License-Identifier: Apache-2.0
"""Do a recording again: the same code on the same inputs must release the same commands, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from runtime.control.controller import Controller
from runtime.errors import ContractError
from runtime.recording import values
from runtime.recording.recorder import outcome
from runtime.recording.setup import Setup
from runtime.recording.tape import CLOCK, DECISION, WALL, Diverged, Playback, ReplayedClock, ReplayedLink
from runtime.telemetry import StopCause


@dataclass(frozen=True)
class Replayed:
    """What a replay came to.

    Attributes:
        events, ticks, commands: how many were done again.
        difference: the first event that differs, in words; empty if none does.
        decisions: of the gatekeeper about arming and goals, in words and in order; they are told, not made again.
    """

    events: int
    ticks: int
    commands: int
    difference: str
    decisions: tuple[str, ...] = ()

    @property
    def same(self) -> bool:
        """Every command was the same to the bit."""
        return not self.difference


def replay(setup: Setup, events: Iterable[Mapping[str, Any]]) -> Replayed:
    """Do all events again, in order, until one differs.

    Raises:
        ContractError: an event is missing or not one.
    """
    playback = Playback()
    clock, wall = ReplayedClock(playback, CLOCK), ReplayedClock(playback, WALL)
    controller = Controller(setup.settings, setup.filter(), setup.buffer(), ReplayedLink(playback), clock, wall)
    count = ticks = commands = 0
    decisions: list[str] = []
    for event in events:
        if event.get("n") != count:
            raise ContractError(
                f"recording: event {event.get('n')!r} comes where {count} was expected: events are lost"
            )
        difference = _again(controller, playback, event)
        if difference:
            what = f"event {count}, {event['call']}: {difference}"
            return Replayed(count, ticks, commands, what, tuple(decisions))
        count += 1
        if event["call"] == "tick":
            out = event.get("out") or {}  # a tick that raised has none
            ticks, commands = ticks + 1, commands + (out.get("command") is not None)
        if event["call"] == DECISION:
            decisions.append(_decision(event["args"]))
    nothing = "" if count else "it holds no event: nothing was done again"
    return Replayed(count, ticks, commands, nothing, tuple(decisions))


def _decision(told: Mapping[str, Any]) -> str:
    """`goal "put it there": motion`, or with the reasons against it. Raises ContractError."""
    try:
        what = f'{told["when"]} "{told["instruction"]}"' if told["instruction"] else str(told["when"])
        return f"{what}: {'motion' if told['motion'] else 'no motion: ' + '; '.join(told['reasons'])}"
    except (KeyError, TypeError) as error:
        raise ContractError(f"recording: a decision is damaged ({type(error).__name__}: {error})") from error


def _again(controller: Controller, playback: Playback, event: Mapping[str, Any]) -> str:
    """Do one event; how it differs from the recorded one, in words."""
    playback.begin(event)
    raised, found = "", None
    try:
        found = _do(controller, event["call"], event["args"])
    except Diverged as error:
        return str(error)
    except KeyError as error:
        raise ContractError(f"recording: event {event.get('n')} lacks {error}") from error
    except Exception as error:
        raised = f"{type(error).__name__}: {error}"
    if raised != event.get("raised", ""):
        return f"raised {raised or 'nothing'}, recorded was {event.get('raised') or 'nothing'}"
    wanted = event.get("out")
    if not raised and found != wanted:
        return _differing(found, wanted)
    try:
        playback.finish()
    except Diverged as error:
        return str(error)
    return ""


def _differing(found: Any, wanted: Any) -> str:
    if not isinstance(found, dict) or not isinstance(wanted, dict):
        return f"gives {found}, recorded was {wanted}"
    keys = [key for key in wanted if found.get(key) != wanted[key]]
    return "; ".join(f"{key} is {_short(found.get(key))}, recorded was {_short(wanted[key])}" for key in keys)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _do(controller: Controller, call: str, args: Mapping[str, Any]) -> Any:
    number = values.to_number
    calls: dict[str, Callable[[], Any]] = {
        "tick": lambda: outcome(controller, controller.tick()),
        "still_in_time": controller.still_in_time,
        "put": lambda: controller.buffer.put(
            args["name"], number(args["stamp_s"]), values.to_sample(args["value"]), number(args["now_s"])
        ),
        "permit": lambda: controller.permission.permit(args["granted"]),
        "enable": lambda: controller.permission.enable(args["held"]),
        "fault": lambda: controller.fault(StopCause(args["cause"]), args["text"]),
        "scaled": lambda: controller.scaled(number(args["factor"])),
        "activate": controller.activate,
        "deactivate": controller.deactivate,
        "arm": lambda: controller.arm(args["wanted"]),
        "start": lambda: controller.start(
            args["instruction"], number(args["max_duration_s"]), number(args["speed_scale"])
        ),
        "cancel": controller.cancel,
        "stop": lambda: controller.stop(args["text"]),
        "reset_fault": controller.reset_fault,
        DECISION: lambda: None,
    }
    if call not in calls:
        raise ContractError(f"recording: found call {call!r}, expected one of {sorted(calls)}")
    found = calls[call]()
    return found if call in ("tick", "put", "still_in_time") else None
