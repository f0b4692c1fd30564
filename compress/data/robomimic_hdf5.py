# SPDX-License-Identifier: Apache-2.0
"""robomimic's HDF5 layout with any observation keys: `data/demo_k/actions`, `data/demo_k/obs/...`. LIBERO's is one.

Keys are paths below a demonstration, such as `obs/agentview_image`. The sentence is the file's `problem_info` (LIBERO),
the demonstration's `ep_meta` (RoboCasa), or whatever `instruction_key` names: a string data set, or an attribute of the
demonstration or of `data`.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from compress.data.contents import Camera, Contents, Vector
from compress.data.demo_checks import demo_names, opened, read
from compress.data.faults import DemoFileError
from compress.data.mapping import FrameMap, joined
from compress.data.reader import ImageSource, Rows

ROBOMIMIC, LIBERO = "robomimic_hdf5", "libero_hdf5"
_LIBERO_KEYS = ("obs/agentview_rgb", "obs/eye_in_hand_rgb", "obs/ee_pos", "obs/ee_ori", "obs/gripper_states")


class RobomimicReader:
    """The files below a path; implements `compress.data.reader.DemoReader`."""

    def __init__(self, root: Path) -> None:
        """Find the files.

        Raises:
            DemoFileError: there are none.
        """
        self.root = root
        self.files = [root] if root.is_file() else sorted(root.rglob("*.hdf5")) + sorted(root.rglob("*.h5"))
        if not self.files:
            raise DemoFileError(f"{root}: no such file, or a folder without *.hdf5 files")

    def contents(self) -> Contents:
        """Of the first demonstration of the first file; episodes and frames of all files."""
        return self._contents

    @functools.cached_property
    def _contents(self) -> Contents:
        episodes = frames = 0
        sentences: dict[str, None] = {}
        for path in self.files:
            with opened(path) as file:
                names = demo_names(path, file)
                episodes += len(names)
                frames += sum(_steps(path, name, file["data"][name]) for name in names)
                sentences |= dict.fromkeys(filter(None, (_told(file["data"], file["data"][n]) for n in names)))
        with opened(self.files[0]) as file:
            data = file["data"]
            demo = data[demo_names(self.files[0], file)[0]]
            fields = _fields(demo)
            cameras = {
                key: Camera(item.shape[1], item.shape[2], str(item.dtype))
                for key, item in fields.items()
                if item.ndim == 4 and item.shape[3] == 3 and item.dtype == np.uint8
            }
            vectors = {
                key: Vector(1 if item.ndim == 1 else item.shape[1])
                for key, item in fields.items()
                if item.ndim in (1, 2) and item.dtype.kind in "fiub"
            }
            attributes = {name for group in (data, demo) for name, value in group.attrs.items() if _is_text(value)}
            texts = [*(key for key, item in fields.items() if item.dtype.kind in "OS"), *sorted(attributes)]
            known = all(key in fields for key in _LIBERO_KEYS) and "problem_info" in data.attrs
            rate = _rate(data)
        return Contents(
            LIBERO if known else ROBOMIMIC, "", self.root, episodes, frames, rate, cameras, vectors,
            tuple(texts), tuple(sentences),
        )  # fmt: skip

    def open(self, wanted: FrameMap) -> tuple[tuple[Rows, ...], ImageSource]:
        """Files by name, demonstrations by number."""
        wanted.check(self.contents())
        rows: list[Rows] = []
        places: list[tuple[Path, str]] = []
        for path in self.files:
            with opened(path) as file:
                for name in demo_names(path, file):
                    rows.append(self._rows(path, name, file["data"], wanted))
                    places.append((path, name))
        return tuple(rows), _Pictures(places)

    def _rows(self, path: Path, name: str, data: h5py.Group, wanted: FrameMap) -> Rows:
        demo, where = data[name], f"{path}: {name}"
        needed = [*wanted.cameras.values(), *(column.key for column in (*wanted.state, *wanted.action))]
        missing = [key for key in needed if key not in demo]
        if missing:
            raise DemoFileError(f"{where} lacks {', '.join(missing)}. Available: {', '.join(_fields(demo))}")
        steps = len(demo[wanted.action[0].key])
        if steps == 0:
            raise DemoFileError(f"{where} has no steps")
        for key in wanted.cameras.values():
            shape = demo[key].shape
            if len(shape) != 4 or shape[0] != steps or shape[3] != 3 or demo[key].dtype != np.uint8:
                raise DemoFileError(f"{where}/{key} is {demo[key].dtype} {shape}, expected uint8 ({steps}, H, W, 3)")

        def column(key: str) -> np.ndarray:
            values = read(path, name, demo, key)
            return values[:, None] if values.ndim == 1 else values

        states, actions = (joined(columns, steps, where, column) for columns in (wanted.state, wanted.action))
        return Rows(f"{self._task(path)}/{name}", where, states, actions, _sentences(where, data, demo, steps, wanted))

    def _task(self, path: Path) -> str:
        """The file's name without `_demo`; below sub-folders with their names, so that two files never share one."""
        inside = path.relative_to(self.root).with_suffix("") if path != self.root else Path(path.stem)
        return ".".join(inside.parts).removesuffix("_demo")


