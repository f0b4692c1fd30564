# SPDX-License-Identifier: Apache-2.0
"""A run small enough for a test: a tiny random policy on disk, HDF5 demonstrations by the real writer, a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml

SIDE = 32
TASKS = ("open the top drawer", "put the black bowl in the left tray")


def checkpoint(folder: Path, depth: int = 6) -> Path:
    """A reference policy with random weights."""
    import algorithm_factory

    algorithm_factory.policy(depth=depth).save(folder)
    return folder


def demos(folder: Path, episodes: int = 4, length: int = 18) -> Path:
    """LIBERO files with random images, two tasks."""
    from compress.sim.demo_file import assemble, write_part
    from compress.sim.demo_plan import DemoPlan
    from compress.sim.episode import EpisodeSpec, Recording
    from compress.sim.suites import Task

    folder.mkdir(parents=True, exist_ok=True)
    plan = DemoPlan(episodes_per_task=episodes, image_size=SIDE)
    for index, sentence in enumerate(TASKS):
        scene = folder / f"{index}.bddl"
        scene.write_text("(define (problem Tiny_Scene))\n")
        task, parts = Task(sentence.replace(" ", "_"), index, sentence, scene, 100), []
        for number in range(episodes):
            rng = np.random.default_rng([index, number])
            parts.append(folder / f"part_{index}_{number}.hdf5")
            spec = EpisodeSpec(task.name, number, number, 0.0, 0.0, (1.0, 1.0))
            write_part(parts[-1], spec, Recording(True, _arrays(rng, length), np.zeros(4), 1.0, 0.0))
        assemble(folder / f"{task.name}_demo.hdf5", task, parts, plan)
        for part in parts:
            part.unlink()
    return folder


def _arrays(rng: np.random.Generator, length: int) -> dict[str, np.ndarray]:
    images = {
        f"obs/{name}_rgb": rng.integers(0, 256, (length, SIDE, SIDE, 3), np.uint8)
        for name in ("agentview", "eye_in_hand")
    }
    position, gripper = rng.normal(0, 0.2, (length, 3)), rng.normal(0, 0.02, (length, 2))
    return {
        **images,
        "actions": rng.uniform(-0.2, 0.15, (length, 7)),
        "obs/ee_pos": position,
        "obs/ee_ori": rng.normal(0, 0.2, (length, 3)),
        "obs/gripper_states": gripper,
    }


def data(root: Path, **changed: Any) -> dict[str, Any]:
    """Plain recipe data over the checkpoint and demonstrations below `root`."""
    base: dict[str, Any] = {
        "name": "tiny",
        "seed": 3,
        "model": {"checkpoint": str(root / "policy")},
        "data": {"path": str(root / "demos")},
        "probe": {"samples": 8, "batch_size": 4, "compare": ["uniform"]},
        "plan": {"keep": 3},
        "recover": {"steps": 4, "batch_size": 4, "warmup": 1, "held_out": 0.25, "bf16": False},
        "export": {"bench_runs": 2},
        "output": str(root / "run"),
    }
    return {**base, **changed}


def write(path: Path, content: dict[str, Any]) -> Path:
    """A recipe file."""
    path.write_text(yaml.safe_dump(content))
    return path
