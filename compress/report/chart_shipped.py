# SPDX-License-Identifier: Apache-2.0
"""What the export took away: operations and bytes before and after every trim and quantisation, as paired bars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from compress.report.numbers import small
from compress.report.svg import DARK, LIGHT, WIDTH, Canvas, Scale

LABEL, BAR, GAP, LEFT, RIGHT = 18, 13, 10, 12, WIDTH - 96
BEFORE = "#e4e4e4"
UNITS = {"flops": ("MFLOP", 1e6, DARK), "bytes": ("MB", 1e6, LIGHT)}


@dataclass(frozen=True)
class Step:
    """One change; `amounts` has (before, after) by `flops` and `bytes`, only those that are known."""

    name: str
    amounts: dict[str, tuple[float, float]]


def shipped_chart(name: str, steps: Sequence[Step]) -> Markup:
    """A grey bar for what was there, a filled one for what is left; every kind is drawn against its own largest."""
    most = {kind: max((a[kind][0] for a in (s.amounts for s in steps) if kind in a), default=0.0) for kind in UNITS}
    height = 22 + sum(LABEL + BAR * len(step.amounts) + GAP for step in steps)
    canvas = Canvas(name, "Operations and bytes before and after each step of the export", _spoken(steps), height)
    for x, (kind, (unit, _, colour)) in zip((LEFT, LEFT + 190), UNITS.items(), strict=True):
        canvas.rect(x, 3, 10, 10, colour, "#111")
        canvas.text(x + 15, 12, f"{'operations' if kind == 'flops' else 'size'} after [{unit}]", kind="tick")
    canvas.rect(LEFT + 330, 3, 10, 10, BEFORE, "#111")
    canvas.text(LEFT + 345, 12, "before", kind="tick")
    y = 22.0
    for step in steps:
        canvas.text(LEFT, y + 13, step.name, kind="strong")
        y += LABEL
        for kind, (before, after) in step.amounts.items():
            _, size, colour = UNITS[kind]
            scale = Scale(0.0, most[kind], LEFT, RIGHT)
            canvas.rect(LEFT, y, scale(before) - LEFT, BAR - 3, BEFORE, "#111")
            canvas.rect(LEFT, y, scale(after) - LEFT, BAR - 3, colour)
            canvas.text(RIGHT + 8, y + 9, f"{small(after / size)} of {small(before / size)}", kind="tick")
            y += BAR
        y += GAP
    return canvas.markup()


def _spoken(steps: Sequence[Step]) -> str:
    return "; ".join(
        f"{step.name}: "
        + ", ".join(
            f"{small(a / UNITS[k][1])} of {small(b / UNITS[k][1])} {UNITS[k][0]}" for k, (b, a) in step.amounts.items()
        )
        for step in steps
    )