class _Pictures:
    def __init__(self, places: list[tuple[Path, str]]) -> None:
        self._places = places

    def read(self, camera: str, episode: int, rows: Sequence[int]) -> list[np.ndarray]:
        """One read of the file for all rows."""
        path, name = self._places[episode]
        with opened(path) as file:
            return list(read(path, name, file["data"][name], camera, list(rows)))

    def close(self) -> None:
        """Nothing stays open."""


def _fields(group: h5py.Group) -> dict[str, h5py.Dataset]:
    """Every data set below a demonstration, by path."""
    found: dict[str, h5py.Dataset] = {}
    group.visititems(lambda name, item: found.update({name: item}) if isinstance(item, h5py.Dataset) else None)
    return {name: item for name, item in sorted(found.items()) if item.ndim}


def _steps(path: Path, name: str, demo: h5py.Group) -> int:
    if "num_samples" in demo.attrs:
        return int(demo.attrs["num_samples"])
    lengths = {len(item) for item in _fields(demo).values()}
    if not lengths:
        raise DemoFileError(f"{path}: {name} holds no data sets")
    return max(lengths)


def _sentences(where: str, data: h5py.Group, demo: h5py.Group, steps: int, wanted: FrameMap) -> Sequence[str]:
    if wanted.instruction is not None:
        return [wanted.instruction] * steps
    key = wanted.instruction_key
    if key is not None and key in demo:
        values = [_text(value) for value in np.atleast_1d(demo[key].asstr()[()])]
        if len(values) not in (1, steps):
            raise DemoFileError(f"{where}/{key} holds {len(values)} sentences, expected 1 or {steps}")
        return values * steps if len(values) == 1 else values
    if key is not None:
        found = next((_text(group.attrs[key]) for group in (demo, data) if key in group.attrs), "")
    else:
        found = _told(data, demo) or ""
    if not found.strip():
        texts = sorted({name for group in (data, demo) for name, value in group.attrs.items() if _is_text(value)})
        raise DemoFileError(
            f"{where} has no instruction{f' in {key}' if key else ''}; text attributes: {', '.join(texts) or 'none'}. "
            "Next: write data.instruction_key, or data.instruction: one sentence for every episode"
        )
    return [found.strip()] * steps


def _told(data: h5py.Group, demo: h5py.Group) -> str | None:
    """The sentence in `problem_info` (LIBERO) or `ep_meta` (RoboCasa)."""
    info = _parsed(data.attrs.get("problem_info")).get("language_instruction") or _parsed(
        demo.attrs.get("ep_meta")
    ).get("lang")
    return None if info is None else (info if isinstance(info, str) else " ".join(map(str, info)))


def _rate(data: h5py.Group) -> float | None:
    """`control_freq` of robomimic's `env_args` or of LIBERO's `env_info`, [Hz]."""
    arguments = _parsed(data.attrs.get("env_args")).get("env_kwargs") or {}
    rate = arguments.get("control_freq") if isinstance(arguments, dict) else None
    return float(rate) if isinstance(rate, (int, float)) and rate > 0 else None


def _parsed(text: Any) -> Mapping[str, Any]:
    try:
        found = json.loads(_text(text)) if text is not None else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _is_text(value: Any) -> bool:
    return isinstance(value, (str, bytes))


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
