# SPDX-License-Identifier: Apache-2.0
"""Carry out the plan: a smaller checkpoint, not yet recovered."""

from __future__ import annotations

from typing import Any

from compress.plan import load_plans
from compress.recipe import Recipe
from compress.run_dir import Result
from compress.stages.context import Context, sections
from compress.stages.plan import PLANS

MODEL = "model"


def settings(recipe: Recipe) -> dict[str, Any]:
    """The model; the plan is an input."""
    return sections(recipe, "model")


def run(ctx: Context) -> Result:
    """Write the pruned checkpoint to `model/`."""
    from compress.dtr.drop import drop
    from compress.stages.trim import whole

    model = whole(ctx, gpu=False)
    before = sum(p.numel() for p in model.module.parameters())
    drop(model, load_plans(ctx.of("plan") / PLANS))
    after = sum(p.numel() for p in model.module.parameters())
    model.save(ctx.folder / MODEL)
    facts = {"parameters_before": before, "parameters": after, "share": round(after / before, 4)}
    return Result([ctx.folder / MODEL], facts, identity=model.identity())
