# SPDX-License-Identifier: Apache-2.0
"""LeRobotDataset v2.0, v2.1 (GR00T's too) and v3.x: numbers in parquet, pictures there or in video files."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from compress.data import parquet, pictures
from compress.data.contents import Camera, Contents, Vector
from compress.data.faults import DemoFileError
from compress.data.lerobot_meta import Entry, Info, read_entries, read_info, read_modality, read_tasks
from compress.data.mapping import Column, FrameMap, joined
from compress.data.reader import ImageSource, Rows
from compress.data.video import Videos

_BOOKKEEPING = ("timestamp", "frame_index", "episode_index", "index", "task_index")
_NUMBERS = ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "bool")


class LeRobotReader:
    """One data set; implements `compress.data.reader.DemoReader`."""

    def __init__(self, root: Path) -> None:
        """Read the metadata.

        Raises:
            DemoFileError: missing or malformed.
        """
        self.info = read_info(root)
        self.entries = read_entries(self.info)
        self.tasks = read_tasks(self.info)
        self.names = read_modality(root)

    def contents(self) -> Contents:
        """From `meta`."""
        cameras, vectors, texts = {}, {}, []
        for key, feature in self.info.features.items():
            kind, shape = str(feature["dtype"]), tuple(map(int, feature["shape"]))
            if kind in ("image", "video") and len(shape) == 3 and not _is_depth(feature):
                height, width = _height_width(shape, feature.get("names"))
                cameras[key] = Camera(height, width, kind)
            elif kind in _NUMBERS and len(shape) == 1 and key not in _BOOKKEEPING:
                vectors[key] = Vector(shape[0], _names(feature.get("names"), shape[0]))
            if kind == "string" or (
                kind.startswith("int") and shape == (1,) and key.startswith(("task", "annotation"))
            ):
                texts.append(key)
        for name, key in self.names.items():
            column = Column.parse(key)
            if column.key in cameras:
                cameras[name] = cameras[column.key]
            elif column.key in vectors:
                names = vectors[column.key].names[column.start : column.stop]
                vectors[name] = Vector(column.width(vectors[column.key].width), names)
            elif column.key in texts:
                texts.append(name)
        sentences = tuple(self.tasks[number] for number in sorted(self.tasks))
        return Contents(
            "lerobot", self.info.version, self.info.root, len(self.entries), sum(e.length for e in self.entries),
            self.info.fps, cameras, vectors, tuple(texts), sentences,
        )  # fmt: skip

    def open(self, wanted: FrameMap) -> tuple[tuple[Rows, ...], ImageSource]:
        """All episodes by number."""
        wanted.check(self.contents())
        state, action = (tuple(self._own(c) for c in columns) for columns in (wanted.state, wanted.action))
        text = self.names.get(wanted.instruction_key or "", wanted.instruction_key)
        plan = replace(wanted, state=state, action=action, instruction_key=text)
        rows: list[Rows] = []
        places: list[np.ndarray] = []
        for path, entries in groupby(self.entries, key=lambda entry: entry.data):
            for found, place in self._file(path, list(entries), plan):
                rows.append(found)
                places.append(place)
        times = [place[:, 1] for place in places]
        own = {camera: self.names.get(camera, camera) for camera in wanted.cameras.values()}
        return tuple(rows), _Pictures(self.info, self.entries, [p[:, 0].astype(np.int64) for p in places], times, own)

    def _own(self, column: Column) -> Column:
        """A name of `modality.json`, or a part of one, as a part of the data set's own vector."""
        if column.key not in self.names:
            return column
        whole = Column.parse(self.names[column.key])
        stop = whole.stop if column.stop is None else whole.start + column.stop
        return Column(whole.key, whole.start + column.start, stop)

    def _file(self, path: Path, entries: Sequence[Entry], plan: FrameMap) -> Iterator[tuple[Rows, np.ndarray]]:
        """Numbers of the episodes in one file; with each, row in the file and time in the episode [s], (T, 2)."""
        keys = {column.key for column in (*plan.state, *plan.action)} | {"episode_index", "frame_index"}
        text = None if plan.instruction is not None else plan.instruction_key or "task_index"
        table = parquet.Table(path, sorted(keys | ({text} if text else set())), optional=["timestamp"])
        number = table.integers("episode_index")
        order = np.argsort(number, kind="stable")
        ranked = number[order]
        for entry in entries:
            mine = order[np.searchsorted(ranked, entry.index) : np.searchsorted(ranked, entry.index, side="right")]
            where, count = f"{path}: episode {entry.index}", len(mine)
            if count != entry.length:
                raise DemoFileError(
                    f"{where} has {count} rows, meta says {entry.length}. Next: copy the data set completely"
                )
            if not np.array_equal(table.integers("frame_index")[mine], np.arange(count)):
                raise DemoFileError(f"{where}: frame_index is not 0, 1, ... {count - 1}")
            picked = _Picked(table, mine)
            times = _times(where, picked.numbers("timestamp")[:, 0] if "timestamp" in table else None, count, self.info)
            states, actions = (joined(columns, count, where, picked.numbers) for columns in (plan.state, plan.action))
            sentences = [plan.instruction or ""] * count if text is None else self._sentences(picked, text, where)
            name = f"{self.info.root.resolve().name}/episode_{entry.index:06d}"
            yield Rows(name, where, states, actions, sentences), np.stack([mine.astype(np.float64), times], axis=1)

    def _sentences(self, picked: _Picked, key: str, where: str) -> Sequence[str]:
        if picked.table.is_text(key):
            return picked.texts(key)
        numbers = picked.numbers(key)[:, 0].astype(np.int64).tolist()
        unknown = sorted(set(numbers) - set(self.tasks))
        if unknown:
            raise DemoFileError(f"{where}: {key} is {unknown[0]}, meta lists the tasks {sorted(self.tasks)[:20]}")
        return [self.tasks[number] for number in numbers]


