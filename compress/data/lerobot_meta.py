# SPDX-License-Identifier: Apache-2.0
"""The metadata of a LeRobotDataset, v2.0 to v3.x: which rows and which seconds of which files are an episode.

v3.0 packs many episodes into a file and lists them in `meta/episodes/*/*.parquet`; v2.x has one file per episode and
lists them in `meta/episodes.jsonl`. Both become the same `Entry`. GR00T's `meta/modality.json` adds names for parts of
the vectors; a part `left_arm` of the state is `state.left_arm` here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.data.faults import DemoFileError

INFO = "meta/info.json"
V2, V3 = "v2", "v3"


@dataclass(frozen=True)
class Entry:
    """One episode.

    Attributes:
        index: its number in the data set.
        length: frames.
        data: the parquet file that holds its rows.
        videos: camera -> (file, where the episode starts in it [s]).
    """

    index: int
    length: int
    data: Path
    videos: Mapping[str, tuple[Path, float]]


@dataclass(frozen=True)
class Info:
    """`meta/info.json`, checked as far as it is used; `data_path` and `video_path` are templates."""

    root: Path
    version: str
    fps: float
    features: Mapping[str, Mapping[str, Any]]
    episodes: int
    frames: int
    chunks_size: int
    data_path: str
    video_path: str

    @property
    def videos(self) -> tuple[str, ...]:
        """Cameras that are stored as video."""
        return tuple(key for key, feature in self.features.items() if feature["dtype"] == "video")

    def file(self, template: str, **numbers: Any) -> Path:
        """A file of the data set.

        Raises:
            DemoFileError: the template asks for something else, or leads out of the data set.
        """
        try:
            relative = Path(template.format(**numbers))
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            raise DemoFileError(f"{self.root / INFO}: the path {template!r} cannot be filled in ({error!r})") from error
        if relative.is_absolute() or ".." in relative.parts:
            raise DemoFileError(f"{self.root / INFO}: the path {template!r} leads out of the data set")
        return self.root / relative


def read_info(root: Path) -> Info:
    """Read `meta/info.json`.

    Raises:
        DemoFileError: missing, not JSON, a version that is not known, or a key that is missing.
    """
    path = root / INFO
    data = read_json(path)
    version = str(data.get("codebase_version", "?"))
    if version.split(".")[0] not in (V2, V3):
        raise DemoFileError(f"{path}: codebase_version is {version}, expected v2.0, v2.1 or v3.x")
    data.setdefault("chunks_size", 1000)
    try:
        fps, features = float(data["fps"]), {str(key): dict(value) for key, value in data["features"].items()}
        shapes = {key: (str(value["dtype"]), tuple(map(int, value["shape"]))) for key, value in features.items()}
        info = Info(
            root, version, fps, features, int(data["total_episodes"]), int(data["total_frames"]),
            int(data["chunks_size"]), str(data["data_path"]), str(data.get("video_path") or ""),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DemoFileError(f"{path}: {error!r} is missing or malformed, expected LeRobot's info.json") from error
    if not fps > 0 or not shapes:
        raise DemoFileError(
            f"{path}: fps is {fps:g} with {len(shapes)} features, expected a positive rate and features"
        )
    return info


def read_entries(info: Info) -> tuple[Entry, ...]:
    """All episodes in order.

    Raises:
        DemoFileError: an episode of length 0, one listed twice, or fewer than info.json promises.
    """
    found = _packed(info) if info.version.startswith(V3) else _single(info)
    entries = tuple(sorted(found, key=lambda entry: entry.index))
    for entry in entries:
        if entry.length < 1:
            raise DemoFileError(f"{info.root}: episode {entry.index} has length {entry.length}, expected frames")
    numbers = [entry.index for entry in entries]
    if len(set(numbers)) < len(numbers) or len(numbers) != info.episodes:
        raise DemoFileError(
            f"{info.root}: {len(set(numbers))} different episodes in {len(numbers)} entries, {INFO} promises "
            f"{info.episodes}. Next: copy the data set completely"
        )
    if not entries:
        raise DemoFileError(f"{info.root}: no episodes")
    return entries


def read_tasks(info: Info) -> dict[int, str]:
    """Task number -> sentence."""
    from compress.data.parquet import Table

    if not info.version.startswith(V3):
        path = info.root / "meta/tasks.jsonl"
        return {int(_field(path, row, "task_index")): str(_field(path, row, "task")) for row in read_lines(path)}
    path = info.root / "meta/tasks.parquet"
    # pandas keeps the sentences as its index, whose column has one name or the other
    table = Table(path, ["task_index"], optional=["task", "__index_level_0__"])
    name = next((key for key in ("task", "__index_level_0__") if key in table), None)
    if name is None:
        raise DemoFileError(f"{path}: no column with the sentences, expected `task`")
    return dict(zip(table.integers("task_index").tolist(), map(str, table.plain(name)), strict=True))


def read_modality(root: Path) -> dict[str, str]:
    """GR00T's names -> the data set's own keys, `state.arm` -> `observation.state[0:7]`; empty without the file."""
    path = root / "meta/modality.json"
    if not path.is_file():
        return {}
    data, found = read_json(path), {}
    for kind, default in (("state", "observation.state"), ("action", "action")):
        for name, part in dict(data.get(kind, {})).items():
            key = part.get("original_key") or default
            found[f"{kind}.{name}"] = f"{key}[{_field(path, part, 'start')}:{_field(path, part, 'end')}]"
    for name, part in dict(data.get("video", {})).items():
        found[f"video.{name}"] = str(part.get("original_key") or f"observation.images.{name}")
    for name, part in dict(data.get("annotation", {})).items():
        found[f"annotation.{name}"] = str((part or {}).get("original_key") or f"annotation.{name}")
    return found


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        DemoFileError: missing or malformed.
    """
    if not path.is_file():
        raise DemoFileError(f"{path}: no such file. Next: copy the data set completely")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DemoFileError(f"{path} is not JSON: {error}. Next: copy it again") from error
    if not isinstance(data, dict):
        raise DemoFileError(f"{path} holds a {type(data).__name__}, expected a JSON object")
    return data


