# SPDX-License-Identifier: Apache-2.0
"""Scores and budgets in, kept blocks out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from compress.plan import Plan, PlanSpec, make_plan, save_plans
from compress.recipe import Recipe
from compress.run_dir import Result
from compress.stages.context import Context, sections
from compress.stages.probe import SCORES, load_scores

if TYPE_CHECKING:
    from compress.models.base import Batch, VlaModel

PLANS = "plan.json"


def settings(recipe: Recipe) -> dict[str, Any]:
    """Model and plan."""
    return sections(recipe, "model", "plan")


def run(ctx: Context) -> Result:
    """Write `plan.json`, and show the kept-block map."""
    from compress.calibration import from_demos
    from compress.stages.data import load
    from compress.stages.trim import whole

    model = whole(ctx, gpu=False)
    one = next(iter(from_demos(model, load(ctx, model), 1, 1, 0)))
    scores = {(s.subject.role, s.subject.part): s for s in load_scores(ctx.of("probe") / SCORES)}
    plans = [make_plan(scores[spec.role, spec.part], spec, _costs(model, one, spec)) for spec in ctx.recipe.plan]
    save_plans(ctx.folder / PLANS, plans)
    for plan in plans:
        ctx.say(plan.map_text())
    return Result([ctx.folder / PLANS], {"map": [plan.map_text() for plan in plans], "kept": _kept(plans)})


def _costs(model: VlaModel, batch: Batch, spec: PlanSpec) -> Any:
    """Counted always; timed on this machine only if the budget is a time."""
    from compress.costs import measure, time_parts

    timer = time_parts if spec.latency_budget_ms is not None else None
    return measure(model, batch, spec.role, spec.part, timer, spec.form)


def _kept(plans: list[Plan]) -> dict[str, list[int]]:
    return {f"{plan.role}/{plan.part}": list(plan.kept) for plan in plans}
