# SPDX-License-Identifier: Apache-2.0
"""A file that says what a station demands, read only if nobody but root or this user can have written it.

What the file says decides whether an arm moves; so it is treated as ssh treats its keys. What was checked is what is
read: one descriptor, no link followed.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from runtime.errors import TrustError

_OTHERS_WRITE = 0o022


def read_station_file(path: Path, limit: int) -> bytes:
    """The whole file; TrustError if it is a link, missing, too large, another user's, or writable by others."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise TrustError(f"{path}: cannot be opened as a regular file, not a link ({error.strerror})") from error
    with os.fdopen(descriptor, "rb") as stream:
        found = os.fstat(stream.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_size > limit:
            raise TrustError(f"{path}: found {found.st_size} bytes, expected a regular file of at most {limit}")
        if found.st_uid not in (os.geteuid(), 0):
            raise TrustError(f"{path}: belongs to user {found.st_uid}, expected root or {os.geteuid()}")
        if found.st_mode & _OTHERS_WRITE:
            raise TrustError(
                f"{path}: mode {stat.filemode(found.st_mode)} lets others write, expected none; run: chmod go-w {path}"
            )
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise TrustError(f"{path}: grew beyond {limit} bytes while it was read")
    return data
