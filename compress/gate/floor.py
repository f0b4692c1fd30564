# SPDX-License-Identifier: Apache-2.0
"""The blind floor: how often one recorded episode, replayed without looking, solves the other scenes of its task.

A policy whose eyes were pruned away can still score like that, so a task on which the baseline is hardly better than
the replay proves nothing about a candidate. A task counts if, on the screening scenes, baseline rate - blind rate >=
floor_gap. Which tasks count depends on the baseline and the replay only, on scenes drawn apart from the order: given
the tasks, the order of their pairs is still uniformly random, which is all that the test needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from compress.gate.jobs import Job
from compress.gate.plan import GatePlan, Pair
from compress.gate.rows import EpisodeRow, RowKey

Rows = Mapping[RowKey, EpisodeRow]
RECORDERS = ("expert", "baseline")  # the expert first; what it cannot do is recorded from the baseline


@dataclass(frozen=True)
class TaskFloor:
    """Screening of one task.

    Attributes:
        baseline, blind, scenes: successes of each on so many scenes.
        recorded: who made the recording, and on which state; empty without one.
        counts: the task is part of the proof; why: in words.
    """

    task: int
    name: str
    baseline: int
    blind: int
    scenes: int
    recorded: str
    counts: bool
    why: str


def screening_jobs(plan: GatePlan) -> list[Job]:
    """The baseline on all screening scenes."""
    return [
        Job.of("baseline", "baseline", pair, plan.task(task).max_steps)
        for task in plan.screen
        for pair in plan.screen[task]
    ]


def recording_jobs(plan: GatePlan, rows: Rows) -> list[Job]:
    """The next recording to try, for each task that has none yet; empty when nothing is left to try."""
    jobs = []
    for task in plan.record:
        if recording(plan, rows, task) is not None:
            continue
        tries = (
            Job.of("expert", who, pair, plan.task(task).max_steps) for who in RECORDERS for pair in plan.record[task]
        )
        jobs += [job for job in tries if job.key not in rows][:1]
    return jobs


def recording(plan: GatePlan, rows: Rows, task: int) -> EpisodeRow | None:
    """The first successful recording of a task, in the order in which they are tried."""
    for who in RECORDERS:
        for pair in plan.record[task]:
            row = rows.get(Job.of("expert", who, pair, 0).key)
            if row is not None and row.success:
                return row
    return None


def replay_jobs(plan: GatePlan, rows: Rows) -> list[Job]:
    """The recordings, replayed on all screening scenes of their tasks."""
    jobs = []
    for task in plan.screen:
        source = recording(plan, rows, task)
        if source is not None:
            cap = plan.task(task).max_steps
            jobs += [Job.of("blind", source.policy, pair, cap, actions=source.actions) for pair in plan.screen[task]]
    return jobs


def task_floors(plan: GatePlan, rows: Rows) -> tuple[TaskFloor, ...] | None:
    """Which tasks count, and why; None while screening rows are missing."""
    floors = [_task_floor(plan, rows, task) for task in plan.screen]
    return None if None in floors else tuple(floor for floor in floors if floor is not None)


def _task_floor(plan: GatePlan, rows: Rows, task: int) -> TaskFloor | None:
    scenes, name = plan.screen[task], plan.task(task).name
    source = recording(plan, rows, task)
    if any(job.task == task for job in recording_jobs(plan, rows)):
        return None
    seen = _successes(rows, "baseline", "baseline", scenes)
    blind = 0 if source is None else _successes(rows, "blind", source.policy, scenes)
    if seen is None or blind is None:
        return None
    if source is None:
        why = "no recording succeeded, so its blind floor is unknown"
        return TaskFloor(task, name, seen, 0, len(scenes), "", False, why)
    gap, needed = (seen - blind) / len(scenes), float(plan.protocol["floor_gap"])
    counts = gap >= needed
    verb = "is at least" if counts else "is under"
    why = f"baseline {seen}/{len(scenes)}, blind replay {blind}/{len(scenes)}: the gap {gap:.2f} {verb} {needed:.2f}"
    return TaskFloor(task, name, seen, blind, len(scenes), f"{source.policy}, state {source.state}", counts, why)


def _successes(rows: Rows, arm: str, policy: str, scenes: tuple[Pair, ...]) -> int | None:
    found = [rows.get(Job.of(arm, policy, pair, 0).key) for pair in scenes]
    return None if None in found else sum(row.success for row in found if row is not None)
