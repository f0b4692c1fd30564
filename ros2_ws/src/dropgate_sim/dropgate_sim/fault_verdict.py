# SPDX-License-Identifier: Apache-2.0
"""Did the arm do what it had to after a fault? Judged on what the arm really did, by code that knows no controller.

A stop must be over within: the time in which the fault is noticed + committed motion + v / a + a / j + what the drives
run behind. On the way no limit may be broken. Afterwards nothing moves until a reset, arming and a new goal.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from dropgate_sim.fault_sent import Lateness
from dropgate_sim.motion_record import QUANTITIES, Allowed, MotionRecord
from dropgate_sim.mujoco_arm import STIFFNESS_RAD_S

SERVO_S = 8.0 / STIFFNESS_RAD_S  # until the drives' own exponential is below the speed that counts as standing
STAYS_RAD, WITHHELD = 2e-3, "command_late"
# what a limit may be exceeded by on the arm: the servo of this model adds nothing to a position or a speed, and does
# not overshoot an acceleration; the rest is for samples that fall between two cycles
SLACK = {"position": 1.001, "velocity": 1.02, "acceleration": 1.05, "jerk": 1.2}


@dataclass(frozen=True)
class Bounds:
    """What a stop may take, and what is allowed on the way.

    Attributes:
        allowed: limits of the station.
        commit_s, tick_s: of the controller [s].
        judge: quantities that count; others are only shown.
        splice_s: time after its stamp in which a message must be at the controller.
    """

    allowed: Allowed
    commit_s: float
    tick_s: float
    judge: tuple[str, ...] = QUANTITIES
    splice_s: float = 0.02

    @property
    def stop_s(self) -> float:
        """From the last command of a stop: committed motion and the slowest joint's stop [s]."""
        rates = self.allowed.acceleration or (np.inf,) * len(self.allowed.velocity)
        jerks = self.allowed.jerk or (np.inf,) * len(self.allowed.velocity)
        stop = max(v / a + a / j for v, a, j in zip(self.allowed.velocity, rates, jerks, strict=True))
        return self.commit_s + self.tick_s + float(stop) + SERVO_S


