# SPDX-License-Identifier: Apache-2.0
"""One episode through ROS is one row of `episodes.jsonl`, on disk before the next scene; a run that stopped goes on."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from compress.gate.plan import Pair


class RowsDamaged(ValueError):
    """The row file holds something else than rows (a torn last line is not damage)."""


@dataclass(frozen=True)
class RosRow:
    """One episode.

    Attributes:
        success: the simulator saw the goal within the cap, whatever the controller said afterwards.
        steps: control steps of 50 ms since the reset; commands: motion commands that the arm took.
        chunks, rejected: action chunks that the controller took and refused.
        cause, text: why the task ended, as the controller says (`cancelled` is the regression's own doing).
        error: what kept the episode from being what it should be; empty otherwise. Such an episode has failed.
        infer_s: the controller's median inference time so far; age_s: greatest observation age that it reported [s].
        wall_s: without the reset.
    """

    task: int
    state: int
    seed: int
    success: bool
    steps: int
    commands: int
    chunks: int
    rejected: int
    cause: str
    text: str
    error: str
    infer_s: float
    age_s: float
    wall_s: float

    def __post_init__(self) -> None:
        if not isinstance(self.success, bool):
            raise RowsDamaged(f"row has success {self.success!r}, expected true or false")

    @property
    def pair(self) -> Pair:
        """The scene."""
        return Pair(self.task, self.state, self.seed)

    def to_json(self) -> dict[str, Any]:
        """JSON data."""
        return asdict(self)


class RosLog:
    """`episodes.jsonl`, open for appending; a torn last line is cut off."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        data = path.read_bytes() if path.exists() else b""
        whole = data.rfind(b"\n") + 1
        self.rows: dict[Pair, RosRow] = {row.pair: row for row in _parse(data[:whole], path)}
        self._stream = path.open("ab")
        self._stream.truncate(whole)

    def append(self, row: RosRow) -> None:
        """On disk when this returns."""
        self._stream.write((json.dumps(row.to_json(), sort_keys=True, allow_nan=False) + "\n").encode())
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self.rows[row.pair] = row

    def __enter__(self) -> RosLog:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()


def _parse(data: bytes, path: Path) -> list[RosRow]:
    names, rows = {field.name for field in fields(RosRow)}, []
    for number, line in enumerate(data.splitlines(), start=1):
        try:
            content = json.loads(line)
            if not isinstance(content, dict) or set(content) != names:
                raise ValueError(f"expected the fields {sorted(names)}")
            rows.append(RosRow(**content))
        except ValueError as error:
            raise RowsDamaged(f"{path} line {number} is not an episode ({error}). Next: --force starts over") from error
    return rows
