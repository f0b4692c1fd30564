# SPDX-License-Identifier: Apache-2.0
"""Makes a training set of scripted demonstrations on fresh layouts, in parallel, resumable, the same for the same seed.

Every attempt is decided by its number alone (layout, noise, speed), every finished attempt is a file, and the first N
successful attempts in order make the set: neither the number of workers nor an interruption changes the result.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.atomic import write_json
from compress.progress import Progress, choose
from compress.sim.demo_file import assemble, attempts_made
from compress.sim.demo_plan import WORST_SUCCESS_RATE, DemoPlan
from compress.sim.demo_workers import Recorders, finished, is_finished
from compress.sim.suites import EMBEDDED_SUITE, Task, open_suite

_PLAN_NAME = "plan.json"
_FAIR_TRIAL = 20  # attempts before a low success rate means anything


class DemoPlanMismatch(ValueError):
    """The folder holds demonstrations made with other settings."""


class ExpertFails(RuntimeError):
    """The expert fails so often that the set would never be complete."""


@dataclass(frozen=True)
class TaskDemos:
    """One finished file: its path, kept episodes, attempts up to the last kept one, size in bytes."""

    path: Path
    episodes: int
    attempts: int
    bytes: int


def write_demos(
    out_path: Path,
    suite: str = EMBEDDED_SUITE,
    tasks: Iterable[int | str] | None = None,
    workers: int = 2,
    assets: Path | None = None,
    progress: Progress | None = None,
    **plan_fields: Any,
) -> tuple[TaskDemos, ...]:
    """Writes `<task>_demo.hdf5` for each task under `out_path`; call it again to continue after an interruption.

    Args:
        out_path: folder; created when missing.
        suite: suite name.
        tasks: indices, names or sentences; None = all.
        workers: processes; 0 records in this process.
        assets: LIBERO's assets, for the standard suites.
        progress: where to report; None = a bar on a terminal, lines elsewhere.
        plan_fields: further fields of `DemoPlan` (episodes_per_task, seed, noise, arm_noise, speed, image_size).

    Raises:
        ValueError: a plan field out of range.
        DemoPlanMismatch: the folder was begun with another plan.
        ExpertFails: less than a quarter of the attempts succeed.
    """
    plan, report = DemoPlan(suite=suite, **plan_fields), progress or choose()
    opened = open_suite(suite, assets)
    chosen = opened.tasks if tasks is None else tuple(opened.task(key) for key in tasks)
    out = Path(out_path)
    out.mkdir(parents=True, exist_ok=True)
    _check_plan(out, plan)
    with Recorders(plan, assets, workers) as recorders:
        done = tuple(_complete_task(out, task, plan, recorders, report) for task in chosen)
    shutil.rmtree(out / ".parts", ignore_errors=True)
    return done


def _complete_task(out: Path, task: Task, plan: DemoPlan, recorders: Recorders, report: Progress) -> TaskDemos:
    path, parts = out / f"{task.name}_demo.hdf5", out / ".parts" / task.name
    if not path.exists():
        parts.mkdir(parents=True, exist_ok=True)
        kept = _record_until_enough(parts, task, plan, recorders, report)
        assemble(path, task, kept, plan)
    shutil.rmtree(parts, ignore_errors=True)
    result = TaskDemos(path, plan.episodes_per_task, attempts_made(path), path.stat().st_size)
    report.say(f"{path.name}: {result.episodes} episodes of {result.attempts} attempts, {result.bytes / 1e6:.1f} MB")
    return result


def _record_until_enough(parts: Path, task: Task, plan: DemoPlan, recorders: Recorders, report: Progress) -> list[Path]:
    wanted = plan.episodes_per_task
    kept, attempts = finished(parts)
    with report.bar(task.name, wanted) as bar:
        while len(kept) < wanted:
            if attempts > _FAIR_TRIAL and len(kept) < attempts * WORST_SUCCESS_RATE:
                raise ExpertFails(
                    f"task {task.name!r}: {len(kept)} of {attempts} attempts succeeded. Next: lower noise"
                )
            last = attempts + wanted - len(kept)
            todo = [n for n in range(last) if not is_finished(parts, n)]
            done = last - len(todo) - (attempts - len(kept))
            for success in recorders.record(task.name, todo, parts):
                done += success
                bar.update(done, wanted)
            kept, attempts = finished(parts)
    return kept


def _check_plan(out: Path, plan: DemoPlan) -> None:
    path = out / _PLAN_NAME
    if not path.exists():
        write_json(path, plan.as_json())
        return
    found, asked = json.loads(path.read_text()), plan.as_json()
    keys = [key for key in asked if found.get(key) != asked[key]]
    differing = [f"{key}: found {found.get(key)!r}, asked {asked[key]!r}" for key in keys]
    if differing:
        raise DemoPlanMismatch(f"{out} was begun with another plan ({'; '.join(differing)}). Next: use a new folder")
