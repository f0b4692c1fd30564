# SPDX-License-Identifier: Apache-2.0
"""sha256 of large inputs without reading them again every time: remembered for as long as a file is untouched.

The digest itself is that of `compress.digests.of_path`: names and contents, nothing else. What is remembered is keyed
by the file's absolute path, size, inode, and its times of modification and of change (a changed byte changes the
latter, and ordinary programs cannot set it back). A file that changed within the last two seconds is not remembered, so
that a second change within the clock's resolution cannot hide.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from compress import digests
from compress.atomic import write_json

LARGE = 8 << 20  # bytes; smaller files are read every time
SETTLED_S = 2.0


def cache_root() -> Path:
    """Where this machine keeps what can be made again: `DROPGATE_CACHE`, or `~/.cache/dropgate`."""
    given = os.environ.get("DROPGATE_CACHE", "")
    base = os.environ.get("XDG_CACHE_HOME", "") or "~/.cache"
    return Path(given or f"{base}/dropgate").expanduser()


def of_path(path: Path, memory: Path | None = None, large: int = LARGE) -> str:
    """`compress.digests.of_path`, with a memory.

    Args:
        path: a file or a folder.
        memory: a JSON file; by default one below `cache_root`. One that cannot be read or written is done without.
        large: files of at least so many bytes are remembered.

    Raises:
        FileNotFoundError: nothing is there.
    """
    memory = cache_root() / "digests.json" if memory is None else memory
    known = _remembered(memory)
    new: dict[str, str] = {}

    def of_file(file: Path) -> str:
        state = file.stat()
        if state.st_size < large:
            return digests.of_file(file)
        times = (state.st_mtime_ns, state.st_ctime_ns)
        key = json.dumps([str(file.resolve()), state.st_size, state.st_ino, *times])
        found = known.get(key) or digests.of_file(file)
        if key not in known and time.time() - max(times) / 1e9 > SETTLED_S:
            new[key] = found
        return found

    if path.is_file():
        result = of_file(path)
    elif path.is_dir():
        result = digests.of_value([[p.relative_to(path).as_posix(), of_file(p)] for p in digests.files_under(path)])
    else:
        raise FileNotFoundError(f"{path}: no such file or folder")
    if new:
        _remember(memory, new)
    return result


def _remembered(memory: Path) -> dict[str, str]:
    try:
        data = json.loads(memory.read_text())
        return {str(key): str(value) for key, value in data.items()}
    except (OSError, ValueError, AttributeError):
        return {}


def _remember(memory: Path, new: dict[str, str]) -> None:
    """Add to what is there now; entries whose file is gone or changed leave."""
    try:
        write_json(memory, {key: value for key, value in {**_remembered(memory), **new}.items() if _current(key)})
    except OSError:
        return


def _current(key: str) -> bool:
    try:
        path, size, inode, modified, changed = json.loads(key)
        state = os.stat(path)
    except (OSError, ValueError):
        return False
    return [state.st_size, state.st_ino, state.st_mtime_ns, state.st_ctime_ns] == [size, inode, modified, changed]
