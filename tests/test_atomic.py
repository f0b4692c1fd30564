# SPDX-License-Identifier: Apache-2.0
"""A file or folder appears whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from compress.atomic import folder_atomic, write_atomic, write_json


def test_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def half(stream) -> None:  # type: ignore[no-untyped-def]
        stream.write(b"ne")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_atomic(path, half)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_failed_folder_keeps_the_old_one(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    with folder_atomic(folder) as work:
        (work / "a").write_text("old")

    def replace_halfway() -> None:
        with folder_atomic(folder) as work:
            (work / "a").write_text("new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        replace_halfway()
    assert (folder / "a").read_text() == "old"
    assert list(tmp_path.iterdir()) == [folder]


def test_new_folder_replaces_the_old_one_whole(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    for name in ("a", "b"):
        with folder_atomic(folder) as work:
            (work / name).write_text(name)
    assert [p.name for p in folder.iterdir()] == ["b"]


def test_nan_never_enters_a_json_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"loss": float("nan")})
    assert not (tmp_path / "x.json").exists()


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomic(tmp_path / "file", lambda stream: stream.write(b"x"))
        with folder_atomic(tmp_path / "folder") as work:
            (work / "a").write_text("a")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o750
