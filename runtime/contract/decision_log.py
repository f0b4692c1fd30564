# SPDX-License-Identifier: Apache-2.0
"""Why the arm was, or was not, allowed to move: one JSON line per decision, appended and on the disk before it counts.

Lines are only added; whoever keeps the station rotates the file. Nothing here decides: who cannot log must not move.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from runtime.contract.admission import SCHEMA
from runtime.contract.utc_time import format_utc
from runtime.errors import TrustError

FILE = "admission.jsonl"
_OPEN = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


def log_decision(folder: Path, when: str, now: datetime, decision: Mapping[str, Any]) -> Path:
    """Append one line and sync it; returns the file.

    Args:
        folder: made if it is missing.
        when: what was asked for: configure, arm, goal, admit.
        now: aware wall-clock time.
        decision: from `Admission.to_json`, and what else explains it.

    Raises:
        TrustError: it cannot be written, or the file is no regular one.
    """
    path = folder / FILE
    line = json.dumps({"schema": SCHEMA, "at": format_utc(now), "when": when, **decision}, sort_keys=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, _OPEN, 0o640)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise OSError("no regular file")
            data = line.encode("utf-8") + b"\n"
            if status.st_size and os.pread(descriptor, 1, status.st_size - 1) != b"\n":
                data = b"\n" + data  # a power cut tore the last line: it must not take this one with it
            if os.write(descriptor, data) != len(data):
                raise OSError("written in part only; is the disk full?")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise TrustError(f"decision log {path}: {error}; name a folder that can be written: evidence_dir") from error
    return path
