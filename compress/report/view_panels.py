# SPDX-License-Identifier: Apache-2.0
"""Panels and vetoes of gate.json as rows and sentences; gates that were run before there were any have none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from compress.report.chart_panels import panels_chart, title
from compress.report.numbers import DASH, points, rate


@dataclass(frozen=True)
class Panels:
    """What the page shows.

    Attributes:
        chart: all panels.
        rows: one per panel, in the order of gate.json.
        vetoes: sentences; empty without an answer.
    """

    chart: Markup
    rows: tuple[tuple[str, ...], ...]
    vetoes: tuple[str, ...]


def panels(data: Mapping[str, Any]) -> Panels | None:
    """None if gate.json has no panels (older than they are)."""
    entries = data.get("panels") or ()
    if not entries:
        return None
    return Panels(panels_chart("panels", entries), tuple(_row(entry) for entry in entries), _vetoes(data))


def _row(panel: Mapping[str, Any]) -> tuple[str, ...]:
    found, steps, ran = panel["difference"], panel["steps_to_success"], panel["outcome"] != "not_run"
    span = f"{points(found['mean'])} ({points(found['lower'])} to {points(found['upper'])})"
    return (
        title(panel),
        panel["outcome"].replace("_", " "),
        rate(panel["candidate"]),
        rate(panel["baseline"]),
        str(panel["lost"]) if ran else DASH,
        str(panel["gained"]) if ran else DASH,
        span if ran else DASH,
        points(-panel["margin"]),
        f"{panel['pairs']} of {panel['planned']}",
        f"{_steps(steps['candidate'])} / {_steps(steps['baseline'])}",
        panel["reason"],
    )


def _steps(value: float | None) -> str:
    return DASH if value is None else f"{value:g}"


def _vetoes(data: Mapping[str, Any]) -> tuple[str, ...]:
    asked: Sequence[Mapping[str, Any]] = data.get("vetoes") or ()
    if not asked:
        return ()
    said = [
        f"Vetoed by {veto['level']} {veto['name']}: lost {veto['lost']}, gained {veto['gained']} of {veto['pairs']} "
        f"pairs, Holm-adjusted p {veto['p_holm']:.2g}."
        for veto in asked
        if veto["vetoed"]
    ]
    counts = " and ".join(
        f"{count} {level}{'s' if count != 1 else ''}"
        for level in ("suite", "task")
        if (count := sum(veto["level"] == level for veto in asked))
    )
    none = f"No veto: none of {counts} is significantly worse than the margin (exact, Holm-adjusted over its level)."
    return tuple(said) or (none,)
