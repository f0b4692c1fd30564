# SPDX-License-Identifier: Apache-2.0
"""Files that only this user (or root) can have written, read from one descriptor, written whole or not at all.

A serialised engine is a program: whoever can write the cache can run code as the robot. A folder or file that another
user owns, that others may write, or that is a link, is refused before a byte of it is used, as ssh does with its keys.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.contract.regular_file import FILE_FLAGS, read_open
from runtime.errors import BackendError

STAGING = ".staging-"
FOLDER_MODE, FILE_MODE, OTHERS_WRITE = 0o755, 0o644, 0o022  # a root-owned cache serves the robot's user


def private_folder(path: Path) -> Path:
    """Make the folder if it is missing; BackendError if it is not ours alone to write."""
    if not os.path.lexists(path):
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(FOLDER_MODE)
    check_private(path, os.lstat(path), folder=True)
    return path


def check_private(path: Path, found: os.stat_result, *, folder: bool) -> None:
    """BackendError unless `found` is a folder (or a file) of this user or root that nobody else may write."""
    right_kind = stat.S_ISDIR(found.st_mode) if folder else stat.S_ISREG(found.st_mode)
    if not right_kind:
        raise BackendError(f"{path}: found a link or another kind, expected a {'folder' if folder else 'regular file'}")
    if found.st_uid not in (os.geteuid(), 0):
        raise BackendError(
            f"{path}: belongs to user {found.st_uid}, expected {os.geteuid()} or root: an engine is a program, "
            "and this one may be somebody else's; remove it and build again"
        )
    if found.st_mode & OTHERS_WRITE:
        raise BackendError(
            f"{path}: mode {stat.filemode(found.st_mode)} lets others write, expected none; run: chmod -R go-w {path}"
        )


def read_private(path: Path, limit: int) -> bytes:
    """The whole file through one descriptor, so that what was checked is what is read; BackendError, OSError."""
    try:
        descriptor = os.open(path, FILE_FLAGS)
    except OSError as error:
        raise BackendError(f"{path}: cannot be opened as a regular file ({error.strerror})") from error
    with open(descriptor, "rb") as stream:
        check_private(path, os.fstat(descriptor), folder=False)
        try:
            return read_open(stream, path, limit)
        except OSError as error:
            raise BackendError(str(error)) from error


def write_synced(path: Path, *parts: bytes | memoryview) -> None:
    """A new private file, on the disk when this returns."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
    with os.fdopen(descriptor, "wb") as stream:
        for part in parts:
            stream.write(part)
        stream.flush()
        os.fsync(stream.fileno())


def sync_folder(path: Path) -> None:
    """Names that were made, renamed or removed in `path` are on the disk when this returns."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, *parts: bytes) -> None:
    """A private file that appears whole in place of an older one."""
    staging = Path(tempfile.mkdtemp(prefix=STAGING, dir=path.parent))
    try:
        write_synced(staging / path.name, *parts)
        os.replace(staging / path.name, path)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    sync_folder(path.parent)


@contextmanager
def staged_folder(parent: Path) -> Iterator[Path]:
    """A private folder in `parent` that is gone when the block ends, unless it was renamed."""
    staging = Path(tempfile.mkdtemp(prefix=STAGING, dir=parent))
    try:
        staging.chmod(FOLDER_MODE)
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def replace_folder(staging: Path, target: Path) -> None:
    """`staging` becomes `target`; at no instant is there a mixture, for one instant there may be nothing."""
    sync_folder(staging)
    if os.path.lexists(target):
        with staged_folder(target.parent) as retired:
            os.rename(target, retired / "old")
            try:
                os.rename(staging, target)
            except OSError:
                os.rename(retired / "old", target)
                raise
    else:
        os.rename(staging, target)
    sync_folder(target.parent)


@contextmanager
def exclusive(path: Path, waiting: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock file `path`; the system drops it with the process, even after SIGKILL.

    `waiting` is told once who holds it; then this waits as long as it takes.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting(os.pread(descriptor, 32, 0).decode("ascii", "replace") or "another process")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()}".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def sweep(folder: Path) -> None:
    """Remove what a killed process left half-written. Only while the lock is held."""
    for left in folder.glob(f"{STAGING}*"):
        shutil.rmtree(left, ignore_errors=True)
