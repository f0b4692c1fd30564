# SPDX-License-Identifier: Apache-2.0
"""Scores and budgets in, kept blocks out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress import digests
from compress.atomic import write_json
from compress.plan import Costs, Plan, PlanError, make_plan, save_plans
from compress.plan_budget import Stack, plan_for_budget
from compress.plan_spec import PlanSpec, latency_budget
from compress.recipe import Recipe
from compress.run_dir import Result
from compress.scores import Scores
from compress.stages.context import Context, sections
from compress.stages.probe import SCORES, load_scores

if TYPE_CHECKING:
    from compress.export.onnx_export import ExportedGraph
    from compress.models.base import Batch, ExportStage, VlaModel

PLANS, COSTS = "plan.json", "costs.json"


def settings(recipe: Recipe) -> dict[str, Any]:
    """Model and plan; where a latency counts, also how it is measured."""
    found = sections(recipe, "model", "plan")
    if latency_budget(recipe.plan) is not None:
        export = recipe.export
        tasks = export.tasks if isinstance(export.tasks, str) else list(export.tasks)
        form = [export.precision, export.sampler, export.opset, list(export.trims), tasks]
        found["measured"] = {"threads": export.threads, "rounds": export.bench_runs, "graph": form}
    return found


def run(ctx: Context) -> Result:
    """Write `plan.json` and `costs.json`, and show the kept-block map."""
    from compress.calibration import from_demos
    from compress.stages.data import load
    from compress.stages.trim import whole

    model = whole(ctx, gpu=False)
    one = next(iter(from_demos(model, load(ctx, model), 1, 1, 0)))
    scores = {(s.subject.role, s.subject.part): s for s in load_scores(ctx.of("probe") / SCORES)}
    costs = counted(ctx, model, one, ctx.recipe.plan, timed=latency_budget(ctx.recipe.plan) is not None)
    plans = choose(ctx.recipe.plan, scores, costs)
    save_plans(ctx.folder / PLANS, plans)
    write_json(ctx.folder / COSTS, {"costs": [asdict(cost) for cost in costs]})
    for plan in plans:
        ctx.say(plan.map_text())
    facts: dict[str, Any] = {"map": [plan.map_text() for plan in plans], "kept": _kept(plans)}
    if (found := expected(plans)) is not None:
        facts |= {"expected_ms": round(found[0], 3), "whole_ms": round(found[1], 3), "timed_on": costs[0].device}
        ctx.say(f"expected: {found[0]:.2f} ms of {found[1]:.2f} ms, by {costs[0].device}; scores are added up")
    identity = digests.of_file(ctx.folder / PLANS)  # times that changed nothing change nothing
    return Result([ctx.folder / PLANS, ctx.folder / COSTS], facts, identity)


def choose(specs: Sequence[PlanSpec], scores: dict[tuple[str, str], Scores], costs: Sequence[Costs]) -> list[Plan]:
    """One plan per entry; those with a latency budget are chosen together, after what the others save."""
    limit = latency_budget(specs)
    made = {
        at: make_plan(scores[spec.role, spec.part], spec, cost)
        for at, (spec, cost) in enumerate(zip(specs, costs, strict=True))
        if spec.latency_budget_ms is None
    }
    free = [at for at in range(len(specs)) if at not in made]
    if limit is not None:
        saved = sum(costs[at].saved_ms(made[at].dropped) for at in made)
        stacks = [Stack(scores[specs[at].role, specs[at].part], specs[at], costs[at]) for at in free]
        together = plan_for_budget(stacks, limit, saved, [made[at] for at in made])
        made |= dict(zip(free, together, strict=True))
    return [made[at] for at in range(len(specs))]


def expected(plans: Sequence[Plan]) -> tuple[float, float] | None:
    """Expected latency of the pruned and of the whole policy [ms], where a budget was kept."""
    for plan in plans:
        if {"latency_ms", "latency_before_ms"} <= set(plan.predicted):
            return plan.predicted["latency_ms"], plan.predicted["latency_before_ms"]
    return None


def counted(ctx: Context, model: VlaModel, batch: Batch, specs: Sequence[PlanSpec], timed: bool) -> tuple[Costs, ...]:
    """Parameters and FLOPs of every entry's blocks; `timed`: also their time in the engine on this machine."""
    from compress.block_cost import engine_timings
    from compress.costs import Timing, measure
    from compress.export.onnx_export import export_stage
    from compress.export.options import GraphOptions
    from compress.export.trims import TrimSpec, trimmed
    from compress.stages.tasks import closed_prompt
    from compress.stages.trim import whole

    parts = [(spec.role, spec.part, spec.form) for spec in specs]
    export = ctx.recipe.export
    known: dict[tuple[str, str, str], Timing] = {}
    if timed:
        about, tokenizer = model.specs(), model.side_files()
        trims = TrimSpec(export.trims, closed_prompt(ctx.recipe, about["prompt"]).tasks or ())

        def written(stage: ExportStage, folder: Path) -> ExportedGraph:
            """As the export stage will: what is trimmed there must not be timed here."""
            small = trimmed(stage, about, tokenizer[about["prompt"].tokenizer_file], trims)
            return export_stage(small.stage, folder, options=GraphOptions.of(export), rewrite=small.rewrite)

        known = engine_timings(
            lambda: whole(ctx, gpu=False), batch, parts, written, export.bench_runs, export.threads, ctx.say
        )
    return tuple(
        measure(model, batch, role, part, (lambda *_, key=(role, part, form): known[key]) if timed else None, form)
        for role, part, form in parts
    )


def what_if(ctx: Context, budgets: Sequence[float]) -> list[list[Plan]]:
    """The plans for other latency budgets [ms], from the same scores; changes nothing.

    Every stack of the recipe that is ranked shares the budget; given lists stay. Times are those that the plan stage
    measured, or are measured now.
    """
    from compress.calibration import from_demos
    from compress.stages.data import load
    from compress.stages.trim import whole

    scores = {(s.subject.role, s.subject.part): s for s in load_scores(ctx.of("probe") / SCORES)}
    specs, costs = ctx.recipe.plan, load_costs(ctx.of("plan") / COSTS)
    if any(cost.total_latency_ms is None for cost in costs):
        model = whole(ctx, gpu=False)
        one = next(iter(from_demos(model, load(ctx, model), 1, 1, 0)))
        costs = counted(ctx, model, one, specs, timed=True)
    found = []
    for ms in budgets:
        under = [
            s if s.blocks is not None else PlanSpec(s.role, s.part, latency_budget_ms=ms, form=s.form) for s in specs
        ]
        found.append(choose(under, scores, costs))
    return found


def load_costs(path: Path) -> tuple[Costs, ...]:
    """What `run` measured.

    Raises:
        PlanError: no such file.
    """
    try:
        return tuple(Costs.from_json(entry) for entry in json.loads(path.read_text())["costs"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PlanError(f"{path} holds no costs ({error}): run `compress plan --force` again") from error


def _kept(plans: Sequence[Plan]) -> dict[str, list[int]]:
    return {f"{plan.role}/{plan.part}": list(plan.kept) for plan in plans}
