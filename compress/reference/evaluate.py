# SPDX-License-Identifier: Apache-2.0
"""Measure a checkpoint in closed loop, on stored initial states, with the right sentence or a wrong one."""

from __future__ import annotations

import multiprocessing
import platform
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Job:
    """One episode: stored state `state` of task `task`, spoken sentence of task `spoken`."""

    task: int
    spoken: int
    state: int
    seed: int


@dataclass(frozen=True)
class Outcome:
    """Whether the goal of `job.task` was reached, and after how many control steps of 50 ms."""

    job: Job
    success: bool
    steps: int


def jobs(tasks: int, states: range, wrong: bool, seed: int = 0) -> list[Job]:
    """Every task with every state; `wrong` speaks the task that names the other block and the other tray."""
    spoken = (lambda task: (tasks - 1) - task) if wrong else (lambda task: task)
    return [Job(task, spoken(task), state, seed + state) for state in states for task in range(tasks)]


def evaluate(
    checkpoint: Path, suite: str, todo: list[Job], workers: int, on_outcome: Callable[[Outcome], None] | None = None
) -> list[Outcome]:
    """Run every job.

    Args:
        checkpoint: a reference checkpoint folder.
        suite: suite name.
        todo: episodes.
        workers: processes, one thread each.
        on_outcome: called as episodes finish.
    """
    context = multiprocessing.get_context("spawn")
    done: list[Outcome] = []
    by_task = sorted(todo, key=lambda job: job.task)  # a worker then rarely rebuilds its environment
    shares = [by_task[k::workers] for k in range(workers)]
    queue: Any = context.SimpleQueue()
    processes = [
        context.Process(target=_work, args=(checkpoint, suite, share, queue), daemon=True) for share in shares if share
    ]
    for process in processes:
        process.start()
    for outcome in _receive(queue, processes, len(todo)):
        done.append(outcome)
        if on_outcome is not None:
            on_outcome(outcome)
    for process in processes:
        process.join()
    return done


def _receive(queue: Any, processes: list[Any], expected: int) -> Iterator[Outcome]:
    import time

    received = 0
    while received < expected:
        if not queue.empty():
            item = queue.get()
            if isinstance(item, BaseException):
                raise item
            received += 1
            yield item
        elif all(not process.is_alive() for process in processes):
            raise RuntimeError(f"the workers ended after {received} of {expected} episodes; see their output above")
        else:
            time.sleep(0.05)


def _work(checkpoint: Path, suite_name: str, share: list[Job], queue: Any) -> None:
    import torch

    from compress.models.reference import ReferenceVla
    from compress.sim.envs import TaskEnv, open_suite

    torch.set_num_threads(1)
    try:
        model, suite, env, task = ReferenceVla.load(checkpoint), open_suite(suite_name), None, -1
        for job in share:
            if env is None or job.task != task:
                if env is not None:
                    env.close()
                env, task = TaskEnv(suite, suite.tasks[job.task], image_size=model.config.image_size), job.task
            queue.put(_episode(model, suite, env, job))
    except Exception as error:
        queue.put(RuntimeError(f"{type(error).__name__}: {error}"))


def _episode(model: Any, suite: Any, env: Any, job: Job) -> Outcome:
    from compress.data.samples import Sample

    config = model.config
    observation = env.reset(job.state, seed=job.seed)
    sentence = suite.tasks[job.spoken].language
    blank, pad = np.zeros((config.horizon, config.action_dim), np.float32), np.zeros(config.horizon, bool)
    while not env.success and env.steps < env.task.max_steps:
        images = {camera: observation[camera] for camera in config.cameras}
        batch = model.collate([Sample(images, observation["state"], blank, pad, sentence, "live/0/0")])
        actions = model.chunk(batch)[0].numpy()
        for k, action in enumerate(actions):
            if env.step(action, want_images=k == len(actions) - 1) or env.steps >= env.task.max_steps:
                break
        else:
            observation = env.observe()
    return Outcome(job, env.success, env.steps)


def summary(outcomes: list[Outcome], names: list[str]) -> dict[str, Any]:
    """Success over all and by task, with every episode."""
    by_task = {name: [o.success for o in outcomes if o.job.task == i] for i, name in enumerate(names)}
    return {
        "episodes": len(outcomes),
        "success": float(np.mean([o.success for o in outcomes])) if outcomes else None,
        "by_task": {name: [int(np.sum(rows)), len(rows)] for name, rows in by_task.items()},
        "median_steps": float(np.median([o.steps for o in outcomes if o.success]))
        if any(o.success for o in outcomes)
        else None,
        "rows": [{**asdict(o.job), "success": o.success, "steps": o.steps} for o in outcomes],
        "hardware": platform.machine(),
    }
