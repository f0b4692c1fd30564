# SPDX-License-Identifier: Apache-2.0
"""Open a file of an artifact so that it can only be the plain file that it seems to be.

Each folder on the way is opened by descriptor and without following links, so that a folder exchanged after the listing
leads nowhere else; a pipe is never waited for; what is checked and what is read is one open file.
"""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_BLOCK = 1 << 20
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True)
class FileIdentity:
    """Which file it is and when it last changed: any write, rename or link of it changes this.

    `ctime_ns` [ns] is the kernel's and cannot be set back; its step is that of the kernel's clock (1 to 10 ms).
    """

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int


@dataclass(frozen=True)
class FileFacts:
    """A file that was opened: identity, and what makes it unfit. `sha256` is None where it was not asked for."""

    identity: FileIdentity
    regular: bool
    links: int
    sparse: bool
    sha256: str | None


def examine(root: Path, path: str, *, digest_size: int | None = None) -> FileFacts:
    """Facts of the POSIX path `path` below `root`; OSError if a link or nothing is there.

    A regular file of exactly `digest_size` [bytes] is read once for its SHA-256; one that grows meanwhile is read no
    further than one byte.
    """
    descriptor = open_beneath(root, path)
    try:
        status = os.fstat(descriptor)
        regular = stat.S_ISREG(status.st_mode)
        digest = None
        if regular and digest_size is not None and status.st_size == digest_size:
            digest = _digest(descriptor, digest_size)
        return FileFacts(_identity(status), regular, status.st_nlink, regular and _sparse(descriptor, status), digest)
    finally:
        os.close(descriptor)


def identity(root: Path, path: str) -> FileIdentity:
    """Which file lies there now; OSError as `examine`."""
    return examine(root, path).identity


def read_bounded(root: Path, path: str, limit: int) -> bytes:
    """Content of a regular file of at most `limit` bytes; OSError if it is larger, irregular, a link or not there."""
    with open(open_beneath(root, path), "rb") as stream:
        return read_open(stream, root / path, limit)


def read_open(stream: BinaryIO, path: Path, limit: int) -> bytes:
    """Content of an open file, as `read_bounded`; `path` is for the message."""
    status = os.fstat(stream.fileno())
    if not stat.S_ISREG(status.st_mode) or status.st_size > limit:
        raise OSError(f"{path}: found {status.st_size} bytes, expected a regular file of at most {limit}")
    data = stream.read(status.st_size + 1)
    if len(data) > status.st_size:
        raise OSError(f"{path}: grew beyond {status.st_size} bytes while it was read")
    return data


def open_beneath(root: Path, path: str) -> int:
    """A descriptor of `path` below `root`, following no link below `root`."""
    *folders, name = path.split("/")
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for folder in folders:
            inner = os.open(folder, _FOLDER, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        return os.open(name, FILE_FLAGS, dir_fd=descriptor)
    finally:
        os.close(descriptor)


def _identity(status: os.stat_result) -> FileIdentity:
    return FileIdentity(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _sparse(descriptor: int, status: os.stat_result) -> bool:
    """True where fewer blocks are on disk than the size needs and a hole is there: compression alone makes no hole."""
    if status.st_blocks * 512 >= status.st_size or not hasattr(os, "SEEK_HOLE"):
        return False
    try:
        return os.lseek(descriptor, 0, os.SEEK_HOLE) < status.st_size
    except OSError:  # a file system that cannot say
        return False


def _digest(descriptor: int, size: int) -> str | None:
    """SHA-256 of the first `size` bytes, None if the file ends before or goes on after them."""
    state, at = hashlib.sha256(), 0
    while at < size and (block := os.pread(descriptor, min(_BLOCK, size - at), at)):
        state.update(block)
        at += len(block)
    return state.hexdigest() if at == size and not os.pread(descriptor, 1, at) else None
