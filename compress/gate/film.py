# SPDX-License-Identifier: Apache-2.0
"""What one policy was shown in one episode, with the control step of each picture, and what the goal still lacked.

`filmstrip` needs both policies' films before it can choose moments that they share, so everything is kept until then.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from compress.atomic import write_atomic

if TYPE_CHECKING:
    from compress.sim.envs import TaskEnv

CAMERA = "agentview"


@dataclass(frozen=True)
class Reel:
    """A film that was read back.

    Attributes:
        frames: uint8 (N, H, W, 3), N at least 1.
        steps: int64 (N,): control steps that had been executed when each was seen, rising; the last is the end.
        unmet: predicates of the goal that did not hold at the end, such as `in(red_block, left_tray)`.
    """

    frames: np.ndarray
    steps: np.ndarray
    unmet: tuple[str, ...]


class Film:
    """Collects what the policy was shown."""

    def __init__(self) -> None:
        self.frames: list[np.ndarray] = []
        self.steps: list[int] = []
        self.unmet: tuple[str, ...] = ()

    def see(self, observation: Mapping[str, np.ndarray], step: int) -> None:
        """One more observation, after `step` control steps; those without the camera are skipped."""
        if CAMERA in observation:
            self.frames.append(np.array(observation[CAMERA]))
            self.steps.append(step)

    def save(self, path: Path) -> None:
        """Write all of it as an `.npz` without objects; nothing is written without frames."""
        if not self.frames:
            return
        buffer = io.BytesIO()
        unmet = np.array(self.unmet, dtype=np.str_)
        np.savez(buffer, frames=np.stack(self.frames), steps=np.array(self.steps, dtype=np.int64), unmet=unmet)
        write_atomic(path, lambda stream: stream.write(buffer.getvalue()))


def read_reel(path: Path) -> Reel:
    """What `Film.save` wrote."""
    with np.load(path, allow_pickle=False) as found:
        return Reel(found["frames"], found["steps"], tuple(str(goal) for goal in found["unmet"]))


def unmet_goals(env: TaskEnv) -> tuple[str, ...]:
    """Predicates of the task's goal that do not hold now; empty where the simulator cannot say."""
    try:
        base = env.libero.env
        goals = [(goal, bool(base._eval_predicate(goal))) for goal in base.parsed_problem["goal_state"]]
    except Exception:  # a picture's caption: nothing rests on it
        return ()
    return tuple(f"{goal[0].lower()}({', '.join(goal[1:])})" for goal, holds in goals if not holds)
