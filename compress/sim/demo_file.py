# SPDX-License-Identifier: Apache-2.0
"""Writes LIBERO's HDF5 demonstration format: one file per task, `data/demo_k/...`, images as LIBERO stores them.

Low-dimensional arrays are float32; `init_state` is float64, and with `executed_actions` it replays an episode.
Source: LIBERO's released files and `scripts/create_dataset.py`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from compress.sim.demo_plan import DemoPlan
from compress.sim.envs import CONTROL_HZ
from compress.sim.episode import EpisodeSpec, Recording
from compress.sim.suites import Task

# strips of full rows across time: an unchanged strip costs next to nothing, and a frame reads back in long runs
_STRIP_STEPS, _STRIP_ROWS = 128, 32
_GZIP_LEVEL = 9
_DEMO = "demo"


@contextmanager
def atomic_file(path: Path) -> Iterator[h5py.File]:
    """A new HDF5 file that appears under its name only when it is complete and on disk."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with h5py.File(temporary, "w", libver="latest") as file:
            yield file
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_part(path: Path, spec: EpisodeSpec, recording: Recording) -> None:
    """Writes one successful episode, already compressed as in the final file."""
    with atomic_file(path) as file:
        demo = file.create_group(_DEMO)
        for name, array in recording.arrays.items():
            _write_array(demo, name, array)
        demo.attrs["num_samples"] = len(recording.arrays["actions"])
        demo.attrs["init_state"] = recording.init_state
        demo.attrs.update({"seed": spec.seed, "attempt": spec.attempt, "arm_noise": spec.arm_noise})
        demo.attrs.update({"speed": recording.speed, "noise": recording.noise})


def assemble(path: Path, task: Task, parts: list[Path], plan: DemoPlan) -> None:
    """Joins the parts in their order into `path`; compressed chunks are copied as they are."""
    with atomic_file(path) as file:
        data = file.create_group("data")
        total = 0
        for k, part in enumerate(parts):
            with h5py.File(part, "r") as source:
                source.copy(_DEMO, data, name=f"demo_{k}")
            total += int(data[f"demo_{k}"].attrs["num_samples"])
        env_args = {
            "type": 1,
            "env_name": _problem_name(task),
            "bddl_file": task.bddl.name,
            "env_kwargs": {
                "camera_heights": plan.image_size,
                "camera_widths": plan.image_size,
                "control_freq": CONTROL_HZ,
            },
        }
        problem = {"problem_name": _problem_name(task).lower(), "domain_name": "robosuite"}
        problem["language_instruction"] = task.language
        data.attrs["bddl_file_name"] = task.bddl.name
        data.attrs["env_args"] = json.dumps(env_args)
        data.attrs["env_name"] = env_args["env_name"]
        data.attrs["macros_image_convention"] = "opengl"
        data.attrs["num_demos"] = len(parts)
        data.attrs["problem_info"] = json.dumps(problem)
        data.attrs["total"] = total
        data.attrs["dropgate_plan"] = json.dumps(plan.as_json(), sort_keys=True)


def attempts_made(path: Path) -> int:
    """How many attempts it took to fill the file."""
    with h5py.File(path, "r") as file:
        return 1 + max(int(demo.attrs["attempt"]) for demo in file["data"].values())


def _problem_name(task: Task) -> str:
    """The problem class that the task's BDDL file asks for."""
    return task.bddl.read_text(encoding="utf-8").split("(problem", 1)[1].split(")", 1)[0].strip()


def _write_array(group: h5py.Group, name: str, array: np.ndarray) -> None:
    steps = min(_STRIP_STEPS, len(array))
    if array.ndim == 4:
        chunks = (steps, min(_STRIP_ROWS, array.shape[1]), *array.shape[2:])
        group.create_dataset(name, data=array, chunks=chunks, compression="gzip", compression_opts=_GZIP_LEVEL)
        return
    values = array.astype(np.float32) if array.dtype == np.float64 else array
    chunks = (steps, *array.shape[1:])
    group.create_dataset(
        name, data=values, chunks=chunks, compression="gzip", compression_opts=_GZIP_LEVEL, shuffle=True
    )
