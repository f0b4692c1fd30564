# SPDX-License-Identifier: Apache-2.0
"""Panels and vetoes of gate.json as rows and sentences; gates that were run before there were any have none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from compress.report.chart_bounds import bounds_chart
from compress.report.chart_panels import panels_chart, title
from compress.report.chart_rates import Group, rate_chart
from compress.report.numbers import DASH, points, rate

COUNTED = "episodes in which the event that counts came [%]"
VOID = "proves nothing"  # how the gate's warning of a pass begins whose baseline fails itself


@dataclass(frozen=True)
class Panels:
    """What the page shows.

    Attributes:
        chart: all panels.
        rates: success of both policies in every panel that was run; None if there is none.
        paths: (panel, chart of its bounds after each pair); none in a gate that did not keep them.
        rows: one per panel, in the order of gate.json.
        vetoes: sentences; empty without an answer.
        warnings: sentences of the gate: a slower candidate, a baseline that proves nothing.
    """

    chart: Markup
    rates: Markup | None
    paths: tuple[tuple[str, Markup], ...]
    rows: tuple[tuple[str, ...], ...]
    vetoes: tuple[str, ...]
    warnings: tuple[str, ...]


def panels(data: Mapping[str, Any]) -> Panels | None:
    """None if gate.json has no panels (older than they are)."""
    entries = data.get("panels") or ()
    if not entries:
        return None
    ran = [entry for entry in entries if entry["outcome"] != "not_run"]
    warnings = tuple(data.get("warnings") or ())
    void = {entry["name"] for entry in ran if any(w.startswith(f"{entry['name']}: {VOID}") for w in warnings)}
    return Panels(
        chart=panels_chart("panels", entries, void),
        rates=rate_chart("panel_rates", [_group(entry, data) for entry in ran], COUNTED) if ran else None,
        paths=tuple(_paths(data, ran)),
        rows=tuple(_row(entry, entry["name"] in void) for entry in entries),
        vetoes=_vetoes(data),
        warnings=warnings,
    )


def _group(panel: Mapping[str, Any], data: Mapping[str, Any]) -> Group:
    """An axis by its name, the suite with its own, the swap with what counts there."""
    label = {"suite": f"suite {data['spec']['suite']}", "swap": f"{title(panel)}: original goal NOT reached"}
    rates = {policy: panel[policy] for policy in ("candidate", "baseline")}
    return Group(label.get(panel["kind"], f"axis {title(panel)}"), rates)


def _paths(data: Mapping[str, Any], ran: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Markup]]:
    kept = data.get("panel_paths") or {}
    for panel in ran:
        path, name = kept.get(panel["name"]), panel["name"]
        if path:
            level, mean = 1.0 - panel["alpha"], panel["difference"]["mean"]
            yield title(panel), bounds_chart(f"bounds_{name}", path, panel["margin"], mean, level)


def _row(panel: Mapping[str, Any], void: bool) -> tuple[str, ...]:
    found, steps, ran = panel["difference"], panel["steps_to_success"], panel["outcome"] != "not_run"
    span = f"{points(found['mean'])} ({points(found['lower'])} to {points(found['upper'])})"
    return (
        title(panel),
        panel["outcome"].replace("_", " ") + (f", {VOID}" if void else ""),
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
