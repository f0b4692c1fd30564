# SPDX-License-Identifier: Apache-2.0
"""Two drafts that the robot's runtime can load, the compressed policy and the one it came from, timed side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from compress import digests
from compress.atomic import write_atomic, write_json
from compress.plan import save_plans
from compress.receipt import version
from compress.recipe import Recipe
from compress.run_dir import Result
from compress.stages.context import Context
from compress.stages.drop import MODEL
from compress.stages.plan import PLANS
from compress.stages.trim import REPORT

CANDIDATE, BASELINE, BENCH, RECIPE, NO_PLAN = "candidate", "baseline", "bench.json", "recipe.yaml", "no_plan.json"


def settings(recipe: Recipe) -> dict[str, Any]:
    """All that ships: a draft names the recipe that made it."""
    return {
        "recipe": digests.of_value(recipe.to_ship()),
        "threads": recipe.export.threads,
        "bench_runs": recipe.export.bench_runs,
    }


def run(ctx: Context) -> Result:
    """Write `candidate/`, `baseline/`, `bench.json` and the recipe as it ships."""
    from compress.calibration import pick
    from compress.export.bench import compare
    from compress.export.draft import export_draft
    from compress.export.quantize_budget import Quantize
    from compress.stages.data import load
    from compress.stages.device import placed
    from compress.stages.trim import whole as unpruned

    recipe, spec = ctx.recipe, ctx.recipe.export
    whole = unpruned(ctx, gpu=False)
    small = placed(recipe.model.family, ctx.of("recover") / MODEL, gpu=False)
    source = json.loads((ctx.of("trim") / REPORT).read_text())["source"]
    samples = pick(load(ctx, whole), spec.golden, recipe.seed, int(whole.specs()["action"].horizon))
    text = recipe.to_ship().encode()
    write_atomic(ctx.folder / RECIPE, lambda stream: stream.write(text))
    save_plans(ctx.folder / NO_PLAN, [])
    plans = {CANDIDATE: (small, ctx.of("plan") / PLANS), BASELINE: (whole, ctx.folder / NO_PLAN)}
    fewer = None if spec.quantize == "none" else Quantize(spec.quantize, spec.quantize_budget)
    reports = {}
    for name, (model, plan) in plans.items():
        lineage, asked = _lineage(recipe, source, plan, ctx.folder / RECIPE), fewer if name == CANDIDATE else None
        reports[name] = export_draft(
            model, samples, ctx.folder / name, lineage, ctx.say, opset=spec.opset, quantize=asked
        )
    artifacts = {BASELINE: (ctx.folder / BASELINE, whole), CANDIDATE: (ctx.folder / CANDIDATE, small)}
    bench = compare(artifacts, spec.bench_runs, spec.threads, ctx.say)
    write_json(ctx.folder / BENCH, bench.to_json())
    facts = {
        "policy_id": reports[CANDIDATE].policy_id,
        "baseline_policy_id": reports[BASELINE].policy_id,
        "graph_speedup": round(bench.speedup[CANDIDATE], 3),
        "graph_p50_ms": round(bench.timing(CANDIDATE, "onnxruntime").p50_ms, 3),
    }
    identity = digests.of_value([reports[CANDIDATE].artifact_id, reports[BASELINE].artifact_id])
    outputs = [ctx.folder / name for name in (CANDIDATE, BASELINE, BENCH, RECIPE, NO_PLAN)]
    return Result(outputs, facts, identity)


def _lineage(recipe: Recipe, identity: str, plan: Path, shipped: Path) -> dict[str, Any]:
    builtin = recipe.model.checkpoint == "builtin"
    name = f"{recipe.model.family}-builtin" if builtin else Path(recipe.model.checkpoint).name
    return {
        "source": {"name": name, "revision": version() if builtin else "local", "sha256": identity},
        "recipe_sha256": digests.of_file(shipped),
        "plan_sha256": digests.of_file(plan),
    }
