# SPDX-License-Identifier: Apache-2.0
"""Which recovery gives most for the same compute? Closed-loop success of the built-in policy cut to 6 and to 2 blocks.

    python benchmarks/recovery_methods.py OUT --demos DEMOS --scores PROBE.json      the same again: goes on

Methods: plain fine-tuning; closed-form healing of the cuts, then fine-tuning; fine-tuning that also follows the
unpruned policy's streams; fine-tuning that also follows its answers. Same compute: `--steps` is what plain
fine-tuning gets, and the others get as many steps as fit into its FLOPs (counted, backward and healing included).
Beside them, with far less compute: the healing alone, without any step. The blocks are GateProbe's, the same for all;
a seed is that of the batches. The scenes are the first ones of the gate's order, the same for all.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from recovery_table import lineage, play, shown, successes

from compress.atomic import write_json

METHODS: dict[str, dict[str, Any]] = {
    "plain": {},
    "healing": {"heal": True},
    "features": {"features": 0.1},
    "teacher": {"distill": 1.0},
    "healed": {"heal": True, "steps": 0},  # no training at all
}
KEEPS = (6, 2)
COSTS, RESULT, TABLE = "costs.json", "result.json", "table.json"


def spec_of(method: str, steps: int, seed: int) -> Any:
    """The recovery settings of a cell; the vision tower lost nothing and stays as it is."""
    from compress.dtr.spec import RecoverSpec

    how = {"steps": steps, **METHODS[method]}
    return RecoverSpec(batch_size=32, lr=5e-4, warmup=20, seed=seed, freeze=("vision.siglip",), **how)


def pruned(given: argparse.Namespace, keep: int) -> tuple[Any, Any, list[int]]:
    """The cut policy, the whole one, and what left."""
    from compress.dtr.drop import drop
    from compress.plan import PlanSpec, make_plan
    from compress.stages.device import placed
    from compress.stages.probe import load_scores

    model, teacher = (placed("reference", "builtin", gpu=False) for _ in range(2))
    scores = next(item for item in load_scores(given.scores) if item.subject.role == "language")
    plan = make_plan(scores, PlanSpec(role="language", keep=keep))
    drop(model, plan)
    return model, teacher, list(plan.dropped)


def measure(given: argparse.Namespace, demos: Any) -> dict[str, dict[str, float]]:
    """FLOPs of one training step of every method, backward included, and of the healing, for each keep."""
    from torch.utils.flop_counter import FlopCounterMode

    from compress.costs import CPU_ATTENTION
    from compress.dtr.freeze import frozen
    from compress.dtr.heal import heal
    from compress.dtr.recover import HEAL_BATCHES, HEAL_FROM
    from compress.dtr.teacher import distilled_loss
    from compress.training import action_loss

    costs: dict[str, dict[str, float]] = {}
    for keep in KEEPS:
        model, teacher, _ = pruned(given, keep)
        source = source_of(model, demos)
        batches = [source.batch(HEAL_FROM + number) for number in range(HEAL_BATCHES)]
        with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
            heal(model, teacher, batches)
        found = {"healing itself": float(counter.get_total_flops())}
        model.module.train()
        for name, how in METHODS.items():
            loss_fn = action_loss
            if how.keys() & {"distill", "features"}:
                loss_fn = distilled_loss(teacher, how.get("distill", 0.0), how.get("features", 0.0))
                loss_fn(model, batches[0], 0)  # the first call asks the teacher twice
            with (
                frozen(model, ("vision.siglip",)),
                FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter,
            ):
                loss_fn(model, batches[1], 0).backward()
            found[name] = float(counter.get_total_flops())
        costs[str(keep)] = found
    return costs


def source_of(model: Any, demos: Any) -> Any:
    """Batches as recovery draws them."""
    from compress.data.frames import FrameSource

    training, _ = demos.split(0.1, 0)
    return FrameSource(demos, model, int(model.specs()["action"].horizon), 32, 0, training)


def steps_of(costs: dict[str, dict[str, float]], keep: int, method: str, steps: int) -> int:
    """As many as fit into the FLOPs of `steps` plain ones."""
    if METHODS[method].get("steps") == 0:
        return 0
    found = costs[str(keep)]
    healing = found["healing itself"] if METHODS[method].get("heal") else 0.0
    return max(1, round((steps * found["plain"] - healing) / found[method]))


def load_demos(given: argparse.Namespace) -> Any:
    from compress.data.libero_hdf5 import open_demos

    return open_demos(given.demos).load_arrays()


def run_cell(method: str, keep: int, seed: int, given: argparse.Namespace) -> None:
    """Recover, export, play."""
    from compress.calibration import pick
    from compress.dtr.recover import recover
    from compress.export.draft import export_draft

    folder, began = cell_folder(given.out, method, keep, seed), time.monotonic()
    costs = json.loads((given.out / COSTS).read_text())
    made = folder / "made.json"
    if not made.exists():
        demos = load_demos(given)
        model, teacher, dropped = pruned(given, keep)
        spec = spec_of(method, steps_of(costs, keep, method, given.steps), seed)
        report = recover(model, demos, spec, folder / "work", teacher, shown(folder))
        export_draft(
            model, pick(demos, 4, 0, int(model.specs()["action"].horizon)), folder / "draft", lineage(model.identity())
        )
        facts = {
            name: getattr(report, name) for name in ("steps", "loss_before", "loss_healed", "loss_after", "wall_s")
        }
        write_json(made, {"method": method, "keep": keep, "seed": seed, "dropped": dropped, **facts})
    play(folder, given.pairs)
    write_json(folder / RESULT, {**json.loads(made.read_text()), "cell_s": time.monotonic() - began})


def cell_folder(out: Path, method: str, keep: int, seed: int) -> Path:
    return out / f"{method}-{keep}-{seed}"


def one_process(cell: tuple[str, int, int], given: argparse.Namespace) -> int:
    """A cell in a process of its own, with its share of the cores."""
    method, keep, seed = cell
    command = [sys.executable, __file__, *sys.argv[1:], "--cell", method, "--keep", str(keep), "--seed", str(seed)]
    threads = str(max(1, (os.cpu_count() or 1) // given.jobs))
    folder = cell_folder(given.out, *cell)
    folder.mkdir(parents=True, exist_ok=True)
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    with (folder / "log.txt").open("ab") as log:
        env = os.environ | dict.fromkeys(names, threads)
        return subprocess.run(command, env=env, stdout=log, stderr=log, check=False).returncode


def table(given: argparse.Namespace) -> dict[str, Any]:
    """Every method at every keep, against plain fine-tuning on the same scenes and seeds."""
    from compress.gate.intervals import tango, wilson

    lines = []
    for keep in KEEPS:
        for method in METHODS:
            folders = {seed: cell_folder(given.out, method, keep, seed) for seed in range(given.seeds)}
            done = {seed: folder for seed, folder in folders.items() if (folder / RESULT).exists()}
            if not done:
                continue
            made = [json.loads((folder / RESULT).read_text()) for folder in done.values()]
            rows = {seed: successes(folder) for seed, folder in done.items()}
            plain = {s: successes(cell_folder(given.out, "plain", keep, s)) for s in done if plain_done(given, keep, s)}
            both = [(rows[s][scene], plain[s][scene]) for s in plain for scene in rows[s] if scene in plain[s]]
            gained, lost = sum(a and not b for a, b in both), sum(b and not a for a, b in both)
            won, played = sum(sum(r.values()) for r in rows.values()), sum(len(r) for r in rows.values())
            lines.append(
                {
                    "keep": keep, "method": method, "per_seed": [f"{sum(r.values())}/{len(r)}" for r in rows.values()],
                    "success": won / played, "wilson_95": wilson(won, played), "steps": made[0]["steps"],
                    "gained": gained, "lost": lost, "minus_plain": (gained - lost) / max(1, len(both)),
                    "tango_95": tango(lost, gained, len(both)) if both else None,
                    "loss_healed": [m["loss_healed"] for m in made], "loss_after": [m["loss_after"] for m in made],
                }
            )  # fmt: skip
    settings = {name: getattr(given, name) for name in ("steps", "pairs", "seeds")}
    costs = json.loads((given.out / COSTS).read_text())
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {"schema": "dropgate.recovery_methods/1", "date": now, "settings": settings, "costs": costs, "cells": lines}


def plain_done(given: argparse.Namespace, keep: int, seed: int) -> bool:
    return (cell_folder(given.out, "plain", keep, seed) / RESULT).exists()


def shown_table(result: dict[str, Any]) -> str:
    """For people. Scenes repeat between seeds, so the intervals over seeds are somewhat too narrow."""
    lines = [f"{'keep':<6}{'method':<10}{'steps':>6}  {'per seed':<24}{'success':>9}{'95 %':>16}{'minus plain':>13}"]
    for line in result["cells"]:
        low, high = line["wilson_95"]
        lines.append(
            f"{line['keep']:<6}{line['method']:<10}{line['steps']:>6}  {', '.join(line['per_seed']):<24}"
            f"{line['success']:>9.3f}{low:>9.3f}-{high:.3f}{line['minus_plain']:>+13.3f}"
        )
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--demos", type=Path, nargs="+", required=True, help="HDF5 files or folders of them")
    parser.add_argument("--scores", type=Path, required=True, help="probe.json of the whole policy, by recovery_table")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=450)
    parser.add_argument("--pairs", type=int, default=60, help="episodes per cell and seed")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--cell", choices=list(METHODS), help=argparse.SUPPRESS)
    parser.add_argument("--keep", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    given = arguments()
    given.out.mkdir(parents=True, exist_ok=True)
    if given.cell:
        run_cell(given.cell, given.keep, given.seed, given)
        return 0
    if not (given.out / COSTS).exists():
        write_json(given.out / COSTS, measure(given, load_demos(given)))
    cells = [(method, keep, seed) for seed in range(given.seeds) for keep in KEEPS for method in METHODS]
    left = [cell for cell in cells if not (cell_folder(given.out, *cell) / RESULT).exists()]
    with ThreadPoolExecutor(given.jobs) as pool:
        for cell, code in zip(left, pool.map(lambda cell: one_process(cell, given), left), strict=True):
            folder = cell_folder(given.out, *cell)
            print(f"{folder.name}: {'done' if code == 0 else f'failed, see {folder}/log.txt'}", flush=True)
    result = table(given)
    write_json(given.out / TABLE, result)
    print(shown_table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
