# SPDX-License-Identifier: Apache-2.0
"""Episodes on a Ray cluster: the sole importer of ray (extra `ray`).

An actor per simulator, one core each. An actor that dies costs its episode a retry, then a failure, as a local worker
does. Rows come back to this process, which alone writes the log: losing a machine loses nothing that was finished.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from compress.digests import files_under, of_path
from compress.gate.engine import Arrived
from compress.gate.environment import versions
from compress.gate.episodes import SimulatorBroken
from compress.gate.jobs import Job, WorkerSetup
from compress.gate.made_with import code_digest, differences
from compress.gate.policies import UnusablePolicy
from compress.gate.ray_worker import Simulator
from compress.gate.rows import EpisodeRow
from compress.gate.workers import ATTEMPTS, START_TIMEOUT_S, child_environment

INSTALL = "pip install 'dropgate[ray]' on every machine of the cluster"
ADDRESS = "DROPGATE_RAY_ADDRESS"  # of a running cluster, as `ray.init` takes it; without it one is made here
STORE_BYTES = 128 << 20  # of the object store of a cluster made here: rows are small, artifacts come in pieces
PIECE_BYTES = 16 << 20
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "LP_NUM_THREADS")
CARRIED = ("MUJOCO_GL", "LIBERO_ASSETS", "LIBERO_CONFIG_PATH", *THREADS)


@dataclass
class _Actor:
    handle: Any
    answer: Any  # what it is busy with
    pid: int
    ready: bool = False
    job: Job | None = None
    since: float = field(default_factory=time.monotonic)


class RayEngine:
    """As every engine; the cluster is that of DROPGATE_RAY_ADDRESS, or one of `workers` cores on this machine."""

    def __init__(self, setup: WorkerSetup, workers: int, timeout_s: float, logs: Path, names: dict[int, str]) -> None:
        self._setup, self._count, self._timeout_s, self._names = setup, workers, timeout_s, names
        self._ray = _connected(workers)
        self._actors: list[_Actor] = []
        self._deaths_before_ready = 0

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids of the simulators on their machines."""
        return tuple(actor.pid for actor in self._actors if actor.ready)

    def run(self, jobs: Iterable[Job], arrived: Arrived, stop: Callable[[], bool] = lambda: False) -> None:
        """Runs the jobs; see `Engine`."""
        waiting = deque(jobs)
        while True:
            if stop():
                waiting.clear()
            while len(self._actors) < min(self._count, len(waiting) + self._busy()):
                self._actors.append(self._start())
            for actor in self._actors:
                if actor.ready and actor.job is None and waiting:
                    actor.job, actor.since = waiting.popleft(), time.monotonic()
                    actor.answer = actor.handle.run.remote(json.dumps(actor.job.to_json()))
            if not waiting and not self._busy():
                return
            self._listen(waiting, arrived)

    def close(self) -> None:
        """Ends the actors, and leaves the cluster."""
        for actor in self._actors:
            with contextlib.suppress(Exception):
                self._ray.kill(actor.handle)
        self._actors.clear()
        if self._ray.is_initialized():
            self._ray.shutdown()

    def __enter__(self) -> RayEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _busy(self) -> int:
        return sum(actor.job is not None for actor in self._actors)

    def _start(self) -> _Actor:
        """A new actor, with every artifact on its machine."""
        names = CARRIED if os.environ.get(ADDRESS) else (*CARRIED, "PYTHONPATH")  # other machines have their own paths
        environment = {name: value for name, value in child_environment(os.environ).items() if name in names}
        remote = self._ray.remote(Simulator)
        handle = remote.options(num_cpus=1, max_restarts=0, runtime_env={"env_vars": environment}).remote()
        try:
            pid = int(self._ray.get(handle.pid.remote(), timeout=START_TIMEOUT_S))
            self._same_settings(json.loads(self._ray.get(handle.settings.remote(), timeout=START_TIMEOUT_S)))
            policies = {
                name: replace(source, artifact=self._shipped(handle, source.artifact)) if source.artifact else source
                for name, source in self._setup.policies.items()
            }
        except self._ray.exceptions.RayError as error:
            raise SimulatorBroken(f"no simulator starts on the Ray cluster: {error}. Next: {INSTALL}") from error
        setup = json.dumps(replace(self._setup, policies=policies).to_json())
        return _Actor(handle, handle.start.remote(setup), pid)

    def _same_settings(self, theirs: dict[str, Any]) -> None:
        mine = {"renderer": os.environ["MUJOCO_GL"], "versions": versions(), "code": code_digest()}
        differ = list(differences(theirs, mine))
        if differ:
            raise SimulatorBroken(f"a machine of the Ray cluster differs from this one: {'; '.join(differ)}")

    def _shipped(self, handle: Any, folder: str) -> str:
        """The artifact's folder on the actor's machine; sent in pieces unless it is there already."""
        digest = of_path(Path(folder))
        if self._ray.get(handle.lacks.remote(digest)):
            for path in files_under(Path(folder)):
                name = path.relative_to(folder).as_posix()
                with path.open("rb") as stream:
                    while piece := stream.read(PIECE_BYTES):
                        self._ray.get(handle.take.remote(name, piece))
        kept: str = self._ray.get(handle.keep.remote(digest))
        return kept

    def _listen(self, waiting: deque[Job], arrived: Arrived) -> None:
        asked = {actor.answer: actor for actor in self._actors if actor.job is not None or not actor.ready}
        done, _ = self._ray.wait(list(asked), num_returns=1, timeout=1.0)
        for answer in done:
            actor = asked[answer]
            try:
                message = json.loads(self._ray.get(answer))
            except self._ray.exceptions.RayActorError:
                self._bury(actor, "the worker died (its actor is gone)", waiting, arrived)
                continue
            except self._ray.exceptions.RayError as error:
                raise SimulatorBroken(f"a worker of the Ray cluster failed: {error}") from error
            self._hear(actor, message, arrived)
        for actor in list(self._actors):
            limit = self._timeout_s if actor.ready else START_TIMEOUT_S
            if (actor.job or not actor.ready) and time.monotonic() - actor.since > limit:
                self._bury(actor, f"no answer for {limit:g} s", waiting, arrived)

    def _hear(self, actor: _Actor, message: dict[str, Any], arrived: Arrived) -> None:
        if message["kind"] == "broken":
            raise SimulatorBroken(str(message["text"]))
        if message["kind"] == "unusable":
            raise UnusablePolicy(str(message["text"]))
        if message["kind"] == "ready":
            actor.ready, self._deaths_before_ready = True, 0
            return
        actor.job = None
        arrived(EpisodeRow.from_json(message["row"]))

    def _bury(self, actor: _Actor, cause: str, waiting: deque[Job], arrived: Arrived) -> None:
        self._actors.remove(actor)
        with contextlib.suppress(Exception):
            self._ray.kill(actor.handle)
        job = actor.job
        if not actor.ready:
            self._deaths_before_ready += 1
            if self._deaths_before_ready >= ATTEMPTS:
                raise SimulatorBroken(f"workers do not start on the Ray cluster: {cause}")
        elif job is not None and job.attempts < ATTEMPTS:
            waiting.appendleft(replace(job, attempts=job.attempts + 1))
        elif job is not None:
            arrived(job.lost(self._setup.suite, self._names[job.task], f"crash: {cause}, {ATTEMPTS} times"))


def _connected(workers: int) -> Any:
    """The ray module, connected. SimulatorBroken without it."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise SimulatorBroken(f"engine 'ray': {error}. Next: {INSTALL}") from error
    address = os.environ.get(ADDRESS)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address:
        ray.init(address=address, **quiet)
    else:
        ray.init(
            address="local", num_cpus=workers, object_store_memory=STORE_BYTES, include_dashboard=False,
            _node_ip_address="127.0.0.1", **quiet,
        )  # fmt: skip
    return ray
