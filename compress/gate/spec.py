# SPDX-License-Identifier: Apache-2.0
"""`GateSpec`: every choice of a gate run, made before its first episode."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from compress.gate.margins import margin_of
from compress.gate.panel_spec import INSTRUCTION_SWAP, PanelSpec, PanelSpecError, resolve

# how the run is carried out, not what it finds: these may differ when a run is resumed
EXECUTION_FIELDS = ("workers", "envs_per_worker", "episode_timeout_s", "filmstrips", "libero_assets")


class GateSpecError(ValueError):
    """A gate cannot be run like this."""


@dataclass(frozen=True)
class GateSpec:
    """What is asked, on which scenes, and how it is run. Raises GateSpecError.

    Attributes:
        suite: simulated tasks, such as `dropgate_tabletop` or `libero_goal`.
        tasks: names, sentences or indices; None takes all of the suite.
        states: how many stored initial states of each task belong to the population; None takes all.
        pairs: budget: at most so many (task, state) pairs are run by both policies; undecided then means hold.
        margin: the loss of success rate that is still accepted: a rate, or `release` (0.03) or `strict` (0.02).
        alpha: probability of promoting a policy that is worse than that.
        order_seed: of the one random order of all pairs, of the screening states and of the wrong sentences.
        env_seed: given to the scene before every reset, the same for every policy.
        max_steps: control steps of an episode; None takes the suite's own cap.
        open_loop: rows of a chunk that are executed before the policy is asked again.
        image_size: pixels, square; None takes what the policies were made for.
        floor_states: scenes per task on which the blind replay and the baseline are compared beforehand.
        floor_gap: a task counts as proof only if the baseline beats the blind replay by at least this rate.
        min_baseline: success rate on the screening scenes under which the baseline itself counts as broken.
        panels: robustness axes and `instruction_swap`, each with terms of its own; all that are not advisory must pass.
        workers: simulator processes.
        envs_per_worker: task environments that each keeps built (about 0.3 to 2 GB each).
        episode_timeout_s: seconds after which a silent worker counts as dead.
        filmstrips: failed pairs that are drawn for people.
        libero_assets: LIBERO's assets folder; the embedded suite needs none.
    """

    suite: str = "dropgate_tabletop"
    tasks: tuple[int | str, ...] | None = None
    states: int | None = None
    pairs: int = 100
    margin: float | str = 0.10
    alpha: float = 0.05
    order_seed: int = 0
    env_seed: int = 0
    max_steps: int | None = None
    open_loop: int = 8
    image_size: int | None = None
    floor_states: int = 8
    floor_gap: float = 0.25
    min_baseline: float = 0.5
    panels: Mapping[str, PanelSpec] = field(
        default_factory=lambda: {INSTRUCTION_SWAP: PanelSpec(pairs=8, advisory=True)}
    )
    workers: int = 2
    envs_per_worker: int = 4
    episode_timeout_s: float = 600.0
    filmstrips: int = 6
    libero_assets: Path | None = None

    def __post_init__(self) -> None:
        if not self.suite:
            raise GateSpecError("`suite` is empty, expected a suite such as 'dropgate_tabletop'")
        if self.tasks is not None:
            object.__setattr__(self, "tasks", tuple(self.tasks))
            if not self.tasks or len(set(self.tasks)) != len(self.tasks):
                raise GateSpecError(
                    f"`tasks` is {list(self.tasks)}, expected different tasks, at least one, or None for all"
                )
        if self.libero_assets is not None:
            object.__setattr__(self, "libero_assets", Path(self.libero_assets))
        for name in ("pairs", "open_loop", "floor_states", "workers", "envs_per_worker"):
            _whole(name, getattr(self, name), 1)
        for name in ("order_seed", "env_seed", "filmstrips"):
            _whole(name, getattr(self, name), 0)
        for name in ("states", "max_steps", "image_size"):
            if getattr(self, name) is not None:
                _whole(name, getattr(self, name), 1)
        try:
            object.__setattr__(self, "margin", margin_of(self.margin))
        except ValueError as error:
            raise GateSpecError(str(error)) from error
        _rate("margin", self.margin, 0.0, 0.5)
        _rate("alpha", self.alpha, 0.0, 0.5)
        _rate("min_baseline", self.min_baseline, 0.0, 1.0)
        _rate("floor_gap", self.floor_gap, float(self.margin), 1.0)
        try:
            object.__setattr__(self, "panels", resolve(self.panels, self.alpha))
        except PanelSpecError as error:
            raise GateSpecError(f"`panels`: {error}") from error
        if not (math.isfinite(self.episode_timeout_s) and self.episode_timeout_s > 0):
            raise GateSpecError(f"`episode_timeout_s` is {self.episode_timeout_s}, expected seconds above 0")

    def protocol(self) -> dict[str, Any]:
        """The choices that the plan is bound to, as JSON data (everything but EXECUTION_FIELDS)."""
        data = {name: value for name, value in asdict(self).items() if name not in EXECUTION_FIELDS}
        return {**data, "tasks": None if self.tasks is None else list(self.tasks)}

    def to_json(self) -> dict[str, Any]:
        """All choices as JSON data."""
        assets = None if self.libero_assets is None else str(self.libero_assets)
        return {**self.protocol(), **{name: getattr(self, name) for name in EXECUTION_FIELDS}, "libero_assets": assets}


def _whole(name: str, value: Any, low: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise GateSpecError(f"`{name}` is {value!r}, expected a whole number of at least {low}")


def _rate(name: str, value: Any, low: float, high: float) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not low < value < high:
        raise GateSpecError(f"`{name}` is {value!r}, expected a number between {low:g} and {high:g} (both excluded)")
