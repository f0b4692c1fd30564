# SPDX-License-Identifier: Apache-2.0
"""The folder of a TFDS data set: `features.json` says what a step is made of, `dataset_info.json` which files it has.

A feature is read by what it describes (tensor, image, text), never by the Python class that the file names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.data.faults import DemoFileError
from compress.data.lerobot_meta import read_json

FEATURES, DATASET_INFO = "features.json", "dataset_info.json"
STEPS = "steps"


@dataclass(frozen=True)
class StepFeature:
    """One feature of a step.

    Attributes:
        kind: `image`, `text` or `tensor`.
        shape: of one step; None where it varies.
        dtype: numpy's name.
        encoding: of a tensor: `none`, `bytes` or `zlib`.
    """

    kind: str
    shape: tuple[int | None, ...]
    dtype: str
    encoding: str = "none"


@dataclass(frozen=True)
class Split:
    """Files of one split in order, and how many records each must hold."""

    name: str
    files: tuple[Path, ...]
    lengths: tuple[int, ...]


@dataclass(frozen=True)
class TfdsFolder:
    """`<name>/<version>/`: features by path below `steps`, and the split that demonstrations are taken from."""

    root: Path
    name: str
    version: str
    features: Mapping[str, StepFeature]
    split: Split


def find_version(root: Path) -> Path:
    """The version folder: `root` itself, or the only one below it.

    Raises:
        DemoFileError: none, or several.
    """
    if (root / DATASET_INFO).is_file() or (root / FEATURES).is_file():
        return root
    found = sorted({path.parent for path in root.glob(f"*/{DATASET_INFO}")})
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise DemoFileError(f"{root}: {DATASET_INFO} in these folders: {names}. Next: give one <name>/<version> folder")
    return found[0]


def read_folder(root: Path) -> TfdsFolder:
    """Read and check the metadata.

    Raises:
        DemoFileError: a file is missing or malformed, there are no steps, or the files are of another format.
    """
    folder = find_version(root)
    if not (folder / FEATURES).is_file():
        raise DemoFileError(
            f"{folder / FEATURES}: no such file; without it the shapes are unknown. "
            "Next: copy it from where the data set was prepared (TFDS writes it beside dataset_info.json)"
        )
    data = read_json(folder / FEATURES)
    tree = _children(data).get(STEPS)
    if not isinstance(tree, dict) or "sequence" not in tree:
        raise DemoFileError(
            f"{folder / FEATURES}: no `{STEPS}` data set among {', '.join(_children(data)) or 'no features'}, "
            "expected RLDS: one record per episode"
        )
    try:
        features = dict(_flat(tree["sequence"]["feature"], ""))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DemoFileError(f"{folder / FEATURES} is malformed: {error!r}") from error
    info = read_json(folder / DATASET_INFO)
    kind = str(info.get("fileFormat", "tfrecord"))
    if kind != "tfrecord":
        raise DemoFileError(f"{folder / DATASET_INFO}: fileFormat is {kind}, expected tfrecord")
    name = str(info.get("name") or folder.resolve().parent.name)
    return TfdsFolder(folder, name, str(info.get("version", "")), features, _split(folder, name, info))


def _split(folder: Path, name: str, info: Mapping[str, Any]) -> Split:
    """`train`, or the only one there is."""
    path = folder / DATASET_INFO
    try:
        splits = {str(s["name"]): [int(n) for n in s["shardLengths"]] for s in info["splits"]}
    except (KeyError, TypeError, ValueError) as error:
        raise DemoFileError(f"{path}: the splits lack {error!r}, expected name and shardLengths of each") from error
    chosen = "train" if "train" in splits else next(iter(splits), "")
    if not chosen or (len(splits) > 1 and chosen != "train"):
        raise DemoFileError(f"{path}: the splits are {', '.join(splits) or 'none'}, expected one called train")
    lengths = splits[chosen]
    stem = f"{name}-{chosen}.tfrecord"
    files = [folder / f"{stem}-{number:05d}-of-{len(lengths):05d}" for number in range(len(lengths))]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise DemoFileError(
            f"{folder}: {missing[0]} ({len(missing)} such) is missing. Next: copy the data set completely"
        )
    return Split(chosen, tuple(files), tuple(lengths))


def _children(node: Any) -> Mapping[str, Any]:
    found = node.get("featuresDict", {}).get("features", {}) if isinstance(node, dict) else {}
    return found if isinstance(found, dict) else {}


def _flat(node: Mapping[str, Any], path: str) -> Iterator[tuple[str, StepFeature]]:
    """Leaves by path, `observation/image`; what is nested deeper than one sequence is left out."""
    for name, child in _children(node).items():
        yield from _flat(child, f"{path}/{name}" if path else name)
    if "image" in node:
        yield path, StepFeature("image", _shape(node["image"]), str(node["image"].get("dtype") or "uint8"))
    elif "tensor" in node:
        tensor = node["tensor"]
        kind = "text" if tensor["dtype"] == "string" else "tensor"
        yield path, StepFeature(kind, _shape(tensor), str(tensor["dtype"]), str(tensor.get("encoding") or "none"))
    elif "text" in node:
        yield path, StepFeature("text", (), "string")
    elif "classLabel" in node:
        yield path, StepFeature("tensor", (), "int64")


def _shape(node: Mapping[str, Any]) -> tuple[int | None, ...]:
    """Sizes are text in protobuf's JSON; -1 is a size that varies."""
    sizes = [int(size) for size in (node.get("shape") or {}).get("dimensions", [])]
    return tuple(None if size < 0 else size for size in sizes)
