# SPDX-License-Identifier: Apache-2.0
"""Measure a checkpoint in closed loop, on stored initial states, with the right sentence or a wrong one.

The same episodes as the gate's (`compress.gate.episodes`), with torch instead of an exported graph as the policy.
"""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from compress.gate.jobs import Job, WorkerSetup
from compress.gate.plan import Pair
from compress.gate.policies import PolicySource
from compress.gate.rows import EpisodeRow
from compress.gate.workers import WorkerPool
from runtime.contract.chunk import ActionChunk

TIMEOUT_S = 600.0
_FACTORY = "compress.reference.evaluate:TorchPolicy"


class TorchPolicy:
    """A reference checkpoint behind what the gate asks of a policy, on one thread."""

    def __init__(self, checkpoint: str) -> None:
        import torch

        from compress.models.reference import ReferenceVla

        torch.set_num_threads(1)
        self._model = ReferenceVla.load(Path(checkpoint))
        self._action = self._model.specs()["action"]

    def infer(self, observation: Mapping[str, np.ndarray], instruction: str, stamp_s: float) -> ActionChunk:
        """The chunk for one observation."""
        from compress.data.samples import Sample

        config = self._model.config
        images = {camera: observation[camera] for camera in config.cameras}
        blank = np.zeros((config.horizon, config.action_dim), np.float32)
        pad = np.zeros(config.horizon, bool)
        sample = Sample(images, observation["state"], blank, pad, instruction, "live/0/0")
        values = self._model.chunk(self._model.collate([sample]))[0].numpy()
        return ActionChunk.of(values, self._action, stamp_s)

    def close(self) -> None:
        """Nothing to free."""


def jobs(tasks: int, states: range, wrong: bool, max_steps: list[int], seed: int = 0) -> list[Job]:
    """Every task with every state; `wrong` speaks the task that names the other block and the other tray."""
    arm = "wrong_instruction" if wrong else "candidate"
    return [
        Job.of(
            arm, "candidate", Pair(task, state, seed + state), max_steps[task], (tasks - 1) - task if wrong else None
        )
        for state in states
        for task in range(tasks)
    ]


def evaluate(
    checkpoint: Path, suite: str, todo: list[Job], workers: int, on_row: Callable[[EpisodeRow], None] | None = None
) -> list[EpisodeRow]:
    """Run every job.

    Args:
        checkpoint: a reference checkpoint folder.
        suite: suite name.
        todo: episodes.
        workers: processes, one thread each.
        on_row: called as episodes finish.
    """
    from compress.models.reference import ReferenceVla

    model = ReferenceVla.load(checkpoint)
    source = PolicySource(model.identity(), factory=_FACTORY, options={"checkpoint": str(Path(checkpoint).absolute())})
    setup = WorkerSetup(suite, "", model.config.image_size, model.config.horizon, 4, {"candidate": source})
    rows: list[EpisodeRow] = []

    def arrived(row: EpisodeRow) -> None:
        rows.append(row)
        if on_row is not None:
            on_row(row)

    by_task = sorted(todo, key=lambda job: job.task)  # a worker then rarely builds an environment
    with (
        tempfile.TemporaryDirectory() as logs,
        WorkerPool(setup, workers, TIMEOUT_S, Path(logs), {job.task: str(job.task) for job in todo}) as pool,
    ):
        pool.run(by_task, arrived)
    return rows


def summary(rows: list[EpisodeRow], names: list[str]) -> dict[str, Any]:
    """Success over all and by task, with every episode."""
    by_task = {name: [row.success for row in rows if row.task == i] for i, name in enumerate(names)}
    won = [row.steps for row in rows if row.success]
    shown = ("task", "told", "state", "seed", "success", "steps", "error")
    return {
        "episodes": len(rows),
        "success": float(np.mean([row.success for row in rows])) if rows else None,
        "by_task": {name: [int(np.sum(found)), len(found)] for name, found in by_task.items()},
        "median_steps": float(np.median(won)) if won else None,
        "rows": [{name: getattr(row, name) for name in shown} for row in rows],
        "hardware": platform.machine(),
    }
