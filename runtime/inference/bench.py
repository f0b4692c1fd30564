# SPDX-License-Identifier: Apache-2.0
"""How long does `Policy.infer` take here, from observation to chunk?

Percentiles [ms] on the artifact's golden inputs.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass

import numpy as np

from runtime.clock import Clock, MonotonicClock
from runtime.errors import ContractError
from runtime.inference.golden import load_golden
from runtime.inference.policy import Policy

PERCENTILES = (50.0, 95.0, 99.0)


@dataclass(frozen=True)
class Latency:
    """End-to-end latency of `runs` calls [ms], with the machine it was measured on: a number without it says
    nothing."""

    runs: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    mean_ms: float
    machine: str
    cpus: int


def bench_policy(policy: Policy, runs: int = 100, warm_up: int = 5, clock: Clock | None = None) -> Latency:
    """Time `runs` calls after `warm_up` untimed ones, going round the golden samples."""
    if runs < 1:
        raise ContractError(f"bench runs: found {runs}, expected at least 1")
    source = clock or MonotonicClock()
    samples = load_golden(policy.artifact)
    durations = []
    for index in range(-warm_up, runs):
        sample = samples[index % len(samples)]
        started = source.now()
        policy.infer(sample.observation, sample.instruction, started)
        if index >= 0:
            durations.append((source.now() - started) * 1e3)
    p50, p95, p99 = (float(value) for value in np.percentile(durations, PERCENTILES))
    machine = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    return Latency(runs, p50, p95, p99, max(durations), float(np.mean(durations)), machine, os.cpu_count() or 0)
