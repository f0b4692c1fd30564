# SPDX-License-Identifier: Apache-2.0
"""Time per call beside the machine's floor: per artifact, the floor by its terms above, the measured call below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from compress.report.numbers import small, ticks
from compress.report.svg import WIDTH, Canvas, Scale, x_axis

LABEL, BAR, GAP, LEFT, RIGHT = 18, 15, 12, 12, WIDTH - 24
TERMS = {"compute_ms": "#5f7b99", "bandwidth_ms": "#d9862b", "launch_ms": "#7a7a7a"}
GRAPH, REST = "#f0cfa4", "#e4e4e4"
LEGEND = {
    "compute": "#5f7b99", "bandwidth": "#d9862b", "launch": "#7a7a7a", "graph, measured": GRAPH, "rest of call": REST,
}  # fmt: skip


def floor_chart(name: str, rows: Sequence[Mapping[str, Any]]) -> Markup:
    """Draw `artifacts` of a bench (`runtime.inference.bench`), in order; at least one."""
    top = 24
    bottom = top + (LABEL + 2 * BAR + GAP) * len(rows)
    canvas = Canvas(name, "Time per call beside the machine's floor", "; ".join(map(_spoken, rows)), bottom + 42)
    marks = ticks(0.0, max(row["p99_ms"] for row in rows), 4)
    scale = Scale(marks[0], marks[-1], LEFT, RIGHT)
    x_axis(
        canvas,
        scale,
        [(v, f"{v:g}") for v in marks],
        top,
        bottom,
        "[ms]: floor above, measured p50 below, whisker to p99",
    )
    x = float(LEFT)
    for text, colour in LEGEND.items():
        canvas.rect(x, 4, 10, 10, colour, "#111")
        canvas.text(x + 14, 13, text, kind="tick")
        x += 25 + 6.7 * len(text)
    for i, row in enumerate(rows):
        _pair(canvas, scale, top + i * (LABEL + 2 * BAR + GAP), row)
    return canvas.markup()


def _pair(canvas: Canvas, scale: Scale, y: float, row: Mapping[str, Any]) -> None:
    canvas.text(LEFT + 2, y + 14, row["name"], kind="halo")
    found, start = row["floor"], 0.0
    for term, colour in TERMS.items() if found else ():
        canvas.rect(scale(start), y + LABEL, scale(start + found[term]) - scale(start), BAR - 2, colour, "#111")
        start += found[term]
    words = f"floor {small(found['floor_ms'])} ms, graph takes {found['ratio']:.1f} x" if found else "no floor"
    canvas.text(scale(start) + 5, y + LABEL + 11, words, kind="halo")
    below, graph = y + LABEL + BAR, row["stages"]["inference"]
    canvas.rect(LEFT, below, scale(graph) - LEFT, BAR - 2, GRAPH, "#111")
    canvas.rect(scale(graph), below, scale(row["p50_ms"]) - scale(graph), BAR - 2, REST, "#111")
    middle = below + BAR / 2 - 1
    canvas.line(scale(row["p50_ms"]), middle, scale(row["p99_ms"]), middle, "#111", 1.5)
    canvas.line(scale(row["p99_ms"]), middle - 5, scale(row["p99_ms"]), middle + 5, "#111", 1.5)


def _spoken(row: Mapping[str, Any]) -> str:
    found = row["floor"]
    floor = f"floor {small(found['floor_ms'])} ms, {found['binds']} binds" if found else "no floor"
    return f"{row['name']}: {floor}, measured p50 {small(row['p50_ms'])} ms, p99 {small(row['p99_ms'])} ms"
