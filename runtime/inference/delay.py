# SPDX-License-Identifier: Apache-2.0
"""Is this policy fast enough here? Measured before the first motion, on the golden observations, first calls left out.

An answer that comes d rows after its observation leaves H - d rows of a chunk of H. Executing s of them before the next
answer needs s <= H - d (runtime of real-time chunking, arXiv 2506.07339, section 3). Where that does not hold the arm
would stop and go, whatever the policy is worth.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from runtime.contract.action import ActionSpec
from runtime.contract.artifact import Artifact
from runtime.errors import BackendError
from runtime.inference.golden import load_golden
from runtime.inference.messages import Failure
from runtime.inference.worker_client import PolicyWorker

WARM_UP, CALLS = 3, 20
LOOK_S = 5e-4  # between looks at the worker
_EDGE = 1e-9


@dataclass(frozen=True)
class Delay:
    """What was measured.

    Attributes:
        p50_s, p99_s, max_s: of warm answers [s], as the caller times them.
        rows: rows that have passed when the p99 answer comes: d.
    """

    p50_s: float
    p99_s: float
    max_s: float
    rows: int

    def require(self, spec: ActionSpec, execute_rows: int) -> None:
        """Raises BackendError unless `execute_rows` of every chunk are left when the next answer comes."""
        left = spec.horizon - self.rows
        if execute_rows > left:
            raise BackendError(
                f"this policy answers after {self.p99_s * 1e3:.0f} ms (p99, warm): {self.rows} of its {spec.horizon} "
                f"rows of {spec.dt_s * 1e3:g} ms are over by then, {max(left, 0)} are left, and {execute_rows} are to "
                "be executed. Next: a smaller policy, a faster engine (worker.backend), or fewer execute_rows"
            )


def delay_of(seconds: Sequence[float], dt_s: float) -> Delay:
    """The delay of measured answers [s] for rows of `dt_s` [s]. Raises BackendError: none, or not finite."""
    times = np.asarray(seconds, dtype=np.float64)
    if not times.size or not np.isfinite(times).all() or times.min() < 0.0:
        raise BackendError(f"latency: found {times.size} measurements, expected finite seconds, at least one")
    p50, p99 = (float(v) for v in np.percentile(times, (50, 99)))
    return Delay(p50, p99, float(times.max()), math.ceil(p99 / dt_s - _EDGE))


def measure(ask: Callable[[], float], dt_s: float, calls: int = CALLS, warm_up: int = WARM_UP) -> Delay:
    """Ask `warm_up` times for nothing, then `calls` times; `ask` gives the seconds that one answer took."""
    for _ in range(warm_up):
        ask()
    return delay_of([ask() for _ in range(calls)], dt_s)


def of_worker(worker: PolicyWorker, artifact: Artifact, over: Callable[[], bool] = lambda: False) -> Delay:
    """Of a worker that is ready, asked about the artifact's own golden observations. Raises BackendError, also once
    nobody waits any more (`over`)."""
    samples, stamps = itertools.cycle(load_golden(artifact)), itertools.count(1)

    def ask() -> float:
        sample, began = next(samples), time.monotonic()
        worker.request(sample.observation, sample.instruction, float(next(stamps)))
        while (found := worker.poll()) is None:
            if not worker.alive:
                raise BackendError(f"the policy worker died while it was timed: {worker.died_because}")
            if over():
                raise BackendError("the policy worker was not timed to the end: this process is told to end")
            time.sleep(LOOK_S)
        if isinstance(found, Failure):
            raise BackendError(f"the policy failed while it was timed: {found.error}: {found.text}")
        return time.monotonic() - began

    return measure(ask, artifact.manifest.policy.action.dt_s)
