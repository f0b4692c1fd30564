# SPDX-License-Identifier: Apache-2.0
"""Records attempts in worker processes, each finished attempt as one file that says whether it succeeded.

Workers are spawned, not forked: a GL context does not survive a fork.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.util
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from compress.sim.demo_file import write_part
from compress.sim.demo_plan import DemoPlan
from compress.sim.envs import TaskEnv
from compress.sim.episode import record_episode
from compress.sim.suites import open_suite


def finished(parts: Path) -> tuple[list[Path], int]:
    """Successful parts in order, and how many attempts are finished without a gap."""
    attempts = 0
    while is_finished(parts, attempts):
        attempts += 1
    return [_part(parts, n) for n in range(attempts) if _part(parts, n).exists()], attempts


def is_finished(parts: Path, attempt: int) -> bool:
    """True when the attempt was made, whether it succeeded or not."""
    return _part(parts, attempt).exists() or _failure(parts, attempt).exists()


class Recorders:
    """A pool of workers; with 0 workers the attempts are recorded in this process.

    Args:
        plan: what to record.
        assets: LIBERO's assets, for the standard suites.
        workers: processes.
    """

    def __init__(self, plan: DemoPlan, assets: Path | None, workers: int) -> None:
        self._plan, self._assets, self._workers = plan, assets, workers
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Recorders:
        if self._workers > 0:
            spawn = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self._workers, mp_context=spawn, initializer=_close_at_exit)
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        _close_worker_env()

    def record(self, task: str, attempts: list[int], parts: Path) -> Iterator[bool]:
        """Makes the attempts at `task`, yields success of each as it finishes, and leaves their files in `parts`."""
        jobs = [(self._plan, self._assets, task, attempt, parts) for attempt in attempts]
        if self._pool is None:
            yield from (_work(*job) for job in jobs)
            return
        for future in as_completed([self._pool.submit(_work, *job) for job in jobs]):
            yield future.result()


_worker_env: TaskEnv | None = None


def _work(plan: DemoPlan, assets: Path | None, task: str, attempt: int, parts: Path) -> bool:
    """One attempt, in a worker that keeps its environment until the task changes."""
    global _worker_env
    wanted = (plan.suite, task, plan.image_size)
    if _worker_env is None or (_worker_env.suite.name, _worker_env.task.name, _worker_env.image_size) != wanted:
        _close_worker_env()
        _worker_env = TaskEnv(open_suite(plan.suite, assets), task, image_size=plan.image_size)
    spec = plan.spec(_worker_env.task, attempt)
    recording = record_episode(_worker_env, spec)
    if recording.success:
        write_part(_part(parts, attempt), spec, recording)
    else:
        _failure(parts, attempt).write_text(f"{len(recording.arrays['actions'])} steps\n")
    return recording.success


def _close_at_exit() -> None:
    """Free the renderer while its library is still loaded; afterwards EGL complains on the console."""
    multiprocessing.util.Finalize(None, _close_worker_env, exitpriority=10)


def _close_worker_env() -> None:
    global _worker_env
    if _worker_env is not None:
        _worker_env.close()
        _worker_env = None


def _part(parts: Path, attempt: int) -> Path:
    return parts / f"attempt_{attempt:06d}.hdf5"


def _failure(parts: Path, attempt: int) -> Path:
    return parts / f"attempt_{attempt:06d}.failed"
