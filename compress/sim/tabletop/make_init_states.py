# SPDX-License-Identifier: Apache-2.0
"""Writes `init_states.npz`, the stored initial states: `python -m compress.sim.tabletop.make_init_states`.

Run it only when the scene changes: a gate compares policies on these very states.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from compress.atomic import write_atomic
from compress.sim.envs import TaskEnv
from compress.sim.suites import EMBEDDED_SUITE, STORED_STATES, open_suite

# layout seeds of stored states start here; demonstrations stay below (see compress.sim.demos)
STORED_SEED_BASE = 4_000_000_000
STATES_PER_TASK = 50
ARM_NOISE_RAD = 0.03


def draw_states() -> dict[str, np.ndarray]:
    """Task name -> float64 (50, S), each state drawn from its own recorded seed."""
    suite, states = open_suite(EMBEDDED_SUITE), {}
    for task in suite.tasks:
        with TaskEnv(suite, task, render=False) as env:
            seeds = [STORED_SEED_BASE + 1000 * task.index + i for i in range(STATES_PER_TASK)]
            states[task.name] = np.stack([env.draw_layout(seed, ARM_NOISE_RAD) for seed in seeds])
    return states


def main(path: Path = STORED_STATES) -> None:
    """Draws all states and replaces the file."""
    states: dict[str, Any] = draw_states()
    write_atomic(path, lambda stream: np.savez_compressed(stream, **states))


if __name__ == "__main__":
    main()