class _Picked:
    """Some rows of a table."""

    def __init__(self, table: parquet.Table, rows: np.ndarray) -> None:
        self.table, self._rows = table, rows

    def numbers(self, key: str) -> np.ndarray:
        """(T, W)."""
        picked: np.ndarray = self.table.numbers(key)[self._rows]
        return picked

    def texts(self, key: str) -> list[str]:
        """T texts."""
        values = self.table.plain(key)
        return [str(values[row]) for row in self._rows]


class _Pictures:
    """Pictures by episode and row; implements `ImageSource`."""

    def __init__(
        self, info: Info, entries: Sequence[Entry], rows: list[np.ndarray], times: list[np.ndarray], own: dict[str, str]
    ) -> None:
        self._info, self._entries, self._rows, self._times, self._own = info, entries, rows, times, own
        self._videos = Videos()
        self._column = functools.lru_cache(maxsize=4)(parquet.PictureColumn)

    def read(self, camera: str, episode: int, rows: Sequence[int]) -> list[np.ndarray]:
        """From the video, or out of the parquet file."""
        key, entry = self._own[camera], self._entries[episode]
        where = [f"episode {entry.index}, frame {row}" for row in rows]
        if key in entry.videos:
            path, start = entry.videos[key]
            half, times = 0.5 / self._info.fps, self._times[episode]
            found = zip(rows, where, strict=True)
            return [self._videos.frame(path, start + float(times[row]), half, text) for row, text in found]
        column = self._column(entry.data, key)
        cells = [column.cell(int(self._rows[episode][row])) for row in rows]
        return [self._picture(cell, f"{entry.data}: {text}, {key}") for cell, text in zip(cells, where, strict=True)]

    def _picture(self, cell: Any, where: str) -> np.ndarray:
        content, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)
        if content is None and path:
            file = self._info.root / path
            if Path(path).is_absolute() or ".." in Path(path).parts or not file.is_file():
                raise DemoFileError(f"{where} lies in {path}, and the data set has no such file")
            content = file.read_bytes()
        if not isinstance(content, bytes):
            raise DemoFileError(f"{where} is empty, expected the bytes of a picture")
        return pictures.decoded(content, where)

    def close(self) -> None:
        """Videos and parquet files."""
        self._videos.close()
        self._column.cache_clear()


def _times(where: str, stored: np.ndarray | None, count: int, info: Info) -> np.ndarray:
    """Seconds since the episode's start; the steps must agree with `fps` to half a period."""
    if stored is None:
        return np.arange(count) / info.fps
    times, period = np.asarray(stored, np.float64), 1 / info.fps
    off = np.flatnonzero(~(np.abs(np.diff(times) - period) < 0.5 * period))
    if not np.isfinite(times).all() or len(off):
        at = int(off[0]) if len(off) else 0
        raise DemoFileError(
            f"{where}: timestamps {times[at : at + 2].tolist()} s of the frames {at} and {at + 1}, expected steps of "
            f"{period:.4f} s at fps {info.fps:g}. Next: correct fps in meta/info.json, or the timestamps"
        )
    return times


def _height_width(shape: tuple[int, ...], names: Any) -> tuple[int, int]:
    """Published sets store (H, W, C) or, with names that say so, (C, H, W)."""
    first = isinstance(names, (list, tuple)) and len(names) == 3 and str(names[0]).startswith("channel")
    return (shape[1], shape[2]) if first else (shape[0], shape[1])


def _is_depth(feature: Any) -> bool:
    notes = [feature.get("info") or {}, feature.get("video_info") or {}]
    return any(note.get("is_depth_map") or note.get("video.is_depth_map") for note in notes)


def _names(names: Any, width: int) -> tuple[str, ...]:
    """A flat list of as many names as numbers, however deep it is buried; otherwise none."""
    if isinstance(names, dict):
        values = list(names.values())
        names = values[0] if len(values) == 1 else (list(names) if len(names) == width else None)
    return tuple(map(str, names)) if isinstance(names, (list, tuple)) and len(names) == width else ()
