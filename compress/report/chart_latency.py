# SPDX-License-Identifier: Apache-2.0
"""Milliseconds per call: a bar to the median, a whisker on to the 95th percentile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from compress.report.numbers import small, ticks
from compress.report.svg import WIDTH, Canvas, Scale, x_axis

LABEL, BAR, LEFT, RIGHT = 18, 24, 12, WIDTH - 24
FILL = {"baseline": "#f0cfa4", "candidate": "#5f7b99"}


def latency_chart(name: str, timings: Sequence[dict[str, Any]]) -> Markup:
    """One row per contender, in the order given."""
    bottom = 4 + (LABEL + BAR) * len(timings)
    words = "; ".join(f"{t['name']}: median {small(t['p50_ms'])} ms, p95 {small(t['p95_ms'])} ms" for t in timings)
    canvas = Canvas(name, "Latency per call", words, bottom + 42)
    marks = ticks(0.0, max(max(t["p50_ms"], t["p95_ms"]) for t in timings), 4)
    scale = Scale(0.0, marks[-1], LEFT, RIGHT)
    x_axis(canvas, scale, [(v, f"{v:g}") for v in marks], 4, bottom, "time per call [ms], bar = median, whisker = p95")
    for i, timing in enumerate(timings):
        y = 4 + i * (LABEL + BAR)
        who = timing["name"].partition("/")[0]
        middle = y + LABEL + BAR / 2 - 3
        canvas.rect(LEFT, y + LABEL, scale(timing["p50_ms"]) - LEFT, BAR - 6, FILL.get(who, "#c4c4c4"), "#111")
        canvas.line(scale(timing["p50_ms"]), middle, scale(timing["p95_ms"]), middle, "#111", 1.5)
        canvas.line(scale(timing["p95_ms"]), middle - 5, scale(timing["p95_ms"]), middle + 5, "#111", 1.5)
        canvas.text(LEFT + 2, y + 14, timing["name"], kind="halo")
    return canvas.markup()
