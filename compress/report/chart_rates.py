# SPDX-License-Identifier: Apache-2.0
"""Success rates with their Wilson intervals, a group of lanes per task, on one axis from 0 to 100 %."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from compress.report.numbers import DASH, rate
from compress.report.svg import DARK, GREY, LIGHT, WIDTH, Canvas, Scale, x_axis

LABEL, LANE, GAP, LEFT, RIGHT = 20, 17, 8, 12, 396
STYLE = {"candidate": ("disc", DARK), "baseline": ("square", LIGHT), "blind replay": ("cross", GREY)}
LONGEST = 62


@dataclass(frozen=True)
class Group:
    """A label and its rates by series, each as `gate.json` has them, or None where there is none."""

    label: str
    rates: Mapping[str, Mapping[str, Any] | None]


def rate_chart(name: str, groups: Sequence[Group], counted: str = "episodes that reached the goal [%]") -> Markup:
    """One chart; series are those of STYLE, `counted` is the label of the axis."""
    top = 26.0
    bottom = top + sum(LABEL + LANE * len(group.rates) + GAP for group in groups)
    words = "; ".join(f"{g.label}: " + ", ".join(f"{who} {rate(r)}" for who, r in g.rates.items()) for g in groups)
    canvas = Canvas(name, "Success rates with 95 % Wilson intervals", words, bottom + 42)
    scale = Scale(0.0, 1.0, LEFT, RIGHT)
    x_axis(canvas, scale, [(v / 4, str(25 * v)) for v in range(5)], top, bottom, counted)
    _legend(canvas, {who for group in groups for who in group.rates})
    y = top
    for group in groups:
        short = group.label if len(group.label) <= LONGEST else group.label[: LONGEST - 1] + "\u2026"
        canvas.rect(LEFT, y, WIDTH - LEFT, LABEL - 2, "#f1f1f1")
        canvas.text(LEFT + 4, y + 14, short, kind="strong", title=group.label)
        y += LABEL
        for who, found in group.rates.items():
            _lane(canvas, scale, y + LANE / 2, who, found)
            y += LANE
        y += GAP
    return canvas.markup()


def _lane(canvas: Canvas, scale: Scale, y: float, who: str, found: Mapping[str, Any] | None) -> None:
    shape, colour = STYLE[who]
    if found is None or not found["trials"]:
        canvas.text(RIGHT + 14, y + 4, DASH)
        return
    low, high = found["wilson95"]
    canvas.whisker(scale(low), scale(high), y, colour)
    canvas.marker(shape, scale(found["rate"]), y, colour)
    canvas.text(WIDTH - 4, y + 4, f"{found['successes']}/{found['trials']}", "end", title=f"{who}: {rate(found)}")


def _legend(canvas: Canvas, used: set[str]) -> None:
    x = float(LEFT + 6)
    for who in (name for name in STYLE if name in used):
        shape, colour = STYLE[who]
        canvas.marker(shape, x, 10, colour)
        canvas.text(x + 9, 14, who, kind="tick")
        x += 110
