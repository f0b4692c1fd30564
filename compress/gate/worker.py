# SPDX-License-Identifier: Apache-2.0
"""A gate worker, `python -m compress.gate.worker FD`: loads the policies once, runs one job at a time.

Talks JSON over one inherited socket: first the set-up, then a job per message; answers `ready`, `row`, `broken` (the
simulator cannot start) or `unusable` (a policy cannot be loaded). It ends when the socket closes or its gate dies.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections import OrderedDict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.gate.episodes import Outcome, Replay, Script, SimulatorBroken, run_episode
from compress.gate.film import Film, unmet_goals
from compress.gate.jobs import Job, WorkerSetup
from compress.gate.policies import PolicyLike, UnusablePolicy
from compress.gate.rows import EpisodeRow

if TYPE_CHECKING:
    from compress.sim.envs import TaskEnv
    from compress.sim.perturb.base import Perturbation


class Bench:
    """What one worker keeps between jobs: the suite, the last used environments, the policies."""

    def __init__(self, setup: WorkerSetup) -> None:
        from compress.sim.suites import open_suite

        self._setup = setup
        try:
            self._suite = open_suite(setup.suite, Path(setup.assets) if setup.assets else None)
        except Exception as error:
            raise SimulatorBroken(f"suite {setup.suite!r}: {type(error).__name__}: {error}") from error
        self._envs: OrderedDict[int, TaskEnv] = OrderedDict()
        self._policies = {name: _opened(name, setup) for name in setup.policies}

    def run(self, job: Job) -> EpisodeRow:
        """Runs the job. Raises SimulatorBroken."""
        film = Film() if job.film else None
        outcome = self._episode(job, film)
        if film is not None:
            film.unmet = () if outcome.success else unmet_goals(self._env(job.task))
            film.save(Path(job.film))
        task = self._suite.task(job.task)
        return EpisodeRow(
            suite=self._suite.name, task=job.task, task_name=task.name, state=job.state, seed=job.seed, arm=job.arm,
            policy=job.policy, told=job.told, success=outcome.success, steps=outcome.steps, queries=outcome.queries,
            wall_s=round(outcome.wall_s, 4), infer_s=round(outcome.infer_s, 4), error=outcome.error,
            attempts=job.attempts, actions=outcome.actions if job.arm == "expert" else (), panel=job.panel,
        )  # fmt: skip

    def _episode(self, job: Job, film: Film | None) -> Outcome:
        recording = job.arm == "expert" and job.policy == "expert"
        return run_episode(
            self._env(job.task),
            self._policy(job),
            job.state,
            job.seed,
            self._suite.task(job.told).language,
            job.max_steps,
            self._setup.open_loop,
            past_success=recording,
            watch=None if film is None else film.see,
            change=self._change(job),
        )

    def _change(self, job: Job) -> Perturbation | None:
        from compress.sim.perturb.registry import perturbation

        strength = self._setup.strengths.get(job.panel)
        return None if strength is None else perturbation(job.panel, job.task, job.state, job.seed, strength)

    def _policy(self, job: Job) -> PolicyLike:
        if job.arm == "blind":
            return Replay(job.actions, self._setup.open_loop)
        return Script() if job.policy == "expert" else self._policies[job.policy]

    def _env(self, task: int) -> TaskEnv:
        from compress.sim.envs import TaskEnv

        if task not in self._envs:
            while len(self._envs) >= self._setup.envs:
                self._envs.popitem(last=False)[1].close()
            try:
                self._envs[task] = TaskEnv(self._suite, task, image_size=self._setup.image_size)
            except Exception as error:
                raise SimulatorBroken(f"task {task} cannot be built: {type(error).__name__}: {error}") from error
        self._envs.move_to_end(task)
        return self._envs[task]


def _opened(name: str, setup: WorkerSetup) -> PolicyLike:
    try:
        return setup.policies[name].open()
    except Exception as error:
        raise UnusablePolicy(f"{name} cannot be loaded: {type(error).__name__}: {error}") from error


def serve(link: Connection) -> None:
    """Answers jobs until the other side closes."""
    try:
        bench = Bench(WorkerSetup.from_json(json.loads(link.recv_bytes())))
        _say(link, "ready")
        while True:
            job = Job.from_json(json.loads(link.recv_bytes()))
            _say(link, "row", row=bench.run(job).to_json())
    except SimulatorBroken as error:
        _say(link, "broken", text=str(error))
    except UnusablePolicy as error:
        _say(link, "unusable", text=str(error))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def _say(link: Connection, kind: str, **data: Any) -> None:
    link.send_bytes(json.dumps({"kind": kind, **data}, allow_nan=False).encode())


def end_with(parent: int) -> None:
    """Leave when the gate is gone: nobody will read what this worker is busy with."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
    serve(Connection(int(sys.argv[1])))
