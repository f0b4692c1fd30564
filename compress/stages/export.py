# SPDX-License-Identifier: Apache-2.0
"""Two drafts that the robot's runtime can load, the compressed policy and the one it came from, timed side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress import digests
from compress.atomic import write_atomic, write_json
from compress.plan import load_plans, save_plans
from compress.receipt import version
from compress.recipe import Recipe
from compress.run_dir import Result
from compress.stages.context import Context
from compress.stages.drop import MODEL
from compress.stages.plan import PLANS, expected
from compress.stages.trim import REPORT

if TYPE_CHECKING:
    from compress.export.bench import BenchReport

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
    from compress.export.options import GraphOptions
    from compress.export.quantize_budget import Quantize
    from compress.export.trims import TrimSpec
    from compress.stages.data import load
    from compress.stages.device import placed
    from compress.stages.tasks import admitted_frames, closed_prompt
    from compress.stages.trim import whole as unpruned

    recipe, spec = ctx.recipe, ctx.recipe.export
    whole = unpruned(ctx, gpu=False)
    small = placed(recipe.model.family, ctx.of("recover") / MODEL, gpu=False)
    source = json.loads((ctx.of("trim") / REPORT).read_text())["source"]
    prompt, data = closed_prompt(recipe, whole.specs()["prompt"]), load(ctx, whole)
    trims = TrimSpec(spec.trims, prompt.tasks or ())
    horizon = int(whole.specs()["action"].horizon)
    samples = pick(data, spec.golden, recipe.seed, horizon, admitted_frames(data, prompt))
    text = recipe.to_ship().encode()
    write_atomic(ctx.folder / RECIPE, lambda stream: stream.write(text))
    save_plans(ctx.folder / NO_PLAN, [])
    plans = {CANDIDATE: (small, ctx.of("plan") / PLANS), BASELINE: (whole, ctx.folder / NO_PLAN)}
    options = GraphOptions.of(spec)
    fewer = None if spec.quantize == "none" else Quantize(spec.quantize, spec.quantize_budget)
    extras: dict[str, dict[str, Any]] = {  # the baseline is compared with, never shipped
        CANDIDATE: {"convertibility": spec.convertible, "quantize": fewer},
        BASELINE: {},
    }
    reports = {}
    for name, (model, plan) in plans.items():
        lineage = _lineage(recipe, source, plan, ctx.folder / RECIPE)
        reports[name] = export_draft(
            model, samples, ctx.folder / name, lineage, ctx.say, options=options, trims=trims, **extras[name]
        )
    artifacts = {BASELINE: (ctx.folder / BASELINE, whole), CANDIDATE: (ctx.folder / CANDIDATE, small)}
    bench = compare(artifacts, spec.bench_runs, spec.threads, ctx.say)
    expectation = beside(expected(load_plans(ctx.of("plan") / PLANS)), bench)
    write_json(ctx.folder / BENCH, {**bench.to_json(), **({"expected": expectation} if expectation else {})})
    facts = {
        "policy_id": reports[CANDIDATE].policy_id,
        "baseline_policy_id": reports[BASELINE].policy_id,
        "graph_speedup": round(bench.speedup[CANDIDATE], 3),
        "graph_p50_ms": round(bench.timing(CANDIDATE, "onnxruntime").p50_ms, 3),
        **{name: round(value, 3) for name, value in expectation.items()},
        "trims": "; ".join(part for item in reports[CANDIDATE].trims["trims"] for part in item["what"]) or "none",
    }
    identity = digests.of_value([reports[CANDIDATE].artifact_id, reports[BASELINE].artifact_id])
    outputs = [ctx.folder / name for name in (CANDIDATE, BASELINE, BENCH, RECIPE, NO_PLAN)]
    return Result(outputs, facts, identity)


def beside(plan: tuple[float, float] | None, bench: BenchReport) -> dict[str, float]:
    """What the plan expected of the graph, and what the bench found; empty where the plan expected nothing.

    `off` and `off_of_share` are relative differences, of the milliseconds and of the share of the whole policy's time;
    the share does not care whether the machine was busier then or now.
    """
    if plan is None:
        return {}
    ms, whole_ms = plan
    found, share = bench.timing(CANDIDATE, "onnxruntime").p50_ms, 1.0 / bench.speedup[CANDIDATE]
    return {
        "expected_ms": ms,
        "measured_ms": found,
        "off": found / ms - 1.0,
        "expected_share": ms / whole_ms,
        "measured_share": share,
        "off_of_share": share / (ms / whole_ms) - 1.0,
    }


def _lineage(recipe: Recipe, identity: str, plan: Path, shipped: Path) -> dict[str, Any]:
    builtin = recipe.model.checkpoint == "builtin"
    name = f"{recipe.model.family}-builtin" if builtin else Path(recipe.model.checkpoint).name
    return {
        "source": {"name": name, "revision": version() if builtin else "local", "sha256": identity},
        "recipe_sha256": digests.of_file(shipped),
        "plan_sha256": digests.of_file(plan),
    }
