# SPDX-License-Identifier: Apache-2.0
"""The report for people: one self-contained HTML file from the evidence of the stages before."""
from __future__ import annotations
from pathlib import Path
from typing import Any
from compress.recipe import Recipe
from compress.run_dir import Result
from compress.stages.context import Context


def settings(recipe: Recipe) -> dict[str, Any]:
    """The name it carries."""
    return {"name": recipe.name}


def run(ctx: Context) -> Result:
    """PENDING"""
    out = build_from(ctx.run.root, ctx.folder / "report.html")
    return Result([out])


def build_from(folder: Path, out: Path) -> Path:
    """PENDING"""
    raise NotImplementedError
