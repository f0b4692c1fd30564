# SPDX-License-Identifier: Apache-2.0
"""A full disk, said in one sentence: which path, how much is free, how much was needed."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
SCARCE = 65_536  # with less than this left, whatever failed failed for want of it


class DiskFullError(OSError):
    """There is no room for what has to be written."""

    def __str__(self) -> str:
        return str(self.strerror)


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
    """Turn a full disk met inside the block, whatever library met it, into a DiskFullError about `path`."""
    try:
        yield
    except DiskFullError:
        raise
    except Exception as error:
        met = next((link for link in _chain(error) if _says_full(link)), None)
        if met is None and free_bytes(path) >= SCARCE:
            raise
        where = Path(str(met.filename)) if isinstance(met, OSError) and met.filename else path
        raise DiskFullError(errno.ENOSPC, _message(where, free_bytes(path), needed)) from error


def human(count: float) -> str:
    """Bytes for people: 3.2 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _says_full(error: BaseException) -> bool:
    """torch, safetensors and HDF5 have error classes of their own and pass on the system's words."""
    if isinstance(error, OSError) and error.errno in FULL:
        return True
    return any(words in str(error).lower() for words in ("no space left on device", "disk quota exceeded"))


def _message(path: Path, free: int, needed: int) -> str:
    return (
        f"disk full while writing {path}: {human(free)} free, about {human(needed)} needed. "
        "Finished stages are kept: free some space and give the same command again"
    )
