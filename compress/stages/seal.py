# SPDX-License-Identifier: Apache-2.0
"""Draft, evidence, report and verdict become the final artifact, read back and verified."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from compress.recipe import Recipe
from compress.run_dir import Result
from compress.stages.context import Context
from compress.stages.export import BENCH, CANDIDATE, RECIPE
from compress.stages.plan import PLANS
from compress.stages.probe import SCORES
from compress.stages.recover import REPORT
from compress.stages.report import PAGE
from compress.stages.trim import REPORT as TRIMMED

ARTIFACT = "artifact"


def settings(recipe: Recipe) -> dict[str, Any]:
    """Nothing of its own."""
    del recipe
    return {}


def run(ctx: Context) -> Result:
    """Write `artifact/`."""
    from compress.seal import seal
    from runtime.contract.artifact import read_artifact

    out = seal(
        ctx.of("export") / CANDIDATE,
        evidence(ctx),
        None,
        ctx.folder / ARTIFACT,
        recipe=ctx.of("export") / RECIPE,
        report=ctx.of("report") / PAGE,
    )
    manifest = read_artifact(out).manifest
    verdict = manifest.gate.verdict.value if manifest.gate is not None else "none"
    return Result([out], {"artifact": str(out), "artifact_id": manifest.artifact_id, "verdict": verdict})


def evidence(ctx: Context) -> dict[str, Path]:
    """Name below `evidence/` -> file, for what there is."""
    found = {
        "trim.json": ctx.of("trim") / TRIMMED,
        "probe.json": ctx.of("probe") / SCORES,
        "plan.json": ctx.of("plan") / PLANS,
        "recovery.json": ctx.of("recover") / REPORT,
        "bench.json": ctx.of("export") / BENCH,
        "gate.json": ctx.of("gate") / "gate.json",
        "episodes.parquet": ctx.of("gate") / "episodes.parquet",
    }
    return {name: path for name, path in found.items() if path.is_file()}
