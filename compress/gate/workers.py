# SPDX-License-Identifier: Apache-2.0
"""Worker processes that take jobs in order; one that dies or hangs costs its episode a retry, then a failure."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType

from compress.gate.episodes import SimulatorBroken
from compress.gate.jobs import Job, WorkerSetup
from compress.gate.policies import UnusablePolicy
from compress.gate.rows import EpisodeRow

ATTEMPTS = 2
START_TIMEOUT_S = 600.0  # importing the simulator and loading two policies, on a busy machine
LOOK_AHEAD = 4  # jobs among which a worker prefers one whose environment it has built
_ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "LP_NUM_THREADS")}

Arrived = Callable[[EpisodeRow], None]


def child_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """For a process that imports what this one can import, and computes on one thread."""
    return {**environment, **_ONE_THREAD, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    link: Connection
    log: Path
    ready: bool = False
    job: Job | None = None
    since: float = field(default_factory=time.monotonic)
    tasks: set[int] = field(default_factory=set)


class WorkerPool:
    """`with WorkerPool(...) as pool: pool.run(...)`; workers are started when needed and killed at the end."""

    def __init__(
        self, setup: WorkerSetup, workers: int, timeout_s: float, logs: Path, task_names: dict[int, str]
    ) -> None:
        self._setup, self._count, self._timeout_s, self._logs, self._names = setup, workers, timeout_s, logs, task_names
        self._workers: list[_Worker] = []
        self._deaths_before_ready = 0
        logs.mkdir(parents=True, exist_ok=True)

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids of the living workers."""
        return tuple(worker.process.pid for worker in self._workers)

    def run(self, jobs: Iterable[Job], arrived: Arrived, stop: Callable[[], bool] = lambda: False) -> None:
        """Runs the jobs, handing each row to `arrived` as it comes; gives out no more once `stop()` is true.

        Raises:
            SimulatorBroken: a worker could not start its simulator.
            UnusablePolicy: a worker could not load a policy.
        """
        waiting = deque(jobs)
        while True:
            if stop():
                waiting.clear()  # what is under way is still recorded: it costs less than building environments again
            while len(self._workers) < min(self._count, len(waiting) + self._busy()):
                self._workers.append(self._start())
            for worker in self._workers:
                if worker.ready and worker.job is None and waiting:
                    self._give(worker, _pick(waiting, worker.tasks))
            if not waiting and not self._busy():
                return
            self._listen(waiting, arrived)

    def close(self) -> None:
        """End all workers."""
        for worker in list(self._workers):
            self._end(worker)

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _busy(self) -> int:
        return sum(worker.job is not None for worker in self._workers)

    def _listen(self, waiting: deque[Job], arrived: Arrived) -> None:
        for link in wait([worker.link for worker in self._workers], timeout=1.0):
            worker = next(worker for worker in self._workers if worker.link is link)
            try:
                message = json.loads(worker.link.recv_bytes())
            except (EOFError, OSError):
                self._bury(worker, f"the worker died ({_how(worker)})", waiting, arrived)
                continue
            self._hear(worker, message, arrived)
        for worker in list(self._workers):
            limit = self._timeout_s if worker.ready else START_TIMEOUT_S
            if (worker.job or not worker.ready) and time.monotonic() - worker.since > limit:
                self._bury(worker, f"no answer for {limit:g} s", waiting, arrived)

    def _hear(self, worker: _Worker, message: dict[str, object], arrived: Arrived) -> None:
        kind = message["kind"]
        if kind == "broken":
            raise SimulatorBroken(str(message["text"]))
        if kind == "unusable":
            raise UnusablePolicy(str(message["text"]))
        if kind == "ready":
            worker.ready, self._deaths_before_ready = True, 0
            return
        worker.job = None
        arrived(EpisodeRow.from_json(message["row"]))

    def _give(self, worker: _Worker, job: Job) -> None:
        worker.job, worker.since = job, time.monotonic()
        worker.tasks.add(job.task)
        with contextlib.suppress(OSError):  # it died between two jobs: reading from it will say so
            worker.link.send_bytes(json.dumps(job.to_json()).encode())

    def _bury(self, worker: _Worker, cause: str, waiting: deque[Job], arrived: Arrived) -> None:
        job, was_ready = worker.job, worker.ready
        self._end(worker)
        if not was_ready:
            self._deaths_before_ready += 1
            if self._deaths_before_ready >= ATTEMPTS:
                raise SimulatorBroken(f"workers do not start: {cause}; the last one wrote: {tail(worker.log)}")
        elif job is not None and job.attempts < ATTEMPTS:
            waiting.appendleft(replace(job, attempts=job.attempts + 1))
        elif job is not None:
            arrived(job.lost(self._setup.suite, self._names[job.task], f"crash: {cause}, {ATTEMPTS} times"))

    def _start(self) -> _Worker:
        here, there = socket.socketpair()
        log = self._logs / f"worker_{time.time_ns()}.log"
        command = [sys.executable, "-m", "compress.gate.worker", str(there.fileno())]
        with there, open(log, "wb") as output:
            process = subprocess.Popen(
                command,
                pass_fds=(there.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=child_environment(os.environ),
            )
        worker = _Worker(process, Connection(here.detach()), log)
        with contextlib.suppress(OSError):  # as in _give
            worker.link.send_bytes(json.dumps(self._setup.to_json()).encode())
        return worker

    def _end(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        worker.link.close()
        worker.process.kill()
        worker.process.wait()


def _pick(waiting: deque[Job], built: set[int]) -> Job:
    for place, job in enumerate(list(waiting)[:LOOK_AHEAD]):
        if job.task in built:
            del waiting[place]
            return job
    return waiting.popleft()


def _how(worker: _Worker) -> str:
    try:
        code = worker.process.wait(timeout=10.0)
    except subprocess.TimeoutExpired:
        return "it closed its socket"
    return f"signal {-code}" if code < 0 else f"exit {code}: {tail(worker.log)}"


def tail(log: Path, size: int = 300) -> str:
    """The end of a log on one line."""
    text = log.read_text(errors="replace").strip() if log.exists() else ""
    return " ".join(text[-size:].split()) or "nothing"
