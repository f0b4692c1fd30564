# SPDX-License-Identifier: Apache-2.0
"""One lane per panel: the bounds of its difference, its own margin as a tick, and what came of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from compress.report.numbers import DASH, points, ticks
from compress.report.svg import DARK, GREY, LIGHT, WIDTH, Canvas, Scale, x_axis

LANE, TOP, LEFT, RIGHT = 30, 10, 128, WIDTH - 92
STYLE = {"pass": ("disc", DARK), "fail": ("cross", LIGHT), "undecided": ("square", GREY)}
WIDEST = 0.5  # bounds beyond are drawn at the edge


def panels_chart(name: str, panels: Sequence[Mapping[str, Any]], void: Collection[str] = ()) -> Markup:
    """Draw the entries of `gate.json`'s panels, in their order; at least one. Those in `void` prove nothing."""
    bottom = TOP + LANE * len(panels)
    words = "; ".join(
        f"{title(panel)}: {spoken(panel)}{', proves nothing' if panel['name'] in void else ''}" for panel in panels
    )
    canvas = Canvas(name, "Difference of every panel with its bounds", words, bottom + 42)
    low, high = _range(panels)
    marks = ticks(100 * low, 100 * high, 5)
    scale = Scale(marks[0], marks[-1], LEFT, RIGHT)
    shown = [(mark, f"{mark:+g}".replace("-", "\u2212") if mark else "0") for mark in marks]
    x_axis(canvas, scale, shown, TOP, bottom, "candidate minus baseline [percentage points]; red tick: margin")
    canvas.line(scale(0.0), TOP, scale(0.0), bottom)
    for i, panel in enumerate(panels):
        _lane(canvas, scale, TOP + LANE * (i + 0.5), panel, panel["name"] in void)
    return canvas.markup()


def title(panel: Mapping[str, Any]) -> str:
    """`robot pose`."""
    return str(panel["name"]).replace("_", " ")


def spoken(panel: Mapping[str, Any]) -> str:
    """`pass, +0.4 (-1.2 to +2.0)`."""
    found = panel["difference"]
    if panel["outcome"] == "not_run":
        return "not run"
    return f"{panel['outcome']}, {points(found['mean'])} ({points(found['lower'])} to {points(found['upper'])})"


def _range(panels: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    margins = [panel["margin"] for panel in panels]
    found = [panel["difference"] for panel in panels if panel["outcome"] != "not_run"]
    low = min([-2 * margin for margin in margins] + [bounds["lower"] for bounds in found])
    high = max(margins + [bounds["upper"] for bounds in found])
    return max(low, -WIDEST), min(high, WIDEST)


def _lane(canvas: Canvas, scale: Scale, y: float, panel: Mapping[str, Any], void: bool) -> None:
    canvas.text(LEFT - 8, y + 4, title(panel), "end", title=panel["reason"])
    edge = scale(-100 * panel["margin"])
    canvas.line(edge, y - 9, edge, y + 9, "#b3261e", 2.5)
    if panel["outcome"] == "not_run":
        canvas.text(RIGHT + 10, y + 4, f"{DASH} not run", kind="tick")
        return
    shape, colour = STYLE["undecided" if void else panel["outcome"]]
    found = panel["difference"]
    canvas.whisker(scale(100 * found["lower"]), scale(100 * found["upper"]), y, colour)
    canvas.marker(shape, scale(100 * found["mean"]), y, colour)
    word = "no proof" if void else panel["outcome"]
    canvas.text(RIGHT + 10, y + 4, word, kind="strong", title=panel["reason"])