def read_lines(path: Path) -> list[dict[str, Any]]:
    """One JSON object per line."""
    if not path.is_file():
        raise DemoFileError(f"{path}: no such file. Next: copy the data set completely")
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            try:
                rows.append(dict(json.loads(line)))
            except (ValueError, TypeError) as error:
                raise DemoFileError(f"{path}: line {number} is not a JSON object: {error}") from error
    return rows


def _single(info: Info) -> list[Entry]:
    """v2.x: one file per episode."""
    path, found = info.root / "meta/episodes.jsonl", []
    for row in read_lines(path):
        index = int(_field(path, row, "episode_index"))
        numbers = {"episode_index": index, "episode_chunk": index // info.chunks_size}
        videos = {key: (info.file(info.video_path, video_key=key, **numbers), 0.0) for key in info.videos}
        found.append(Entry(index, int(_field(path, row, "length")), info.file(info.data_path, **numbers), videos))
    return found


def _packed(info: Info) -> list[Entry]:
    """v3.x: many episodes per file."""
    from compress.data.parquet import Table

    files = sorted((info.root / "meta/episodes").glob("*/*.parquet"))
    if not files:
        raise DemoFileError(f"{info.root}/meta/episodes holds no */*.parquet. Next: copy the data set completely")
    own = ["episode_index", "length", "data/chunk_index", "data/file_index"]
    parts = ("chunk_index", "file_index", "from_timestamp")
    names = [*own, *(f"videos/{key}/{part}" for key in info.videos for part in parts)]
    found = []
    for file in files:
        table = Table(file, names)
        for row in zip(*(table.plain(name) for name in names), strict=True):
            if None in row:
                raise DemoFileError(f"{file}: episode {row[0]} has an empty {names[row.index(None)]}")
            index, length, chunk, number, *rest = row
            data = info.file(info.data_path, chunk_index=chunk, file_index=number)
            videos = {}
            for at, key in enumerate(info.videos):
                place = {"video_key": key, "chunk_index": rest[3 * at], "file_index": rest[3 * at + 1]}
                videos[key] = (info.file(info.video_path, **place), float(rest[3 * at + 2]))
            found.append(Entry(int(index), int(length), data, videos))
    return found


def _field(path: Path, row: Mapping[str, Any], key: str) -> Any:
    if row.get(key) is None:
        raise DemoFileError(f"{path}: an entry lacks {key}; it has {', '.join(map(str, row))}")
    return row[key]
