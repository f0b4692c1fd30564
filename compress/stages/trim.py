# SPDX-License-Identifier: Apache-2.0
"""The lossless pass, before anything is ranked: the checkpoint without weights that no action depends on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.atomic import write_json
from compress.recipe import Recipe
from compress.run_dir import Result
from compress.stages.context import Context, sections

if TYPE_CHECKING:
    from compress.models.base import VlaModel

MODEL, REPORT, OBSERVATIONS = "model", "trim.json", 4


def settings(recipe: Recipe) -> dict[str, Any]:
    """The model."""
    return sections(recipe, "model")


def run(ctx: Context) -> Result:
    """Write the unpruned checkpoint to `model/`, in DropGate's own form, and `trim.json`."""
    from compress.models.observations import random_samples
    from compress.stages.device import placed
    from compress.trim import trim

    model = placed(ctx.recipe.model.family, ctx.recipe.model.checkpoint, gpu=False)
    source = model.identity()
    report = trim(model, [model.collate([sample]) for sample in random_samples(model, OBSERVATIONS)])
    model.save(ctx.folder / MODEL)
    write_json(ctx.folder / REPORT, {"schema": "dropgate.trim/1", "source": source, **report.to_json()})
    facts = {
        "source": source,
        "weights_before": report.elements_before,
        "weights": report.elements_after,
        "removed": f"{report.share:.1%}",
    }
    return Result([ctx.folder / MODEL, ctx.folder / REPORT], facts, identity=model.identity())


def whole(ctx: Context, gpu: bool = True) -> VlaModel:
    """The unpruned policy as every later stage loads it."""
    from compress.stages.device import placed

    return placed(ctx.recipe.model.family, model_folder(ctx), gpu)


def model_folder(ctx: Context) -> Path:
    """Where `run` put it."""
    return ctx.of("trim") / MODEL
