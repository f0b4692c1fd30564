# SPDX-License-Identifier: Apache-2.0
"""What crosses the socket between the gate and its workers, as JSON data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from compress.gate.plan import Pair
from compress.gate.policies import PolicySource
from compress.gate.rows import IN_DISTRIBUTION, EpisodeRow, RowKey


@dataclass(frozen=True)
class WorkerSetup:
    """What a worker needs before its first job.

    `envs`: environments kept built; `image_size` in pixels; `strengths`: of the robustness axes that jobs may name.
    """

    suite: str
    assets: str
    image_size: int
    open_loop: int
    envs: int
    policies: Mapping[str, PolicySource]
    strengths: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """JSON data."""
        return {
            **asdict(replace(self, policies={})),
            "policies": {name: source.to_json() for name, source in self.policies.items()},
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> WorkerSetup:
        """Inverse of `to_json`."""
        return cls(**{**data, "policies": {name: PolicySource(**source) for name, source in data["policies"].items()}})


@dataclass(frozen=True)
class Job:
    """One episode to run. `actions` are replayed if the arm is `blind`; `film`: an `.npz` for what was seen, or empty.

    `panel` names the robustness axis that perturbs the scene, or a panel that does not.
    """

    arm: str
    policy: str
    task: int
    state: int
    seed: int
    told: int
    max_steps: int
    attempts: int = 1
    film: str = ""
    actions: tuple[tuple[float, ...], ...] = ()
    panel: str = IN_DISTRIBUTION

    @classmethod
    def of(cls, arm: str, policy: str, pair: Pair, max_steps: int, told: int | None = None, **more: Any) -> Job:
        """The job of one scene; the policy is told its own task unless `told` says otherwise."""
        return cls(
            arm, policy, pair.task, pair.state, pair.seed, pair.task if told is None else told, max_steps, **more
        )

    @property
    def key(self) -> RowKey:
        """Key of the row that it will give."""
        return RowKey(self.arm, self.policy, self.task, self.state, self.seed, self.told, self.panel)

    def lost(self, suite: str, task_name: str, cause: str) -> EpisodeRow:
        """The row of an episode that nobody survived: a failure."""
        return EpisodeRow(
            suite, self.task, task_name, self.state, self.seed, self.arm, self.policy, self.told, False, 0, 0, 0.0, 0.0,
            error=cause, attempts=self.attempts, panel=self.panel,
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """JSON data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Job:
        """Inverse of `to_json`."""
        return cls(**{**data, "actions": tuple(tuple(action) for action in data["actions"])})
