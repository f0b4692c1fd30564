# SPDX-License-Identifier: Apache-2.0
"""The formats of demonstrations as one visible list: how each is recognised and which reader opens it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from compress.data.faults import DemoFileError
from compress.data.reader import DemoReader


def _lerobot(root: Path, checked: bool) -> DemoReader:
    from compress.data.lerobot import LeRobotReader

    del checked
    return LeRobotReader(root)


def _rlds(root: Path, checked: bool) -> DemoReader:
    from compress.data.rlds import RldsReader

    return RldsReader(root, checked)


def _hdf5(root: Path, checked: bool) -> DemoReader:
    from compress.data.robomimic_hdf5 import RobomimicReader

    del checked
    return RobomimicReader(root)


READERS: dict[str, Callable[[Path, bool], DemoReader]] = {
    "libero_hdf5": _hdf5,
    "robomimic_hdf5": _hdf5,
    "lerobot": _lerobot,
    "rlds": _rlds,
}


def open_reader(format_name: str, root: Path, checked: bool = True) -> DemoReader:
    """The reader of a format.

    Args:
        format_name: as in the recipe.
        root: folder or file.
        checked: compare record checksums while reading (RLDS); needless right after the files' digests were taken.

    Raises:
        DemoFileError: nothing there, or metadata that cannot be used.
    """
    if not root.exists():
        raise DemoFileError(f"{root}: no such file or folder")
    return READERS[format_name](root, checked)


def detect(root: Path) -> str:
    """Which format lies at a path.

    Raises:
        DemoFileError: none that is known; says what was looked for.
    """
    if not root.exists():
        raise DemoFileError(f"{root}: no such file or folder")
    if (root / "meta/info.json").is_file():
        return "lerobot"
    names = ("features.json", "dataset_info.json")
    if root.is_dir() and any((root / name).is_file() or any(root.glob(f"*/{name}")) for name in names):
        return "rlds"
    if root.suffix in (".hdf5", ".h5") or any(root.rglob("*.hdf5")) or any(root.rglob("*.h5")):
        return "robomimic_hdf5"
    raise DemoFileError(
        f"{root} is no data set that is known. Looked for meta/info.json (LeRobot), features.json or "
        "*/features.json (RLDS), *.hdf5 (robomimic, LIBERO). Next: give the data set's own folder"
    )
