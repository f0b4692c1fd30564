# SPDX-License-Identifier: Apache-2.0
"""One run per folder: an advisory lock that the system drops with the process, even after SIGKILL.

Chosen: flock on a file that names its holder. Rejected: a file whose existence is the lock, because a killed run would
leave it behind and somebody would have to guess whether it is stale.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK = "run.lock"
OTHERWISE = "wait for it to end, or choose another folder with --output"


class RunLockedError(RuntimeError):
    """Another process works in this run folder."""


@contextmanager
def locked(folder: Path, advice: str = OTHERWISE) -> Iterator[None]:
    """Hold `folder` for this process; `advice` is what to do if another one has it.

    Raises:
        RunLockedError: another process holds it; the message names it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunLockedError(f"{folder} is in use by {_holder(path)}: {advice}") from error
        note = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(note).encode(), 0)
        yield
    finally:
        os.close(handle)


def _holder(path: Path) -> str:
    try:
        note = json.loads(path.read_text())
        return f"process {note['pid']} on {note['host']} since {note['since']}"
    except (OSError, ValueError, KeyError):
        return "another process"
