# SPDX-License-Identifier: Apache-2.0
"""Fine-tune the pruned policy until it works again; an interrupted training goes on where it stopped."""

from __future__ import annotations

import shutil
from typing import Any

from compress.recipe import Recipe
from compress.run_dir import Result
from compress.scale.world import current
from compress.stages.context import Context, sections
from compress.stages.drop import MODEL

REPORT, STOCK = "recovery.json", "stock"


def settings(recipe: Recipe) -> dict[str, Any]:
    """Model (the teacher) and recovery."""
    return {**sections(recipe, "model"), "recover": recipe.recover.decisive()}


def run(ctx: Context) -> Result:
    """Write the recovered checkpoint to `model/`, and `recovery.json`; where a stock class reads it, also `stock/`."""
    from compress.dtr.recover import recover
    from compress.stages.data import load
    from compress.stages.device import placed
    from compress.stages.trim import whole

    family, spec = ctx.recipe.model.family, ctx.recipe.recover
    model = placed(family, ctx.of("drop") / MODEL)
    teacher = whole(ctx) if spec.taught or spec.compute_matched else None
    with ctx.bar("recover", spec.steps) as report:
        done = recover(model, load(ctx, model), spec, ctx.work, teacher, report)
    if not current().first:
        return Result([])
    model.module.to("cpu")
    model.save(ctx.folder / MODEL)
    shutil.copyfile(ctx.work / REPORT, ctx.folder / REPORT)
    stock = model.stock_config() is not None
    if stock:
        model.save_stock(ctx.folder / STOCK)
    facts = {
        "stock": "written" if stock else "none: no stock loader builds this network",
        "steps": done.steps,
        "loss_before": round(done.loss_before, 5),
        "loss_after": round(done.loss_after, 5),
        "resumed_at": done.resumed_at,
    }
    outputs = [ctx.folder / name for name in (MODEL, REPORT, *([STOCK] if stock else []))]
    return Result(outputs, facts, identity=done.identity_after)
