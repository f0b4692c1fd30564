# SPDX-License-Identifier: Apache-2.0
"""RLDS data sets as TFDS writes them, without TensorFlow: one record per episode, the steps flattened.

A feature's steps are at `steps/<path>`: numbers one after another, pictures and texts one value per step. Opening
reads every record once, checks it, keeps the numbers, and notes where each picture lies in its file.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from compress.data import pictures
from compress.data.contents import Camera, Contents, Vector
from compress.data.faults import DemoFileError
from compress.data.mapping import FrameMap, joined
from compress.data.reader import ImageSource, Rows
from compress.data.tf_example import Feature, WireError, parse
from compress.data.tfds_features import STEPS, StepFeature, TfdsFolder, read_folder
from compress.data.tfrecord import mapped, records

_TEXTS = ("language_instruction", "observation/natural_language_instruction")
_RAW = ("bytes", "zlib")


class RldsReader:
    """One data set; implements `compress.data.reader.DemoReader`."""

    def __init__(self, root: Path, checked: bool = True) -> None:
        """Read the metadata.

        Args:
            root: `<name>/<version>`, or `<name>` with one version.
            checked: compare every record with its checksum; not needed where the files' digests were just taken.

        Raises:
            DemoFileError: missing or malformed metadata.
        """
        self.folder: TfdsFolder = read_folder(root)
        self._checked = checked

    def contents(self) -> Contents:
        """From `features.json` and `dataset_info.json`; how many frames there are only the records tell."""
        cameras, vectors, texts = {}, {}, []
        for key, feature in self.folder.features.items():
            if _is_picture(feature):
                cameras[key] = Camera(feature.shape[0], feature.shape[1], feature.kind)
            elif feature.kind == "text" and not feature.shape:
                texts.append(key)
            elif feature.kind == "tensor" and len(feature.shape) < 2 and None not in feature.shape:
                vectors[key] = Vector(_size(feature))
        split = self.folder.split
        return Contents(
            "rlds",
            self.folder.version,
            self.folder.root,
            sum(split.lengths),
            None,
            None,
            cameras,
            vectors,
            tuple(texts),
        )

    def open(self, wanted: FrameMap) -> tuple[tuple[Rows, ...], ImageSource]:
        """All episodes of the split, in the order of its files."""
        wanted.check(self.contents())
        rows: list[Rows] = []
        places: list[tuple[Path, dict[str, np.ndarray]]] = []
        split = self.folder.split
        for path, promised in zip(split.files, split.lengths, strict=True):
            before = len(rows)
            memory = mapped(path)
            for start, end in records(path, memory, self._checked):
                where = f"{path}: record {len(rows) - before} (episode {len(rows)})"
                name = f"{self.folder.name}/{split.name}_{len(rows):06d}"
                try:
                    found, pictured = self._episode(name, where, parse(memory, start, end), wanted)
                except WireError as error:
                    raise DemoFileError(f"{where} is no tf.train.Example: {error}. Next: copy it again") from error
                rows.append(found)
                places.append((path, pictured))
            if len(rows) - before != promised:
                raise DemoFileError(
                    f"{path} holds {len(rows) - before} records, dataset_info.json promises {promised}: truncated. "
                    "Next: copy it again"
                )
        if not rows:
            raise DemoFileError(f"{self.folder.root}: the split {split.name} has no episodes")
        return tuple(rows), _Pictures(self.folder.features, places)

    def _episode(
        self, name: str, where: str, values: Mapping[str, Feature], wanted: FrameMap
    ) -> tuple[Rows, dict[str, np.ndarray]]:
        features = self.folder.features

        def column(key: str) -> np.ndarray:
            return _numbers(where, key, features[key], _value(where, key, values))

        steps = len(column(wanted.action[0].key))
        if steps == 0:
            raise DemoFileError(f"{where} has no steps")
        states, actions = (joined(columns, steps, where, column) for columns in (wanted.state, wanted.action))
        pictured = {key: _value(where, key, values).places() for key in wanted.cameras.values()}
        for key, found in pictured.items():
            if len(found) != steps:
                raise DemoFileError(f"{where}: {len(found)} pictures in {key}, expected {steps}: one per step")
        return Rows(name, where, states, actions, self._sentences(where, values, steps, wanted)), pictured

    def _sentences(self, where: str, values: Mapping[str, Feature], steps: int, wanted: FrameMap) -> Sequence[str]:
        if wanted.instruction is not None:
            return [wanted.instruction] * steps
        key = wanted.instruction_key or next((key for key in _TEXTS if key in self.folder.features), None)
        if key is None:
            texts = ", ".join(self.contents().texts) or "none"
            raise DemoFileError(
                f"{self.folder.root}: no {' or '.join(_TEXTS)}; texts: {texts}. "
                "Next: write data.instruction_key, or data.instruction: one sentence for every episode"
            )
        feature = _value(where, key, values)
        found = [bytes(feature.memory[a:b]).decode("utf-8", "replace") for a, b in feature.places().tolist()]
        if len(found) != steps:
            raise DemoFileError(f"{where}: {len(found)} sentences in {key}, expected {steps}: one per step")
        return found


class _Pictures:
    """Pictures by their place in the file; implements `ImageSource`."""

    def __init__(self, features: Mapping[str, StepFeature], places: list[tuple[Path, dict[str, np.ndarray]]]) -> None:
        self._features, self._places = features, places

    def read(self, camera: str, episode: int, rows: Sequence[int]) -> list[np.ndarray]:
        """One look into the file for all rows."""
        path, pictured = self._places[episode]
        memory, found = mapped(path), []
        for row in rows:
            start, end = map(int, pictured[camera][row])
            where = f"{path}: episode {episode}, frame {row}, {camera}"
            found.append(_picture(bytes(memory[start:end]), self._features[camera], where))
        return found

    def close(self) -> None:
        """Nothing stays open."""


def _is_picture(feature: StepFeature) -> bool:
    """An encoded 8-bit picture, or the plain bytes of one."""
    if len(feature.shape) != 3 or feature.dtype != "uint8":
        return False
    raw = feature.kind == "tensor" and feature.encoding in _RAW and feature.shape[2] == 3 and None not in feature.shape
    return raw or (feature.kind == "image" and feature.shape[2] in (1, 3, 4, None))


def _picture(content: bytes, feature: StepFeature, where: str) -> np.ndarray:
    if feature.kind == "image":
        return pictures.decoded(content, where)
    shape = tuple(size or 0 for size in feature.shape)
    return _raw(content, feature, where).reshape(shape)


def _raw(content: bytes, feature: StepFeature, where: str) -> np.ndarray:
    """A tensor that was stored as its memory."""
    try:
        plain = zlib.decompress(content) if feature.encoding == "zlib" else content
    except zlib.error as error:
        raise DemoFileError(f"{where} cannot be unpacked: {error}. Next: copy the file again") from error
    wanted = np.dtype(feature.dtype).itemsize * _size(feature)
    if len(plain) != wanted:
        raise DemoFileError(f"{where} has {len(plain)} bytes, expected {wanted} for {feature.shape} {feature.dtype}")
    return np.frombuffer(plain, feature.dtype)


def _numbers(where: str, key: str, feature: StepFeature, value: Feature) -> np.ndarray:
    """(T, W) of one episode."""
    width = _size(feature)
    if feature.encoding in _RAW:
        parts = [_raw(bytes(value.memory[a:b]), feature, f"{where}: {key}") for a, b in value.places().tolist()]
        return np.stack(parts).reshape(-1, width) if parts else np.zeros((0, width))
    flat = value.numbers()
    if len(flat) % width:
        raise DemoFileError(
            f"{where}: {len(flat)} numbers in {key}, expected a multiple of {width} as features.json says"
        )
    return flat.reshape(-1, width)


def _size(feature: StepFeature) -> int:
    """Numbers in one step; 0 where that varies."""
    return int(np.prod([size or 0 for size in feature.shape], dtype=np.int64))


def _value(where: str, key: str, values: Mapping[str, Feature]) -> Feature:
    name = f"{STEPS}/{key}"
    if name not in values:
        raise DemoFileError(f"{where} lacks {name}. Available: {', '.join(sorted(values))}")
    return values[name]
