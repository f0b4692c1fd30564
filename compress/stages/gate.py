# SPDX-License-Identifier: Apache-2.0
"""Simulated episodes of both artifacts, pair by pair, until it is decided: promote or hold."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from compress.progress import Bar
from compress.recipe import Recipe
from compress.run_dir import Result
from compress.stages.context import Context
from compress.stages.export import BASELINE, CANDIDATE

if TYPE_CHECKING:
    from compress.gate.sim_gate import GateProgress

KEPT = ("gate.json", "gate.md", "episodes.parquet", "filmstrips", "plan.json", "episodes.jsonl")


class GateFailedError(RuntimeError):
    """The gate could not be asked: neither promote nor hold."""


def settings(recipe: Recipe) -> dict[str, Any]:
    """What is asked; how many processes carry it out may change."""
    return recipe.gate.protocol()


def run(ctx: Context) -> Result:
    """Write `gate.json`, `gate.md`, `episodes.parquet` and filmstrips.

    Raises:
        GateFailedError: the question was wrong (an artifact that cannot be read, a folder of another run).
    """
    from compress.gate.sim_gate import run_gate

    drafts = ctx.of("export")
    with ctx.progress.bar("gate", 0) as bar:
        report = run_gate(drafts / CANDIDATE, drafts / BASELINE, ctx.recipe.gate, ctx.work, tally(bar))
    if report.exit_code == 2:
        raise GateFailedError(f"gate: {report.reason}")
    kept = [name for name in KEPT if (ctx.work / name).exists()]
    for name in kept:
        source, target = ctx.work / name, ctx.folder / name
        shutil.copytree(source, target) if source.is_dir() else shutil.copyfile(source, target)
    episodes = int(report.data.get("episodes", 0))
    facts = {"verdict": report.verdict.value, "reason": report.reason, "episodes": episodes}
    return Result([ctx.folder / name for name in kept], facts, final=episodes > 0)


def tally(bar: Bar) -> Callable[[GateProgress], None]:
    """A callback that shows the phase and how many of each arm's episodes succeeded in it."""
    won: dict[str, list[int]] = {}
    phase = ""

    def show(step: GateProgress) -> None:
        nonlocal phase
        if step.phase != phase:
            won.clear()
            phase = step.phase
        count = won.setdefault(step.row.arm, [0, 0])
        count[0] += step.row.success
        count[1] += 1
        arms = ", ".join(f"{arm} {good}/{all_}" for arm, (good, all_) in won.items())
        bar.update(step.done, step.total, f"{step.phase}: {arms}")

    return show
