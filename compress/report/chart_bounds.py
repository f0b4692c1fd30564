# SPDX-License-Identifier: Apache-2.0
"""The bounds of the difference after each pair, as a band, with the margin that it has to clear."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from compress.report.numbers import points, ticks
from compress.report.svg import DARK, GRID, WIDTH, Canvas, Scale, x_axis

TOP, BOTTOM, LEFT, RIGHT = 26, 236, 48, WIDTH - 14
BAND = "#c9d5e2"


def bounds_chart(
    name: str, path: Sequence[tuple[float, float]], margin: float, mean: float | None, level: float
) -> Markup:
    """Draw.

    Args:
        name: unique on the page.
        path: (lower, upper) after each pair, fractions; at least one.
        margin: accepted loss, as a fraction.
        mean: difference seen in all pairs.
        level: probability with which each bound holds at all pairs together.
    """
    low, high = path[-1]
    words = (
        f"After {len(path)} pairs the difference is between {points(low)} and {points(high)} points; a pass needs the "
        f"whole band above {points(-margin)}."
    )
    canvas = Canvas(name, f"Bounds of the difference after each pair, {100 * level:g} % each", words, BOTTOM + 44)
    reach = min(1.0, max(4 * margin, 1.4 * abs(low), 1.4 * abs(high)))
    marks = [mark for mark in ticks(-100 * reach, 100 * reach, 6) if abs(mark) <= 100]
    x, y = Scale(0.0, len(path), LEFT, RIGHT), Scale(marks[0], marks[-1], BOTTOM, TOP)
    across = [v for v in ticks(0.0, len(path), 5) if v <= len(path) and v == int(v)]
    for mark in marks:
        canvas.line(LEFT, y(mark), RIGHT, y(mark), GRID)
        canvas.text(LEFT - 6, y(mark) + 4, f"{mark:+g}".replace("-", "\u2212") if mark else "0", "end", "tick")
    x_axis(canvas, x, [(v, f"{v:g}") for v in across], TOP, BOTTOM, "pairs compared, in the order fixed beforehand")
    lower, upper = ([(x(a), y(100 * b)) for a, b in _steps([step[i] for step in path])] for i in (0, 1))
    canvas.area([*upper, *reversed(lower)], BAND)
    canvas.path(lower, DARK, 1.8)
    canvas.path(upper, DARK, 1.8)
    canvas.line(LEFT, y(0.0), RIGHT, y(0.0), "#111", 1)
    canvas.line(LEFT, y(-100 * margin), RIGHT, y(-100 * margin), "#111", 1.6, "2 3")
    canvas.text(LEFT + 6, y(-100 * margin) + 16, f"margin: a pass is a band above {points(-margin)}", kind="halo")
    if mean is not None:
        canvas.marker("disc", x(len(path)), y(100 * mean), DARK)
    canvas.text(2, 14, "candidate minus baseline [percentage points]", kind="axis")
    canvas.line(LEFT, TOP, LEFT, BOTTOM)
    return canvas.markup()


def _steps(values: Sequence[float]) -> list[tuple[float, float]]:
    """A bound is known after its pair and holds until the next one changes it; unchanged stretches need no points."""
    start = -1.0 if values[0] < 0 else 1.0
    dots, last = [(0.0, start)], start
    for i, value in enumerate(values, start=1):
        if value != last:
            dots += [(float(i), last), (float(i), value)]
            last = value
    return [*dots, (float(len(values)), last)]
