# SPDX-License-Identifier: Apache-2.0
"""The page for people: one self-contained HTML file from the evidence of the stages before."""

from __future__ import annotations

from typing import Any

from compress.recipe import Recipe
from compress.run_dir import Result
from compress.stages.context import Context

PAGE = "report.html"


def settings(recipe: Recipe) -> dict[str, Any]:
    """Nothing of its own: the page is made from the evidence."""
    del recipe
    return {}


def run(ctx: Context) -> Result:
    """Write `report.html`."""
    from compress.report import build

    return Result([build(ctx.run.root, ctx.folder / PAGE)])
