# SPDX-License-Identifier: Apache-2.0
"""Score every block of every stack that the plan names, with the chosen metric and the ones to compare it with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress import digests
from compress.atomic import write_json
from compress.recipe import Recipe
from compress.run_dir import Result
from compress.scale.world import current
from compress.stages.context import Context, sections, stacks

if TYPE_CHECKING:
    from compress.scores import Scores

SCORES = "probe.json"


def settings(recipe: Recipe) -> dict[str, Any]:
    """Model and probe; of the plan only which stacks, so that another amount needs no new probe."""
    return {**sections(recipe, "model", "probe"), "stacks": stacks(recipe)}


def run(ctx: Context) -> Result:
    """Write `probe.json`."""
    from compress.baselines import scorer
    from compress.calibration import from_demos
    from compress.stages.data import load
    from compress.stages.trim import whole

    spec, model = ctx.recipe.probe, whole(ctx)
    batches = from_demos(model, load(ctx, model), spec.samples, spec.batch_size, spec.seed)
    scores: list[Scores] = []
    others: list[Scores] = []
    for role, part in stacks(ctx.recipe):
        for metric in (spec.metric, *(name for name in spec.compare if name != spec.metric)):
            with ctx.bar(f"{metric} {role}", len(batches)) as report:
                found = scorer(metric)(model, batches, role, part, spec.seed, report)
            (scores if metric == spec.metric else others).append(found)
        ctx.say(_line(scores[-1]))
    if not current().first:
        return Result([])
    data = {
        "schema": "dropgate.probe/1",
        "metric": spec.metric,
        "calibration": {"digest": batches.digest(), "samples": len(batches.sample_ids), "seed": spec.seed},
        "scores": [item.to_json() for item in scores],
        "compared": [item.to_json() for item in others],
    }
    write_json(ctx.folder / SCORES, data)
    facts = {
        "seconds": round(sum(item.wall_s for item in scores), 2),
        "drop_first": {s.subject.role: list(s.order()) for s in scores},
    }
    return Result([ctx.folder / SCORES], facts, identity=digests.of_value([item.digest() for item in scores]))


def load_scores(path: Path) -> tuple[Scores, ...]:
    """The scores that a plan goes by.

    Raises:
        compress.scores.ScoreError: not such a file.
    """
    from compress.scores import ScoreError, Scores

    try:
        entries = json.loads(path.read_text())["scores"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ScoreError(f"{path} is not a probe result ({error}): run `compress probe` again") from error
    return tuple(Scores.from_json(entry) for entry in entries)


def _line(scores: Scores) -> str:
    """Values in block order, and how far they can be trusted."""
    values = " ".join(f"{value:.2g}" for value in scores.values)
    stability = scores.stability
    trust = "" if stability is None or stability.kendall is None else f"; halves agree: Kendall {stability.kendall:.2f}"
    return f"{scores.subject.role}: {values}; drop first {list(scores.order()[:6])}{trust}"
