# SPDX-License-Identifier: Apache-2.0
"""Files appear whole or not at all: temporary name, fsync, rename."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


def write_atomic(path: Path, write: Callable[[BinaryIO], Any], mode: int | None = None) -> None:
    """Call `write` on a temporary neighbour of `path`, then rename it into place.

    `mode` are its permissions; None takes what an ordinary new file would get.

    Raises:
        OSError: nothing was changed at `path` (disk full, no permission).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            os.fchmod(stream.fileno(), 0o666 & ~_umask() if mode is None else mode)
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_json(path: Path, data: Any) -> None:
    """Write sorted, indented JSON atomically; NaN and infinity are refused."""
    text = json.dumps(data, indent=2, sort_keys=True, allow_nan=False) + "\n"
    write_atomic(path, lambda stream: stream.write(text.encode()))


@contextmanager
def folder_atomic(path: Path) -> Iterator[Path]:
    """A temporary folder that becomes `path` when the block ends without an error; an older `path` is replaced.

    Raises:
        OSError: the older `path`, if any, is still in place.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    work.chmod(0o777 & ~_umask())
    try:
        yield work
        old = work.with_suffix(".old")
        if path.exists():
            os.rename(path, old)
        os.rename(work, path)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _umask() -> int:
    """Temporary names are private; what replaces them gets the permissions that an ordinary file would have had."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
