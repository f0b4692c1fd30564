# SPDX-License-Identifier: Apache-2.0
"""An engine of one policy server and N simulator processes on this machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from compress.gate.engine import Arrived, Engine
from compress.gate.jobs import Job, WorkerSetup
from compress.gate.made_with import ONE_BY_ONE
from compress.gate.policies import PolicySource, UnusablePolicy
from compress.gate.policy_server import socket_of
from compress.gate.served_policy import PATIENCE_S, batch_of
from compress.gate.workers import WorkerPool, child_environment, tail

LIVES = 3  # servers that may die before it is no accident
LOAD_S, POLL_S = 600.0, 0.05  # until a server has loaded its policies


def asking(
    sources: dict[str, PolicySource], folder: Path, patience_s: float = PATIENCE_S, batch: int = ONE_BY_ONE
) -> dict[str, PolicySource]:
    """The same policies, asked through the sockets in `folder`; those that are no artifacts stay in the simulator."""

    def of(arm: str, source: PolicySource) -> PolicySource:
        if not source.artifact:
            return source
        options = {
            "path": str(socket_of(folder, arm)),
            "manifest": str(Path(source.artifact) / "manifest.json"),
            "patience_s": patience_s,
            "batch": batch,
        }
        kind = "compress.gate.served_policy:ServedPolicy"
        return PolicySource(source.identity, factory=kind, options=options, image_size=source.image_size)

    return {arm: of(arm, source) for arm, source in sources.items()}


def served_by(
    folder: Path, setup: WorkerSetup, workers: int, timeout_s: float, logs: Path, names: dict[int, str]
) -> Engine:
    """Simulators that ask a server which somebody else has started (`compress gate serve --socket FOLDER`)."""
    patience_s = min(timeout_s / 2, PATIENCE_S)
    asked = replace(setup, policies=asking(dict(setup.policies), folder, patience_s, batch_of(folder)))
    return WorkerPool(asked, workers, timeout_s, logs, names)


class ServedEngine:
    """Starts the server, and again if it dies; the pool's processes ask it."""

    def __init__(
        self,
        setup: WorkerSetup,
        workers: int,
        timeout_s: float,
        logs: Path,
        names: dict[int, str],
    ) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="dropgate-"))
        self._artifacts = {arm: source.artifact for arm, source in setup.policies.items() if source.artifact}
        self._log, self._deaths = logs / "server.log", 0
        logs.mkdir(parents=True, exist_ok=True)
        asked = replace(setup, policies=asking(dict(setup.policies), self._folder, timeout_s / 2))
        self._server: subprocess.Popen[bytes] | None = None
        self._pool = WorkerPool(asked, workers, timeout_s, logs, names)

    @property
    def server_pid(self) -> int:
        """Process id of the living server; 0 before the first job."""
        return self._server.pid if self._server is not None else 0

    def run(self, jobs: Iterable[Job], arrived: Arrived, stop: Callable[[], bool] = lambda: False) -> None:
        """As every engine. UnusablePolicy also when the server dies again and again."""

        def stop_after_looking() -> bool:
            self._keep_alive()
            return stop()

        self._keep_alive()
        self._pool.run(jobs, arrived, stop_after_looking)

    def close(self) -> None:
        """Ends simulators and server."""
        self._pool.close()
        if self._server is not None:
            self._server.kill()
            self._server.wait()
            self._server = None
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> ServedEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _keep_alive(self) -> None:
        if not self._artifacts:
            return
        if self._server is not None:
            code = self._server.poll()
            if code is None:
                return
            self._deaths += 1
            if self._deaths >= LIVES or code > 0:
                how = f"signal {-code}" if code < 0 else f"exit {code}"
                raise UnusablePolicy(f"the policy server died ({how}); it wrote: {tail(self._log)}")
        self._start()

    def _start(self) -> None:
        """Returns when both policies answer."""
        sockets = [socket_of(self._folder, arm) for arm in self._artifacts]
        for path in sockets:
            path.unlink(missing_ok=True)
        asked = {"folder": str(self._folder), "artifacts": self._artifacts, "batch": ONE_BY_ONE}
        command = [sys.executable, "-m", "compress.gate.policy_server", json.dumps(asked)]
        with self._log.open("ab") as output:
            self._server = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=child_environment(os.environ)
            )
        deadline = time.monotonic() + LOAD_S
        while not all(path.exists() for path in sockets):
            if self._server.poll() is not None or time.monotonic() > deadline:
                raise UnusablePolicy(f"the policy server does not start; it wrote: {tail(self._log)}")
            time.sleep(POLL_S)
