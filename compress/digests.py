# SPDX-License-Identifier: Apache-2.0
"""sha256 of values, files and folders: the names by which a run knows its inputs and outputs."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


def of_value(value: Any) -> str:
    """Of plain data, by its canonical JSON; NaN is refused."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def of_file(path: Path) -> str:
    """Of the bytes of one file."""
    state = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            state.update(block)
    return state.hexdigest()


def files_under(path: Path) -> list[Path]:
    """The file itself, or every file below a folder, sorted; temporary and lock files are left out."""
    if path.is_file():
        return [path]
    return sorted(p for p in path.rglob("*") if p.is_file() and not p.name.endswith((".tmp", ".lock")))


def of_path(path: Path) -> str:
    """Of a file, or of a folder as the list of its files' names and digests.

    Raises:
        FileNotFoundError: nothing is there.
    """
    if path.is_file():
        return of_file(path)
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such file or folder")
    return of_value([[p.relative_to(path).as_posix(), of_file(p)] for p in files_under(path)])
