# SPDX-License-Identifier: Apache-2.0
"""One finished episode is one row of `episodes.jsonl`, on disk before its worker gets the next job."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from runtime.contract.panels import PRIMARY

ROWS = "episodes.jsonl"
ARMS = ("candidate", "baseline", "blind", "expert")
IN_DISTRIBUTION = PRIMARY  # the panel of unperturbed scenes under their own sentence
POLICIES = ("candidate", "baseline", "expert")


class RowsDamaged(ValueError):
    """The row file holds something else than rows (a torn last line is not damage)."""


class RowKey(NamedTuple):
    """What an episode was; the same key is never run twice. `told` is the task whose sentence the policy was given."""

    arm: str
    policy: str
    task: int
    state: int
    seed: int
    told: int
    panel: str = IN_DISTRIBUTION


@dataclass(frozen=True)
class EpisodeRow:
    """One episode.

    Attributes:
        arm: candidate and baseline (paired), blind (open-loop replay), expert (recording).
        policy: who acted or was replayed: candidate, baseline or expert.
        told: task whose sentence was given (its own, except in panel `instruction_swap`).
        success: the original goal of `task` was reached within the cap.
        steps: control steps of 50 ms; queries: times the policy was asked.
        wall_s: of the whole episode, with reset; infer_s: of all queries together.
        error: why it failed if not by itself: an exception, a dead worker; empty otherwise.
        attempts: 2 if a worker died under it once.
        actions: (steps, 7) commands, only for recordings.
        panel: what was changed about the scene: nothing, a robustness axis, or the sentence.
    """

    suite: str
    task: int
    task_name: str
    state: int
    seed: int
    arm: str
    policy: str
    told: int
    success: bool
    steps: int
    queries: int
    wall_s: float
    infer_s: float
    error: str = ""
    attempts: int = 1
    actions: tuple[tuple[float, ...], ...] = ()
    panel: str = IN_DISTRIBUTION

    def __post_init__(self) -> None:
        if self.arm not in ARMS or self.policy not in POLICIES:
            raise RowsDamaged(
                f"row has arm {self.arm!r} and policy {self.policy!r}, expected one of {ARMS} and of {POLICIES}"
            )
        if not isinstance(self.success, bool):
            raise RowsDamaged(f"row has success {self.success!r}, expected true or false")
        object.__setattr__(self, "actions", tuple(tuple(float(v) for v in action) for action in self.actions))

    @property
    def key(self) -> RowKey:
        """Identity of the episode."""
        return RowKey(self.arm, self.policy, self.task, self.state, self.seed, self.told, self.panel)

    def to_json(self) -> dict[str, Any]:
        """JSON data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Any) -> EpisodeRow:
        """Strict; RowsDamaged names missing and unknown fields."""
        names = {field.name for field in fields(cls)}
        if not isinstance(data, dict) or set(data) != names:
            found = sorted(data) if isinstance(data, dict) else type(data).__name__
            raise RowsDamaged(f"row has {found}, expected the fields {sorted(names)}")
        return cls(**data)


class RowLog:
    """`episodes.jsonl`, open for appending. A torn last line (the process died while writing) is cut off."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        kept, whole = _read(path)
        self.rows: dict[RowKey, EpisodeRow] = {row.key: row for row in kept}
        self._stream = path.open("ab")
        self._stream.truncate(whole)

    def append(self, row: EpisodeRow) -> None:
        """On disk when this returns."""
        line = json.dumps(row.to_json(), sort_keys=True, allow_nan=False) + "\n"
        self._stream.write(line.encode())
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self.rows[row.key] = row

    def close(self) -> None:
        """More calls are harmless."""
        self._stream.close()

    def __enter__(self) -> RowLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_rows(path: Path) -> tuple[EpisodeRow, ...]:
    """All whole rows in the order in which they finished."""
    return tuple(_read(path)[0])


def _read(path: Path) -> tuple[list[EpisodeRow], int]:
    data = path.read_bytes() if path.exists() else b""
    whole = data.rfind(b"\n") + 1
    return list(_parse(data[:whole], path)), whole


def _parse(data: bytes, path: Path) -> Iterator[EpisodeRow]:
    seen: dict[RowKey, int] = {}
    for number, line in enumerate(data.splitlines(), start=1):
        try:
            row = EpisodeRow.from_json(json.loads(line))
            if seen.setdefault(row.key, number) != number:
                raise RowsDamaged(f"the episode of line {seen[row.key]} again; which of them counts?")
            yield row
        except ValueError as error:
            raise RowsDamaged(
                f"{path} line {number} is not an episode ({error}). Next: run the gate in a new folder"
            ) from error
