# SPDX-License-Identifier: Apache-2.0
"""Run logged episodes again, from their own settings, and compare what came of them.

`recheck` asks whether the verdict follows from the rows; this asks whether the rows follow from the policies. Where
they do not, the flip rate says how much of a difference between two policies is noise of this machine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from compress.atomic import write_json
from compress.gate.engine import EngineFactory, local_engine
from compress.gate.intervals import wilson
from compress.gate.jobs import Job
from compress.gate.made_with import FILE, differences, read_settings, settings_of
from compress.gate.merge import PLAN
from compress.gate.plan import GatePlan, PlanMismatch
from compress.gate.policies import PolicySource, artifact_source
from compress.gate.rows import EpisodeRow, read_rows
from compress.gate.shard import ROWS, shard_folders
from compress.gate.sim_gate import worker_setup
from compress.gate.spec import GateSpec

REPLAYED, EPISODES = "replay.json", 8
ARMS = ("candidate", "baseline")  # what a policy did by itself


class CannotReplay(ValueError):
    """The folder does not say what its episodes were made with."""


@dataclass(frozen=True)
class Flip:
    """An episode whose second run differs; (success, steps) of both."""

    row: EpisodeRow
    again: EpisodeRow

    def to_json(self) -> dict[str, Any]:
        """JSON data."""
        was, now = ([row.success, row.steps] for row in (self.row, self.again))
        return {**self.row.key._asdict(), "was": was, "now": now}


@dataclass(frozen=True)
class Replay:
    """What came of it.

    Attributes:
        episodes: run again; flips: those with another outcome; longer: the same outcome in another number of steps.
        changed: settings that differ from those of the log, as text.
    """

    episodes: int
    flips: tuple[Flip, ...]
    longer: tuple[Flip, ...]
    changed: tuple[str, ...]

    @property
    def reproduces(self) -> bool:
        """Outcome and steps of every episode came again."""
        return not self.flips and not self.longer

    def sentence(self) -> str:
        """For people."""
        low, high = wilson(len(self.flips), self.episodes)
        span = f"{100 * low:.0f} to {100 * high:.0f} %"
        if self.reproduces:
            return (
                f"reproduces: {self.episodes} of {self.episodes} episodes, outcome and steps (flip rate 0, 95 % {span})"
            )
        rate = f"{len(self.flips)} of {self.episodes} outcomes flip ({100 * len(self.flips) / self.episodes:.0f} %"
        return f"{rate}, 95 % {span}); {len(self.longer)} more took another number of steps"

    def to_json(self) -> dict[str, Any]:
        """JSON data."""
        return {
            "episodes": self.episodes,
            "reproduces": self.reproduces,
            "flip_rate": len(self.flips) / self.episodes,
            "wilson95": list(wilson(len(self.flips), self.episodes)),
            "flips": [flip.to_json() for flip in self.flips],
            "other_steps": [flip.to_json() for flip in self.longer],
            "changed_settings": list(self.changed),
        }


def replay(
    folder: Path,
    episodes: int = EPISODES,
    artifacts: Mapping[str, Path] | None = None,
    workers: int = 1,
    engine: EngineFactory = local_engine,
    sources: dict[str, PolicySource] | None = None,
) -> Replay:
    """Run `episodes` of the logged ones again, spread evenly over the log, and write replay.json.

    Args:
        folder: of a gate, or of a shard, or of a merged gate.
        episodes: how many; all if there are fewer.
        artifacts: folders of `candidate` and `baseline` where they have moved; they must be the same policies.
        workers, engine: who runs them.
        sources: policies that are no artifacts, by arm.

    Raises:
        CannotReplay: no rows, or an artifact that is gone or another one.
        SimulatorBroken, UnusablePolicy, MixedSettings, PlanMismatch, RowsDamaged.
    """
    home, rows = _logged(folder)
    settings = read_settings(home / FILE)
    plan = _plan(folder, home)
    spec = GateSpec(**{**plan.protocol, "workers": workers})
    arms = sources or _sources(settings, plan, spec, artifacts or {})
    chosen = spread([row for row in rows if row.arm in ARMS], episodes)
    if not chosen:
        raise CannotReplay(f"{folder} has no episodes of a policy yet. Next: compress gate")
    changed = differences(settings["compared"], settings_of(plan, arms, settings["compared"]["batch"])["compared"])
    setup = worker_setup(arms, spec, int(plan.protocol["image_size"]))
    names = {task.index: task.name for task in plan.tasks}
    again: dict[Any, EpisodeRow] = {}
    with engine(setup, workers, spec.episode_timeout_s, folder / "logs", names) as pool:
        pool.run([_job(row, plan) for row in chosen], lambda row: again.update({row.key: row}))
    both = [Flip(row, again[row.key]) for row in chosen]
    flips = tuple(pair for pair in both if pair.row.success != pair.again.success)
    longer = tuple(p for p in both if p.row.success == p.again.success and p.row.steps != p.again.steps)
    found = Replay(len(both), flips, longer, tuple(changed))
    write_json(folder / REPLAYED, found.to_json())
    return found


def spread(rows: Sequence[EpisodeRow], count: int) -> list[EpisodeRow]:
    """`count` rows evenly over the list, first and last included."""
    if count >= len(rows) or count < 1:
        return list(rows)
    step = (len(rows) - 1) / max(count - 1, 1)
    return [rows[round(i * step)] for i in range(count)]


def _logged(folder: Path) -> tuple[Path, list[EpisodeRow]]:
    """The folder with settings, and all rows, in the order in which they finished; of every shard if there are some."""
    homes = shard_folders(folder) or [folder]
    rows: dict[Any, EpisodeRow] = {}
    for home in homes:
        rows.update({row.key: row for row in read_rows(home / ROWS)})
    return homes[0], list(rows.values())


def _plan(folder: Path, home: Path) -> GatePlan:
    for place in (folder, home, home.parent.parent):
        if (place / PLAN).exists():
            return GatePlan.from_json(json.loads((place / PLAN).read_text()))
    raise PlanMismatch(f"{folder} has no {PLAN}")


def _sources(
    settings: Mapping[str, Any], plan: GatePlan, spec: GateSpec, artifacts: Mapping[str, Path]
) -> dict[str, PolicySource]:
    """The artifacts of the log, verified; CannotReplay if they are others."""
    out = {}
    for arm, identity in plan.arms.items():
        logged = str(settings["where"]["artifacts"].get(arm, ""))
        path = artifacts.get(arm) or Path(logged)
        if not logged and arm not in artifacts:
            raise CannotReplay(f"the {arm} of this log is no artifact. Next: --{arm} DIR")
        if not (path / "manifest.json").is_file():
            raise CannotReplay(f"the {arm} of this log is not at {path}. Next: --{arm} DIR")
        out[arm] = artifact_source(path, spec)
        if out[arm].identity != identity:
            raise CannotReplay(f"{path} is policy {out[arm].identity[:12]}, the log's {arm} is {identity[:12]}")
    return out


def _job(row: EpisodeRow, plan: GatePlan) -> Job:
    known = {name: getattr(row, name) for name in Job.__dataclass_fields__ if hasattr(row, name)}
    return replace(Job(**{**known, "max_steps": plan.task(row.task).max_steps}), attempts=1, actions=())
