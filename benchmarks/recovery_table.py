# SPDX-License-Identifier: Apache-2.0
"""Does it matter which blocks leave? Every cell is pruned, recovered, exported and run in LIBERO on the same scenes.

    python benchmarks/recovery_table.py OUT --demos DEMOS --seeds 3 --steps 450 --pairs 100
    python benchmarks/recovery_table.py OUT --demos DEMOS            the same again: goes on, or prints the table

Cells: the whole policy; GateProbe, uniform and random half of the language blocks; GateProbe with two language blocks
left; half of the vision blocks; the whole policy with the same fine-tuning (what fine-tuning alone does); and four
random blocks gone without recovery, which the gate must hold. A seed is that of the batches, and of the draw where
blocks are drawn. The scenes are the first ones of the gate's own order, the same for all, so
every cell is paired with the whole policy. `--jobs` cells run side by side, one thread each; a kill loses seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from compress.atomic import write_json

KEEP_HALF, VISION = 6, "vision.siglip"
RESULT, SCORES, TABLE, BROKEN_GATE = "result.json", "probe.json", "table.json", "gate-of-broken"


@dataclass(frozen=True)
class Cell:
    """One line of the table: which metric drops blocks of which stack, how many stay, and whether it is recovered."""

    name: str
    metric: str = ""
    role: str = "language"
    keep: int | None = None
    drop: int | None = None
    recovered: bool = True


WHOLE = Cell("full", recovered=False)
BROKEN = Cell("broken", "random", drop=4, recovered=False)
CELLS = (
    WHOLE,
    Cell("gateprobe-half", "gateprobe", keep=KEEP_HALF),
    Cell("uniform-half", "uniform", keep=KEEP_HALF),
    Cell("random-half", "random", keep=KEEP_HALF),
    Cell("gateprobe-keep-2", "gateprobe", keep=2),
    Cell("vision-half", "gateprobe", VISION, keep=2),
    Cell("full-tuned"),
    BROKEN,
)


@dataclass(frozen=True)
class Task:
    """One cell with one seed."""

    cell: Cell
    seed: int

    def folder(self, out: Path) -> Path:
        return out / (f"{self.cell.name}-{self.seed}" if self.cell.recovered else self.cell.name)


def tasks(seeds: int) -> list[Task]:
    """All seeds of a cell, ordered so that every cell has its first seed before any has its second."""
    return [Task(cell, seed) for seed in range(seeds) for cell in CELLS if cell.recovered or seed == 0]


def probe(given: argparse.Namespace, out: Path) -> None:
    """GateProbe of both stacks, once for all cells."""
    from compress.baselines import scorer
    from compress.calibration import from_demos
    from compress.data.libero_hdf5 import open_demos
    from compress.stages.device import placed

    if (out / SCORES).exists():
        return
    model = placed("reference", given.checkpoint)
    batches = from_demos(model, open_demos(given.demos).load_arrays(), given.samples, 8, 0)
    scores = [scorer("gateprobe")(model, batches, role, "block", 0) for role in ("language", VISION)]
    write_json(out / SCORES, {"scores": [item.to_json() for item in scores], "calibration": batches.digest()})


def run_cell(task: Task, given: argparse.Namespace, out: Path) -> None:
    """Prune, recover, export, and play the episodes of one cell; each part is skipped if it is there."""
    from compress.calibration import pick
    from compress.data.libero_hdf5 import open_demos
    from compress.dtr.recover import recover
    from compress.dtr.spec import RecoverSpec
    from compress.export.draft import export_draft
    from compress.stages.device import placed

    folder, cell, began = task.folder(out), task.cell, time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {"cell": cell.name, "seed": task.seed}
    if not (folder / "draft").exists():
        demos = open_demos(given.demos).load_arrays()
        model = placed("reference", given.checkpoint)
        if cell.metric:
            result["dropped"] = prune(model, task, out)
        if cell.recovered:
            spec = RecoverSpec(steps=given.steps, batch_size=given.batch_size, lr=given.lr, warmup=20, seed=task.seed)
            report = recover(model, demos, spec, folder / "work", progress=shown(folder))
            result |= {"loss_before": report.loss_before, "loss_after": report.loss_after, "recover_s": report.wall_s}
        model.module.to("cpu")
        result["parameters"] = sum(p.numel() for p in model.module.parameters())
        samples = pick(demos, 4, 0, int(model.specs()["action"].horizon))
        export_draft(model, samples, folder / "draft", lineage(model.identity()))
        write_json(folder / "made.json", result)
        shutil.rmtree(folder / "work", ignore_errors=True)
    else:
        result = json.loads((folder / "made.json").read_text())
    play(folder, given.pairs)
    write_json(folder / RESULT, {**result, "wall_s": time.monotonic() - began})


def prune(model: Any, task: Task, out: Path) -> list[int]:
    """Drop the blocks of a cell; gives their indices."""
    from compress.baselines import scorer
    from compress.dtr.drop import drop
    from compress.plan import PlanSpec, make_plan
    from compress.stages.probe import load_scores

    cell = task.cell
    if cell.metric == "gateprobe":
        scores = next(item for item in load_scores(out / SCORES) if item.subject.role == cell.role)
    else:
        scores = scorer(cell.metric)(model, (), cell.role, "block", task.seed)
    plan = make_plan(scores, PlanSpec(role=cell.role, keep=cell.keep, drop=cell.drop))
    drop(model, plan)
    return list(plan.dropped)


def lineage(identity: str) -> dict[str, Any]:
    """A draft says where it comes from; these never leave this folder."""
    source = {"name": "reference-builtin", "revision": "benchmark", "sha256": identity}
    return {"source": source, "recipe_sha256": "0" * 64, "plan_sha256": "0" * 64}


def play(folder: Path, pairs: int) -> None:
    """The first `pairs` scenes of the gate's order with this cell's draft; finished episodes are kept."""
    from compress.gate.jobs import Job, WorkerSetup
    from compress.gate.plan import make_plan
    from compress.gate.policies import artifact_source
    from compress.gate.rows import RowLog
    from compress.gate.sim_gate import suite_tasks
    from compress.gate.spec import GateSpec
    from compress.gate.workers import WorkerPool

    spec = GateSpec(pairs=pairs)
    suite, source = suite_tasks(spec), artifact_source(folder / "draft", spec)
    plan = make_plan(spec, suite, {"candidate": source.identity, "baseline": source.identity})
    pixels, policies = source.image_size or 128, {"candidate": source}
    setup = WorkerSetup(spec.suite, "", pixels, spec.open_loop, spec.envs_per_worker, policies)
    jobs = [Job.of("candidate", "candidate", pair, plan.task(pair.task).max_steps) for pair in plan.order[:pairs]]
    names = {task.index: task.name for task in suite}
    with (
        RowLog(folder / "episodes.jsonl") as log,
        WorkerPool(setup, 1, spec.episode_timeout_s, folder / "logs", names) as pool,
    ):
        pool.run([job for job in jobs if job.key not in log.rows], log.append)


def hold_broken(out: Path) -> dict[str, Any]:
    """The gate of the quick recipe on the broken policy; it must say `hold`."""
    from compress.gate.sim_gate import run_gate
    from compress.gate.spec import GateSpec

    spec = GateSpec(pairs=150, margin=0.10, floor_states=8, panels={}, workers=os.cpu_count() or 1)
    report = run_gate(out / BROKEN.name / "draft", out / WHOLE.name / "draft", spec, out / BROKEN_GATE)
    return {"verdict": report.verdict.value, "reason": report.reason}


def shown(folder: Path) -> Callable[[int, int, str], None]:
    """Progress into a file, where a person can look."""
    return lambda done, total, text: (folder / "progress.txt").write_text(f"{done}/{total} {text}\n") and None


def successes(folder: Path) -> dict[Any, bool]:
    """(task, state) -> success."""
    from compress.gate.rows import read_rows

    return {(row.task, row.state): row.success for row in read_rows(folder / "episodes.jsonl")}


def table(given: argparse.Namespace, out: Path) -> dict[str, Any]:
    """Every cell against the whole policy on the same scenes."""
    whole = successes(out / WHOLE.name)
    return {
        "schema": "dropgate.recovery_table/1",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "settings": {name: getattr(given, name) for name in ("steps", "batch_size", "lr", "pairs", "seeds", "samples")},
        "cells": [line for cell in CELLS if (line := summary(cell, given, out, whole))],
    }


def summary(cell: Cell, given: argparse.Namespace, out: Path, whole: dict[Any, bool]) -> dict[str, Any]:
    """One line; empty if no seed of the cell is finished."""
    from compress.gate.intervals import tango, wilson

    done = [task for task in tasks(given.seeds) if task.cell == cell and (task.folder(out) / RESULT).exists()]
    if not done:
        return {}
    made = [json.loads((task.folder(out) / RESULT).read_text()) for task in done]
    rows = [successes(task.folder(out)) for task in done]
    both = [(found[scene], whole[scene]) for found in rows for scene in found if scene in whole]
    lost = sum(before and not now for now, before in both)
    gained = sum(now and not before for now, before in both)
    won, played = sum(sum(found.values()) for found in rows), sum(len(found) for found in rows)
    return {
        "cell": cell.name,
        "seeds": [task.seed for task in done],
        "per_seed": [f"{sum(found.values())}/{len(found)}" for found in rows],
        "dropped": [item.get("dropped", []) for item in made],
        "loss_after": [item.get("loss_after") for item in made],
        "parameters": made[0].get("parameters"),
        "success": won / played,
        "wilson_95": wilson(won, played),
        "lost": lost,
        "gained": gained,
        "difference": (gained - lost) / max(1, len(both)),
        "tango_95": tango(lost, gained, len(both)),
    }


def shown_table(result: dict[str, Any]) -> str:
    """For people. Scenes repeat between seeds, so the intervals over seeds are somewhat too narrow."""
    lines = [f"{'cell':<18}{'per seed':<28}{'success':>9}{'95 %':>16}{'minus full':>12}{'95 %':>18}"]
    for line in result["cells"]:
        low, high = line["wilson_95"]
        worse, better = line["tango_95"]
        lines.append(
            f"{line['cell']:<18}{', '.join(line['per_seed']):<28}{line['success']:>9.3f}{low:>9.3f}-{high:.3f}"
            f"{line['difference']:>+12.3f}{worse:>+11.3f}..{better:+.3f}"
        )
    if "broken" in result:
        lines.append(f"gate on the broken policy: {result['broken']['verdict']}: {result['broken']['reason']}")
    return "\n".join(lines)


def one_process(task: Task, given: argparse.Namespace) -> int:
    """The cell in a process of its own, with its share of the cores."""
    command = [sys.executable, __file__, *sys.argv[1:], "--cell", task.cell.name, "--seed", str(task.seed)]
    threads = str(max(1, (os.cpu_count() or 1) // given.jobs))
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    folder = task.folder(given.out)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("ab") as log:
        return subprocess.run(
            command, env=os.environ | dict.fromkeys(names, threads), stdout=log, stderr=log, check=False
        ).returncode


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--demos", type=Path, nargs="+", required=True, help="HDF5 files or folders of them")
    parser.add_argument("--checkpoint", default="builtin")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=450)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--samples", type=int, default=256, help="of the probe")
    parser.add_argument("--pairs", type=int, default=100, help="episodes per cell and seed")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--cell", choices=[cell.name for cell in CELLS], help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    given = arguments()
    out = given.out
    out.mkdir(parents=True, exist_ok=True)
    if given.cell:
        run_cell(Task(next(cell for cell in CELLS if cell.name == given.cell), given.seed), given, out)
        return 0
    probe(given, out)
    left = [task for task in tasks(given.seeds) if not (task.folder(out) / RESULT).exists()]
    with ThreadPoolExecutor(given.jobs) as pool:
        for task, code in zip(left, pool.map(lambda task: one_process(task, given), left), strict=True):
            print(f"{task.folder(out).name}: {'done' if code == 0 else f'failed, see {task.folder(out)}/log.txt'}")
    result = table(given, out)
    if (out / BROKEN.name / RESULT).exists():
        result["broken"] = hold_broken(out)
    write_json(out / TABLE, result)
    print(shown_table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
