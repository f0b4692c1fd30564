# SPDX-License-Identifier: Apache-2.0
"""gate.json -> success per task, the bets, the pairs. Nothing is judged again here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from compress.report.chart_bounds import bounds_chart
from compress.report.chart_line import Line, line_chart
from compress.report.chart_rates import Group, rate_chart
from compress.report.errors import reading
from compress.report.evidence import Evidence
from compress.report.numbers import DASH, e_value, points, rate, small
from compress.report.svg import DARK, LIGHT
from compress.report.view_panels import Panels, panels

CERTAIN = 50.0  # drawn in place of an infinite logarithm, above every axis


@dataclass(frozen=True)
class Gate:
    """What the page shows of a gate run.

    Attributes:
        rates: chart, None if nothing was run.
        tasks: rows of the task table.
        paired: the paired summary of gate.json, None if pairs were not compared.
        wealth: chart, None without pairs.
        bounds: chart, None without pairs or in a gate older than they are.
        panels: None in a gate older than they are.
        notes: sentences below it.
        speed: sentences.
    """

    rates: Markup | None
    tasks: tuple[tuple[str, ...], ...]
    paired: Mapping[str, Any] | None
    wealth: Markup | None
    bounds: Markup | None
    panels: Panels | None
    notes: tuple[str, ...]
    speed: tuple[str, ...]


def gate(evidence: Evidence) -> Gate | None:
    """None without gate.json."""
    data = evidence.data.get("gate")
    if data is None:
        return None
    with reading(evidence.paths["gate"], "gate"):
        groups = _groups(data)
        paired = data["paired"]
        return Gate(
            rates=rate_chart("rates", groups) if groups else None,
            tasks=tuple(_row(task) for task in data["tasks"]),
            paired=paired,
            wealth=_wealth(paired) if paired and paired["path_log_e"] else None,
            bounds=_bounds(paired) if paired and paired.get("path") else None,
            panels=panels(data),
            notes=_notes(paired) if paired else (),
            speed=_speed(data["speed"]),
        )


def _groups(data: Mapping[str, Any]) -> list[Group]:
    groups = []
    paired, tasks, wrong = data["paired"], data["tasks"], data["wrong_instruction"]
    if paired and paired["pairs"]:
        label = f"Suite {data['spec']['suite']}, all {paired['pairs']} pairs that count"
        groups.append(Group(label, {who: paired[who] for who in ("candidate", "baseline")}))
    for task in tasks:
        label = task["sentence"] if task["counts"] else f"{task['sentence']} (does not count)"
        rates = {"candidate": task["candidate"], "baseline": task["baseline"], "blind replay": task["blind_floor"]}
        groups.append(Group(label, rates))
    if any(wrong[who]["trials"] for who in wrong):
        told = {who: wrong[who] for who in ("candidate", "baseline")}
        groups.append(Group("Told another task's sentence (near 0 is expected)", told))
    return groups


def _row(task: Mapping[str, Any]) -> tuple[str, ...]:
    low, high = task["tango95"]
    ran = bool(task["pairs"])
    return (
        task["sentence"],
        "yes" if task["counts"] else "no",
        rate(task["candidate"]),
        rate(task["baseline"]),
        f"{points(task['difference'])} ({points(low)} to {points(high)})" if ran else DASH,
        str(task["lost"]) if ran else DASH,
        str(task["gained"]) if ran else DASH,
        rate(task["blind_floor"]),
        task["why"],
    )


def _wealth(paired: Mapping[str, Any]) -> Markup:
    path = paired["path_log_e"]
    good, bad = (_curve([step[i] for step in path]) for i in (0, 1))
    needed = paired["threshold_log_e"] / math.log(10.0)
    low, high = max(-6, math.floor(min(-1.0, *(y for _, y in (*good, *bad))))), math.ceil(needed)
    step = 1 if high - low <= 7 else 2
    marks = [(float(v), _power(v)) for v in range(low, high + 1, step)]
    words = (
        f"After {len(path)} pairs the evidence for 'not worse' is {e_value(paired['log_e_pass'])} and for 'worse' "
        f"{e_value(paired['log_e_fail'])}; {small(math.exp(paired['threshold_log_e']))} decides."
    )
    lines = [Line("candidate is not worse", good, DARK), Line("candidate is worse", bad, LIGHT, "7 4")]
    needs = f"1/alpha = {small(math.exp(paired['threshold_log_e']))} decides"
    return line_chart(
        "wealth", "Wealth of the two bets after each pair", words, lines,
        "pairs compared, in the order fixed beforehand", "wealth (e-value, logarithmic, no unit)", marks,
        [(needed, needs)],
    )  # fmt: skip


def _bounds(paired: Mapping[str, Any]) -> Markup:
    return bounds_chart("bounds", paired["path"], paired["margin"], paired["difference"], 1.0 - paired["alpha"])


def _curve(logs: Sequence[float | None]) -> list[tuple[float, float]]:
    """Starts at wealth 1 before the first pair; decimal logarithm."""
    return [(0.0, 0.0), *((i + 1.0, (CERTAIN if v is None else v) / math.log(10.0)) for i, v in enumerate(logs))]


def _power(exponent: int) -> str:
    return f"{10.0**exponent:g}"


def _notes(paired: Mapping[str, Any]) -> tuple[str, ...]:
    low, high = paired["tango95"]
    scope = f"these {paired['population']} scenes" if paired["population"] else "an endless stream of such scenes"
    bounds: tuple[str, ...] = ()
    if "lower" in paired:
        bounds = (
            f"Bounds of the difference, each with probability {100 - 100 * paired['alpha']:g} % at all pairs together: "
            f"{points(paired['lower'])} to {points(paired['upper'])} points. A pass is a lower bound above "
            f"{points(-paired['margin'])}: the same test, turned round.",
        )
    return (
        f"Question: is the candidate worse than the baseline by {100 * paired['margin']:g} points or more, on {scope}? "
        f"{paired['pairs']} of at most {paired['budget']} pairs were used.",
        f"Evidence for 'not worse' {e_value(paired['log_e_pass'])}, for 'worse' {e_value(paired['log_e_fail'])}; "
        f"{small(math.exp(paired['threshold_log_e']))} decides, at whatever pair it is reached (Ville's inequality).",
        *bounds,
        f"Difference {points(paired['difference'])} points (Tango 95 %: {points(low)} to {points(high)}), "
        f"McNemar exact p {paired['mcnemar_p']:.3f}. These two are for reading; they decide nothing.",
    )


def _speed(speed: Mapping[str, Any]) -> tuple[str, ...]:
    words = []
    for arm in ("candidate", "baseline"):
        steps, query = speed[arm]["steps_to_success"], speed[arm]["query_s"]
        pace = "no success" if steps is None else f"median {steps:g} control steps of 50 ms to success"
        words.append(f"{arm}: {pace}" + ("" if query is None else f", {1000 * query:.3g} ms a query in the simulator"))
    return tuple(words)
