# SPDX-License-Identifier: Apache-2.0
"""The kept-block map of one stack: a row per original block, its box kept or crossed out, its score as a bar."""

from __future__ import annotations

from markupsafe import Markup

from compress.plan import Plan
from compress.report.numbers import blocks, small, ticks
from compress.report.svg import DARK, GREY, LIGHT, WIDTH, Canvas, Scale, x_axis
from compress.scores import Scores

ROW, TOP, LEFT, RIGHT = 22, 6, 92, 400


def block_map(name: str, plan: Plan | None, scores: Scores | None) -> Markup:
    """Either may be missing: no scores, no bars; no plan, no boxes."""
    depth = plan.depth if plan is not None else scores.subject.depth if scores is not None else 0
    bottom = TOP + ROW * depth
    stack = f"{plan.role} {plan.part}" if plan else f"{scores.subject.role} {scores.subject.part}" if scores else ""
    canvas = Canvas(name, f"Kept-block map of {stack}", _description(plan, scores), bottom + (42 if scores else 6))
    if scores is not None:
        _bars(canvas, scores, bottom)
    for block in range(depth):
        y = TOP + ROW * block
        canvas.text(26, y + 16, str(block), "end")
        if plan is not None:
            _box(canvas, y, _state(plan, block))
    return canvas.markup()


def _state(plan: Plan, block: int) -> str:
    return "kept" if block in plan.kept else "dropped" if block in plan.dropped else "gone"


def _box(canvas: Canvas, y: float, state: str) -> None:
    x, side = 36, 14
    if state == "kept":
        canvas.rect(x, y + 4, side, side, DARK, DARK)
    elif state == "dropped":
        canvas.rect(x, y + 4, side, side, "#fff", "#111")
        canvas.line(x, y + 4, x + side, y + 4 + side)
        canvas.line(x, y + 4 + side, x + side, y + 4)
    else:
        canvas.rect(x, y + 4, side, side, "#fff", GREY, "2 2")


def _bars(canvas: Canvas, scores: Scores, bottom: float) -> None:
    everything = [0.0, *scores.values, *(value for half in scores.per_half for value in half)]
    marks = ticks(min(everything), max(everything), 4)
    scale = Scale(marks[0], marks[-1], LEFT, RIGHT)
    x_axis(canvas, scale, [(v, small(v)) for v in marks], TOP, bottom, f"{scores.metric} score (low leaves first)")
    letters = {block: chr(ord("a") + i % 26) for i, group in enumerate(scores.ties) for block in group}
    for at, (block, value) in enumerate(zip(scores.subject.blocks, scores.values, strict=True)):
        y = TOP + ROW * block
        low, high = sorted((scale(0.0), scale(value)))
        canvas.rect(low, y + 4, high - low, 14, "#b9c4d0", "#5d6b7a")
        halves = [scale(half[at]) for half in scores.per_half]
        if halves:
            canvas.whisker(min(halves), max(halves), y + 11, "#111")
        if block in letters:
            canvas.text(66, y + 16, f"={letters[block]}", "middle", "tick")
        canvas.text(WIDTH - 2, y + 16, small(value), "end")
    canvas.line(scale(0.0), TOP, scale(0.0), bottom, LIGHT if marks[0] < 0 else "#111")


def _description(plan: Plan | None, scores: Scores | None) -> str:
    words = []
    if plan is not None:
        words.append(f"Kept blocks: {blocks(plan.kept)}. Dropped blocks: {blocks(plan.dropped)}.")
    if scores is not None:
        pairs = zip(scores.subject.blocks, scores.values, strict=True)
        words.append("Scores: " + ", ".join(f"block {block} {small(value)}" for block, value in pairs) + ".")
    return " ".join(words)
