# SPDX-License-Identifier: Apache-2.0
"""A shard's share of a plan, and its log beside the logs of the others.

The unit is a scene, (task, stored state): everything that both policies do in it belongs to one shard, so that the two
sides of a pair come from one machine. Scenes are dealt round robin over the plan's own random order.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from compress.gate.jobs import Job
from compress.gate.made_with import FILE, read_settings, refuse_other
from compress.gate.plan import GatePlan
from compress.gate.rows import ROWS, EpisodeRow, RowLog, read_rows

SHARDS = "shards"
BY_TASK = ("expert", "blind")  # a recording and its replays stay together


class BadShard(ValueError):
    """Not a share of anything."""


@dataclass(frozen=True)
class Shard:
    """Number `index` of `of` shards, counted from 1."""

    index: int = 1
    of: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.of:
            raise BadShard(f"shard is {self.index}/{self.of}, expected I/N with 1 <= I <= N, such as 2/4")

    @classmethod
    def parse(cls, text: str) -> Shard:
        """`2/4`. Raises BadShard."""
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        if not found:
            raise BadShard(f"shard is {text!r}, expected I/N such as 2/4")
        return cls(int(found[1]), int(found[2]))

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.index}-of-{self.of}"

    def owned(self, plan: GatePlan, jobs: Iterable[Job]) -> list[Job]:
        """Its share: exactly one of the `of` shards owns a job, whatever the order in which jobs are asked for."""
        tasks = {task: place for place, task in enumerate(sorted(plan.screen))}
        scenes = {(pair.task, pair.state): place for place, pair in enumerate(plan.order)}

        def place(job: Job) -> int:
            return tasks[job.task] if job.arm in BY_TASK else scenes[job.task, job.state]

        return [job for job in jobs if place(job) % self.of == self.index - 1]


class ShardLog(RowLog):
    """The shard's own `episodes.jsonl` (`own` rows), and for reading what the shards beside it have finished.

    Raises MixedSettings as soon as a neighbour was made with other settings.
    """

    def __init__(self, folder: Path, shard: Shard) -> None:
        self._own = folder / SHARDS / shard.name
        super().__init__(self._own / ROWS)
        self.own = len(self.rows)
        self._seen: dict[Path, int] = {}
        self.refresh()

    def append(self, row: EpisodeRow) -> None:
        """On disk when this returns, in the shard's own log."""
        super().append(row)
        self.own += 1

    def refresh(self) -> None:
        """Take in what the neighbours have appended since."""
        for path in shard_folders(self._own.parents[1]):
            log = path / ROWS
            size = log.stat().st_size if log.exists() else 0
            if path == self._own or self._seen.get(path) == size:
                continue
            if path not in self._seen:
                mine, theirs = read_settings(self._own / FILE), read_settings(path / FILE)
                refuse_other(theirs, mine, f"{path.name} was made with other settings than {self._own.name}")
            self._seen[path] = size
            for row in read_rows(log):
                self.rows.setdefault(row.key, row)


def shard_folders(folder: Path) -> list[Path]:
    """Folders of all shards that have started, sorted by name."""
    return sorted(path.parent for path in (folder / SHARDS).glob(f"*/{FILE}"))
