# SPDX-License-Identifier: Apache-2.0
"""What decides a demonstration set: the suite, the seed, and how much episodes vary."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from compress.sim.episode import EpisodeSpec
from compress.sim.suites import EMBEDDED_SUITE, Task

# layout seed = seed * _PER_RUN + task * _PER_TASK + attempt, all below the stored states' seeds (4e9)
_PER_RUN, _PER_TASK, _MAX_SEED = 1_000_000, 100_000, 3_999
WORST_SUCCESS_RATE = 0.25


@dataclass(frozen=True)
class DemoPlan:
    """What decides the content of a demonstration set.

    Attributes:
        suite: suite name.
        episodes_per_task: successful episodes to keep per task.
        seed: 0..3999; disjoint layouts for disjoint seeds, and never a stored initial state.
        noise: largest standard deviation of the executed action's noise (bursts); labels stay clean.
        arm_noise: standard deviation [rad] of each joint of the start pose (0.03 is about 2 cm at the hand).
        speed: range of the expert's speed.
        image_size: height and width in pixels.
    """

    suite: str = EMBEDDED_SUITE
    episodes_per_task: int = 100
    seed: int = 0
    noise: float = 0.2
    arm_noise: float = 0.03
    speed: tuple[float, float] = (0.8, 1.0)
    image_size: int = 128

    def __post_init__(self) -> None:
        if not 0 <= self.seed <= _MAX_SEED:
            raise ValueError(f"seed must be 0..{_MAX_SEED}, got {self.seed}: higher ones belong to the stored states")
        most = int(_PER_TASK * WORST_SUCCESS_RATE)
        if not 1 <= self.episodes_per_task <= most:
            raise ValueError(f"episodes_per_task must be 1..{most}, got {self.episodes_per_task}")
        if not 0 <= self.noise <= 0.5 or not 0 <= self.arm_noise <= 0.1:
            raise ValueError(f"noise must be 0..0.5 and arm_noise 0..0.1 rad, got {self.noise} and {self.arm_noise}")
        if not 0 < self.speed[0] <= self.speed[1] <= 1:
            raise ValueError(f"speed must be a range inside (0, 1], got {self.speed}")

    def spec(self, task: Task, attempt: int) -> EpisodeSpec:
        """The episode that attempt number `attempt` at `task` is."""
        seed = self.seed * _PER_RUN + task.index * _PER_TASK + attempt
        return EpisodeSpec(task.name, attempt, seed, self.noise, self.arm_noise, self.speed)

    def as_json(self) -> dict[str, Any]:
        """Plain values, for files and comparison."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain
