# SPDX-License-Identifier: Apache-2.0
"""Who carries out the episodes of a gate: processes of this machine, the same with one policy server, or a Ray cluster.

An engine takes jobs and hands back rows. It decides nothing: order, verdict and evidence are the same with each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Protocol

from compress.gate.jobs import Job, WorkerSetup
from compress.gate.rows import EpisodeRow
from compress.gate.workers import WorkerPool

Arrived = Callable[[EpisodeRow], None]


class Engine(Protocol):
    """`with engine: engine.run(...)`; a row that has arrived is kept whatever happens afterwards."""

    def run(self, jobs: Iterable[Job], arrived: Arrived, stop: Callable[[], bool] = ...) -> None:
        """Runs the jobs, handing each row to `arrived`; gives out no more once `stop()` is true.

        Raises SimulatorBroken or UnusablePolicy: no episode can be run, nothing was learned about a policy.
        """

    def close(self) -> None:
        """Ends all processes; more calls are harmless."""

    def __enter__(self) -> Engine:
        """The engine itself."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes."""


# set-up, number of simulator processes, seconds after which a silent one is dead, folder for logs, names of the tasks
EngineFactory = Callable[[WorkerSetup, int, float, Path, dict[int, str]], Engine]


def local_engine(setup: WorkerSetup, workers: int, timeout_s: float, logs: Path, names: dict[int, str]) -> Engine:
    """Processes of this machine; each loads both policies."""
    return WorkerPool(setup, workers, timeout_s, logs, names)
