# SPDX-License-Identifier: Apache-2.0
"""Which tasks a suite has, what each asks for, and its stored initial states.

`dropgate_tabletop` is embedded (`compress/sim/tabletop`); the other suites are LIBERO's own and need its assets.
Step caps of the standard suites: openvla-oft and openpi's LIBERO evaluations.
"""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from compress.sim.libero_setup import LiberoSetup, prepare_libero
from compress.torch_files import load_tensors

EMBEDDED_SUITE = "dropgate_tabletop"
# control steps of 50 ms; settle steps are not counted. Embedded: about 1.8 times the expert's median
MAX_STEPS = {EMBEDDED_SUITE: 150, "libero_spatial": 220, "libero_object": 280, "libero_goal": 300, "libero_10": 520}
SUITES = tuple(MAX_STEPS)
_TABLETOP = Path(__file__).parent / "tabletop"
STORED_STATES = _TABLETOP / "init_states.npz"
_TABLETOP_TASKS = tuple(f"put_the_{c}_block_in_the_{side}_tray" for side in ("left", "right") for c in ("red", "blue"))


class UnknownTask(ValueError):
    """No such suite, task or stored state."""


@dataclass(frozen=True)
class Task:
    """One sentence over one scene.

    Attributes:
        name: unique in the suite; the name of its BDDL file.
        index: place in `Suite.tasks`.
        language: the sentence that the policy is given.
        bddl: the file that LIBERO builds the scene and the goal from.
        max_steps: control steps (50 ms) after which an episode counts as failed.
    """

    name: str
    index: int
    language: str
    bddl: Path
    max_steps: int


@dataclass(frozen=True)
class Suite:
    """A named list of tasks with stored initial states, float64 (n, S) per task."""

    name: str
    tasks: tuple[Task, ...]
    setup: LiberoSetup
    _states: dict[str, np.ndarray] = field(default_factory=dict, repr=False, compare=False)

    def task(self, key: Task | int | str) -> Task:
        """The task with this index, name or sentence; raises UnknownTask with the valid ones."""
        for task in self.tasks:
            if key in (task, task.index, task.name, task.language):
                return task
        names = ", ".join(f"{task.index}: {task.name}" for task in self.tasks)
        raise UnknownTask(f"suite {self.name!r} has no task {key!r}. Available: {names}")

    def n_initial_states(self, task: Task | int | str) -> int:
        """How many stored initial states the task has."""
        return len(self._load(self.task(task)))

    def initial_state(self, task: Task | int | str, index: int) -> np.ndarray:
        """Flattened simulator state, float64 (S,): time, positions, velocities. Raises UnknownTask out of range."""
        states = self._load(self.task(task))
        if not 0 <= index < len(states):
            raise UnknownTask(f"task {self.task(task).name!r} has stored states 0..{len(states) - 1}, not {index}")
        return np.array(states[index], dtype=np.float64)

    def _load(self, task: Task) -> np.ndarray:
        if task.name not in self._states:
            self._states[task.name] = _stored_states(self, task)
        return self._states[task.name]


def open_suite(name: str, assets: Path | None = None) -> Suite:
    """Opens a suite by name.

    Args:
        name: one of `SUITES`.
        assets: LIBERO's assets folder, for the standard suites (default: see `prepare_libero`).

    Raises:
        UnknownTask: no suite of that name.
        MissingAssets: a standard suite without assets.
    """
    if name not in MAX_STEPS:
        raise UnknownTask(f"no suite {name!r}. Available: {', '.join(SUITES)}")
    setup = prepare_libero(assets)
    cap = MAX_STEPS[name]
    if name == EMBEDDED_SUITE:
        files = [(task, task.replace("_", " "), _TABLETOP / "bddl" / f"{task}.bddl") for task in _TABLETOP_TASKS]
        return Suite(name, tuple(Task(task, i, text, bddl, cap) for i, (task, text, bddl) in enumerate(files)), setup)
    setup.require_assets(name)
    from libero.libero import benchmark

    with contextlib.redirect_stdout(io.StringIO()):  # it prints its task order at every construction
        tasks = benchmark.get_benchmark_dict()[name]().tasks
    folder = setup.package / "bddl_files"
    return Suite(
        name,
        tuple(Task(t.name, i, t.language, folder / t.problem_folder / t.bddl_file, cap) for i, t in enumerate(tasks)),
        setup,
    )


def _stored_states(suite: Suite, task: Task) -> np.ndarray:
    if suite.name == EMBEDDED_SUITE:
        with np.load(STORED_STATES, allow_pickle=False) as file:
            return np.asarray(file[task.name], dtype=np.float64)
    from numpy._core.multiarray import _reconstruct  # LIBERO ships torch pickles; allow exactly one numpy array

    path = suite.setup.package / "init_files" / suite.name / f"{task.name}.pruned_init"
    allowed: list[Any] = [np.ndarray, np.dtype, type(np.dtype(np.float64)), _reconstruct]
    allowed.append((_reconstruct, "numpy.core.multiarray._reconstruct"))  # its name before numpy 2
    return np.asarray(load_tensors(path, allowed), dtype=np.float64)