@dataclass(frozen=True)
class Finding:
    """One fault: what was expected and what came. Times in seconds of the arm's clock, from the fault on.

    Attributes:
        expected: causes that are right; empty: the task must go on.
        detect_bound_s: within which the controller must say so; None where nobody is left to say it.
        worst: quantity -> greatest share of its limit on the arm during the case.
        problems: why it is not ok.
        worst_sent: the same for what the messages ask for, each taken at its own stamp (`fault_sent`).
        made_s, way_s: of the message that was longest under way: in the node, and from there to the arm.
        spoiled: how the machine spoiled the measurement; then the problems are not judged, and the case is not ok.
        tries: how often the case was made; only the last one counts.
        earlier: what the ones before came to.
    """

    fault: str
    expected: tuple[str, ...]
    cause: str
    detected_s: float | None
    detect_bound_s: float | None
    stopped_s: float | None
    stop_bound_s: float | None
    moved_after_rad: float
    worst: dict[str, float]
    problems: tuple[str, ...]
    note: str = ""
    worst_sent: dict[str, float] = field(default_factory=dict)
    made_s: float = 0.0
    way_s: float = 0.0
    spoiled: str = ""
    tries: int = 1
    earlier: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Everything as it has to be."""
        return not self.problems

    @property
    def result(self) -> str:
        """ok, FAIL, or late: the machine was too slow, and what the arm did says nothing about the fault."""
        return "ok" if self.ok else "late" if self.spoiled else "FAIL"


def breaches(record: MotionRecord, bounds: Bounds, since_ns: int) -> tuple[dict[str, float], list[str]]:
    """Worst shares of the limits, and what broke a judged one."""
    found = record.breaches(bounds.allowed, since_ns)
    worst = {name: round(breach.worst, 3) for name, breach in found.items()}
    broken = [
        f"{name} reached {worst[name]:.2f} of its limit ({record.names[breach.joint]})"
        for name, breach in found.items()
        if name in bounds.judge and breach.worst > SLACK[name]
    ]
    return worst, broken


def judge(
    fault: str, record: MotionRecord, bounds: Bounds, *, began_ns: int, fault_ns: int, until_ns: int | None = None,
    expected: Sequence[str] = (), cause: str = "", detected_s: float | None = None, detect_bound_s: float | None = None,
    must_stop: bool = True, note: str = "", sent: MotionRecord | None = None, late: Lateness | None = None,
) -> Finding:  # fmt: skip
    """The finding of one case.

    Args:
        fault: its name.
        record: of the arm, up to now.
        bounds: what is allowed.
        began_ns: from which limits are judged.
        fault_ns: when the fault began.
        until_ns: end of the time in which nothing may move after the stop; None: now.
        expected, cause: right causes, and the one that was given.
        detected_s, detect_bound_s: when the controller said so, and by when it had to.
        must_stop: False: motion must go on.
        note: for people.
        sent: what the messages of the case ask for; None where that cannot be said.
        late: of the message that was longest under way.
    """
    problems: list[str] = []
    if must_stop and expected and cause not in expected:
        problems.append(f"cause is {cause or 'none'}, expected {' or '.join(expected)}")
    if not must_stop and cause not in ("", "none", *expected):
        problems.append(f"stopped with cause {cause}, expected to go on")
    if must_stop and detect_bound_s is not None and (detected_s is None or detected_s > detect_bound_s):
        problems.append(f"noticed after {_s(detected_s)}, expected within {detect_bound_s:.2f} s")
    stopped, bound = record.stopped_after(fault_ns), None
    moved = 0.0
    if must_stop:
        bound = (detect_bound_s or 0.0) + bounds.stop_s
        if stopped is None or stopped > bound:
            problems.append(f"stopped after {_s(stopped)}, expected within {bound:.2f} s")
        moved = record.moved_since(fault_ns + int(bound * 1e9))
        if moved > STAYS_RAD:
            problems.append(f"moved {moved:.4f} rad after it had to stand")
    elif not record.moved_since(fault_ns) > STAYS_RAD:
        problems.append("stood still, expected to go on")
    worst, broken = breaches(record, bounds, began_ns)
    worst_sent, broken_sent = ({}, []) if sent is None else breaches(sent, replace(bounds, judge=QUANTITIES), 0)
    late = late or Lateness()
    spoiled = ""
    in_time = bound is None or (stopped is not None and stopped <= bound and moved <= STAYS_RAD)
    if cause == WITHHELD and WITHHELD not in expected and in_time and not broken and not broken_sent:
        spoiled = "a tick took too long, before the fault or in its way: its command was not sent, and the arm stopped"
    elif broken and not problems and sent is not None and not broken_sent:
        spoiled = _spoiled(late, bounds)
    problems += [*broken, *(f"as sent, {text}" for text in broken_sent)]
    return Finding(
        fault, tuple(expected), cause, detected_s, detect_bound_s, stopped if must_stop else None, bound,
        round(moved, 6), worst, tuple(problems), note, worst_sent, round(late.made_s, 4), round(late.way_s, 4), spoiled,
    )  # fmt: skip


def _spoiled(late: Lateness, bounds: Bounds) -> str:
    """Why limits that the messages keep were broken on the arm, if a message was late and its sender was not."""
    if late.total_s <= bounds.splice_s or late.made_s > bounds.splice_s:
        return ""  # nothing was late, or the node sent what it should have withheld
    return (
        f"a message was {1000 * late.way_s:.0f} ms on its way to the arm, sent {1000 * late.made_s:.0f} ms after its "
        f"stamp; {1000 * bounds.splice_s:.0f} ms may pass in all"
    )


def table(findings: Sequence[Finding]) -> str:
    """For people: one line per fault, and below it what was wrong."""
    times = f"{'detected':>8} {'(bound)':>8} {'stopped':>8} {'(bound)':>8}"
    head = (
        f"{'fault':26} {times}  {'cause':22} {'v':>5} {'a':>6} {'jerk':>6} {'sent':>6} {'made':>5} {'way':>5}  result"
    )
    lines = [head, "-" * len(head)]
    for f in findings:
        v, a, j = (share(f.worst, name) for name in ("velocity", "acceleration", "jerk"))
        lines.append(
            f"{f.fault:26} {_s(f.detected_s):>8} {_s(f.detect_bound_s):>8} {_s(f.stopped_s):>8} {_s(f.stop_bound_s):>8}"
            f"  {f.cause or '-':22} {v:>5} {a:>6} {j:>6} {share(f.worst_sent, 'jerk'):>6} {1000 * f.made_s:>5.0f}"
            f" {1000 * f.way_s:>5.0f}  {f.result}{f' (try {f.tries})' if f.tries > 1 else ''}"
        )
        lines += [f"    {problem}" for problem in (*f.problems, *filter(None, (f.spoiled,)), *f.earlier)]
    lines.append(
        f"{sum(f.ok for f in findings)} of {len(findings)} ok; v, a, jerk: worst share of the limit on the arm; sent: "
        "jerk of the messages as they were sent; made, way: ms of the latest message in the node, and on to the arm"
    )
    return "\n".join(lines)


def share(worst: Mapping[str, float], quantity: str) -> str:
    """Of the limit."""
    return f"{worst[quantity]:.2f}" if quantity in worst else "-"


def to_json(findings: Sequence[Finding], about: dict[str, Any]) -> str:
    """For programs."""
    assert set(QUANTITIES) >= {name for f in findings for name in f.worst}
    rows = [{**asdict(finding), "ok": finding.ok, "result": finding.result} for finding in findings]
    return json.dumps({"schema": "dropgate.fault_suite/2", **about, "faults": rows}, indent=2) + "\n"


def _s(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f} s" if value < 99 else ">99 s"
