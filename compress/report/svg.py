# SPDX-License-Identifier: Apache-2.0
"""A small SVG canvas: every text stays selectable, every drawing has a title and a description for screen readers.

All drawings are WIDTH units wide and are scaled by the page; colours differ in lightness, series also in shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup, escape

WIDTH = 480
DARK, LIGHT, GREY, GRID = "#12355b", "#d9862b", "#7a7a7a", "#d4d4d4"


@dataclass(frozen=True)
class Scale:
    """Values [low, high] -> units [start, end]; values outside are drawn at the edge."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        span = self.high - self.low
        share = min(1.0, max(0.0, (value - self.low) / span)) if span else 0.0
        return round(self.start + share * (self.end - self.start), 2)


@dataclass
class Canvas:
    """Collects shapes; `markup` is the finished element.

    Attributes:
        name: unique on the page.
        title, description: text alternative.
        height: units.
    """

    name: str
    title: str
    description: str
    height: float
    shapes: list[str] = field(default_factory=list)

    def text(
        self, x: float, y: float, text: str, anchor: str = "start", kind: str = "", title: str = "", turn: float = 0.0
    ) -> None:
        """A line of text with its baseline at y; `title` shows on hovering."""
        turned = f' transform="rotate({turn:g} {x:g} {y:g})"' if turn else ""
        style = f' class="{kind}"' if kind else ""
        more = f"<title>{escape(title)}</title>" if title else ""
        place = f'x="{x:g}" y="{y:g}" text-anchor="{anchor}"{style}{turned}'
        self.shapes.append(f"<text {place}>{more}{escape(text)}</text>")

    def line(
        self, x1: float, y1: float, x2: float, y2: float, stroke: str = "#111", width: float = 1, dash: str = ""
    ) -> None:
        """A straight line."""
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        place = f'x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}"'
        self.shapes.append(f'<line {place} stroke="{stroke}" stroke-width="{width:g}"{dashed}/>')

    def rect(self, x: float, y: float, w: float, h: float, fill: str, stroke: str = "none", dash: str = "") -> None:
        """A box."""
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        place = f'x="{x:g}" y="{y:g}" width="{max(w, 0):g}" height="{h:g}"'
        self.shapes.append(f'<rect {place} fill="{fill}" stroke="{stroke}"{dashed}/>')

    def path(self, dots: Sequence[tuple[float, float]], stroke: str, width: float = 2, dash: str = "") -> None:
        """A line through points."""
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        joined = " ".join(f"{x:g},{y:g}" for x, y in dots)
        self.shapes.append(
            f'<polyline points="{joined}" fill="none" stroke="{stroke}" stroke-width="{width:g}" '
            f'stroke-linejoin="round"{dashed}/>'
        )

    def area(self, dots: Sequence[tuple[float, float]], fill: str) -> None:
        """A filled polygon."""
        joined = " ".join(f"{x:g},{y:g}" for x, y in dots)
        self.shapes.append(f'<polygon points="{joined}" fill="{fill}"/>')

    def marker(self, shape: str, x: float, y: float, colour: str) -> None:
        """`disc` (filled), `square` (hollow) or `cross`, centred."""
        if shape == "disc":
            self.shapes.append(f'<circle cx="{x:g}" cy="{y:g}" r="4.5" fill="{colour}"/>')
        elif shape == "square":
            place = f'x="{x - 4:g}" y="{y - 4:g}" width="8" height="8"'
            self.shapes.append(f'<rect {place} fill="#fff" stroke="{colour}" stroke-width="2"/>')
        else:
            self.line(x - 4, y - 4, x + 4, y + 4, colour, 2)
            self.line(x - 4, y + 4, x + 4, y - 4, colour, 2)

    def whisker(self, low: float, high: float, y: float, colour: str) -> None:
        """A horizontal interval with end caps."""
        self.line(low, y, high, y, colour, 1.5)
        for x in (low, high):
            self.line(x, y - 3.5, x, y + 3.5, colour, 1.5)

    def markup(self) -> Markup:
        """The `<svg>` element."""
        head = (
            f'<svg viewBox="0 0 {WIDTH} {self.height:g}" role="img" aria-labelledby="{self.name}-t {self.name}-d" '
            'xmlns="http://www.w3.org/2000/svg">'
        )
        title = f'<title id="{self.name}-t">{escape(self.title)}</title>'
        words = f'<desc id="{self.name}-d">{escape(self.description)}</desc>'
        return Markup(head + title + words + "".join(self.shapes) + "</svg>")


def x_axis(
    canvas: Canvas, scale: Scale, marks: Sequence[tuple[float, str]], top: float, bottom: float, label: str
) -> None:
    """Grid lines from top to bottom with their values below, and the axis label (with its unit) below those."""
    for value, text in marks:
        x = scale(value)
        canvas.line(x, top, x, bottom, GRID)
        canvas.text(x, bottom + 15, text, "middle", "tick")
    canvas.text((scale.start + scale.end) / 2, bottom + 33, label, "middle", "axis")
