# SPDX-License-Identifier: Apache-2.0
"""Opens one LIBERO HDF5 file and checks it completely but for the pixels: keys, shapes, lengths, finite numbers.

Every refusal names the file, the demonstration, the field, what was found and what was expected.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from compress.data.faults import DemoFileError, require_finite

CAMERAS = {"agentview": "obs/agentview_rgb", "wrist": "obs/eye_in_hand_rgb"}
STATE_PARTS = {"obs/ee_pos": 3, "obs/ee_ori": 3, "obs/gripper_states": 2}
ACTIONS, ACTION_DIM = "actions", 7


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """The file open for reading; a missing, truncated or foreign file is a DemoFileError."""
    if not path.is_file():
        raise DemoFileError(f"{path}: no such file. Next: compress reference demos, or give LIBERO's *_demo.hdf5 files")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise DemoFileError(
            f"{path} ({path.stat().st_size} bytes) is truncated or not HDF5: {error}. Next: copy or generate it again"
        ) from error
    try:
        yield file
    finally:
        file.close()


def demo_names(path: Path, file: h5py.File) -> list[str]:
    """`demo_0`, `demo_1`, ... in numeric order."""
    if "data" not in file:
        raise DemoFileError(f"{path}: found the groups {sorted(file)}, expected 'data' as in LIBERO's files")
    names = sorted((n for n in file["data"] if n.startswith("demo_")), key=lambda n: int(n.removeprefix("demo_")))
    if not names:
        raise DemoFileError(f"{path}: group 'data' holds no demo_0, demo_1, ...; found {sorted(file['data'])[:5]}")
    return names


def instruction_of(path: Path, file: h5py.File) -> str:
    """The sentence of the file's task."""
    raw = file["data"].attrs.get("problem_info")
    try:
        sentence = json.loads(raw)["language_instruction"]
    except (TypeError, ValueError, KeyError) as error:
        raise DemoFileError(
            f"{path}: data.attrs['problem_info'] is {raw!r}, expected JSON with 'language_instruction' ({error!r})"
        ) from error
    text = sentence if isinstance(sentence, str) else " ".join(sentence)
    if not text.strip():
        raise DemoFileError(f"{path}: language_instruction is empty")
    return text.strip()


def low_dimensional(path: Path, name: str, demo: h5py.Group) -> tuple[np.ndarray, np.ndarray]:
    """States, float32 (T, 8), and actions, float32 (T, 7), of one demonstration, checked."""
    wanted = {ACTIONS: ACTION_DIM, **STATE_PARTS}
    _require(path, name, demo, [*wanted, *CAMERAS.values()])
    steps = len(demo[ACTIONS])
    if steps == 0:
        raise DemoFileError(f"{path}: {name} has no steps")
    arrays = {}
    for field, width in wanted.items():
        if demo[field].shape != (steps, width):
            raise DemoFileError(f"{path}: {name}/{field} has shape {demo[field].shape}, expected ({steps}, {width})")
        arrays[field] = np.asarray(read(path, name, demo, field), dtype=np.float64)
        require_finite(f"{path}: {name}/{field}", arrays[field])
    for field in CAMERAS.values():
        _require_images(path, name, demo[field], field, steps)
    states = np.concatenate([arrays[field] for field in STATE_PARTS], axis=1)
    return states.astype(np.float32), arrays[ACTIONS].astype(np.float32)


def image_shape(path: Path, name: str, demo: h5py.Group) -> tuple[int, int, int]:
    """(H, W, 3), the same for both cameras."""
    shapes = {field: tuple(int(n) for n in demo[field].shape[1:]) for field in CAMERAS.values()}
    if len(set(shapes.values())) > 1:
        raise DemoFileError(f"{path}: {name} has images of different sizes: {shapes}")
    height, width, channels = next(iter(shapes.values()))
    return height, width, channels


def read(path: Path, name: str, demo: h5py.Group, field: str, rows: Any = ()) -> np.ndarray:
    """The field's values; a damaged chunk is a DemoFileError."""
    try:
        return np.asarray(demo[field][rows])
    except OSError as error:
        raise DemoFileError(f"{path}: {name}/{field} is damaged: {error}. Next: copy or generate it again") from error


def attributes(demo: h5py.Group) -> Mapping[str, Any]:
    """The demonstration's scalar attributes as plain Python values."""
    return {key: value.item() for key, value in demo.attrs.items() if isinstance(value, np.generic)}


def _require(path: Path, name: str, demo: h5py.Group, fields: list[str]) -> None:
    missing = [field for field in fields if field not in demo]
    if missing:
        available = sorted([*(k for k in demo if k != "obs"), *(f"obs/{k}" for k in demo.get("obs", ()))])
        raise DemoFileError(f"{path}: {name} lacks {', '.join(missing)}. Available: {', '.join(available)}")


def _require_images(path: Path, name: str, dataset: h5py.Dataset, field: str, steps: int) -> None:
    shape = dataset.shape
    if len(shape) != 4 or shape[0] != steps or shape[3] != 3 or dataset.dtype != np.uint8:
        raise DemoFileError(
            f"{path}: {name}/{field} is {dataset.dtype} {shape}, "
            f"expected uint8 ({steps}, H, W, 3): RGB, one image per action"
        )
