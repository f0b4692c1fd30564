# SPDX-License-Identifier: Apache-2.0
"""Lines over a whole-number axis: the recovery loss, the wealth of the gate's bets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from compress.report.numbers import small, ticks
from compress.report.svg import GRID, WIDTH, Canvas, Scale, x_axis

TOP, BOTTOM, LEFT, RIGHT = 26, 236, 62, WIDTH - 14


@dataclass(frozen=True)
class Line:
    """One series; points (x, y) in the chart's units."""

    label: str
    dots: Sequence[tuple[float, float]]
    colour: str
    dash: str = ""


def line_chart(
    name: str, title: str, description: str, lines: Sequence[Line], x_label: str, y_label: str,
    y_marks: Sequence[tuple[float, str]] | None = None, levels: Sequence[tuple[float, str]] = (),
) -> Markup:  # fmt: skip
    """Draw.

    Args:
        name, title, description: see `Canvas`.
        lines: at least one with a point.
        x_label, y_label: with units.
        y_marks: axis values with their texts, lowest first; round numbers from zero by default.
        levels: horizontal reference lines with their texts.
    """
    canvas = Canvas(name, title, description, BOTTOM + 44 + 20 * (len(lines) > 1))
    xs = [x for line in lines for x, _ in line.dots]
    ys = [y for line in lines for _, y in line.dots] + [y for y, _ in levels]
    marks = y_marks or [(v, small(v)) for v in ticks(min(0.0, *ys), max(ys))]
    across = ticks(0.0, max(xs), 5)
    x = Scale(0.0, max(xs), LEFT, RIGHT)
    y = Scale(marks[0][0], marks[-1][0], BOTTOM, TOP)
    x_axis(canvas, x, [(v, f"{v:g}") for v in across if v <= max(xs) and v == int(v)], TOP, BOTTOM, x_label)
    for value, text in marks:
        canvas.line(LEFT, y(value), RIGHT, y(value), GRID)
        canvas.text(LEFT - 6, y(value) + 4, text, "end", "tick")
    canvas.text(2, 14, y_label, kind="axis")
    canvas.line(LEFT, TOP, LEFT, BOTTOM)
    canvas.line(LEFT, BOTTOM, RIGHT, BOTTOM)
    for line in lines:
        canvas.path([(x(a), y(b)) for a, b in line.dots], line.colour, 2.2, line.dash)
        if line.dots:
            canvas.marker("disc" if not line.dash else "square", x(line.dots[-1][0]), y(line.dots[-1][1]), line.colour)
    lowest = min((value for value, _ in levels), default=0.0)
    for value, text in levels:
        below = len(levels) > 1 and value == lowest
        canvas.line(LEFT, y(value), RIGHT, y(value), "#111", 1.5, "2 3")
        canvas.text(LEFT + 6, y(value) + (16 if below else -6), text, kind="halo")
    if len(lines) > 1:
        _legend(canvas, lines)
    return canvas.markup()


def _legend(canvas: Canvas, lines: Sequence[Line]) -> None:
    y = BOTTOM + 56
    for i, line in enumerate(lines):
        x = LEFT + i * (RIGHT - LEFT) / len(lines)
        canvas.line(x, y - 4, x + 26, y - 4, line.colour, 2.2, line.dash)
        canvas.text(x + 32, y, line.label, kind="tick")
