# SPDX-License-Identifier: Apache-2.0
"""A full disk, said in one sentence: which path, how much is free, how much was needed."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class DiskFullError(OSError):
    """There is no room for what has to be written."""


def free_bytes(path: Path) -> int:
    """Bytes free on the file system of `path` or of its nearest existing parent."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free


def require_space(path: Path, needed: int) -> None:
    """Refuse to start what cannot be finished.

    Raises:
        DiskFullError: fewer than `needed` bytes are free.
    """
    free = free_bytes(path)
    if free < needed:
        raise DiskFullError(errno.ENOSPC, _message(path, free, needed))


@contextmanager
def naming_full_disk(path: Path, needed: int) -> Iterator[None]:
    """Turn ENOSPC from inside the block into a DiskFullError about `path`."""
    try:
        yield
    except DiskFullError:
        raise
    except OSError as error:
        if error.errno not in FULL:
            raise
        where = Path(str(error.filename)) if error.filename else path
        raise DiskFullError(errno.ENOSPC, _message(where, free_bytes(path), needed)) from error


def human(count: float) -> str:
    """Bytes for people: 3.2 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _message(path: Path, free: int, needed: int) -> str:
    return (
        f"disk full while writing {path}: {human(free)} free, about {human(needed)} needed. "
        "Finished stages are kept: free some space and give the same command again"
    )
