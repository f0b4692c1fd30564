# SPDX-License-Identifier: Apache-2.0
"""One life of a policy worker as seen by its parent: how it is started, how it ended, what it wrote.

No protocol and no time here (see `worker_client`); nothing blocks but `reap`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from runtime.errors import BackendError

SEND_BUFFER = 4 * 1024 * 1024  # asked for; the kernel gives at most net.core.wmem_max
LAST_WORDS = 1500  # bytes
# the engine's threads are capped by --threads, everything else needs one
_ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}


@dataclass(frozen=True)
class WorkerOptions:
    """How to start a worker. Raises BackendError.

    `python`: executable of the environment that holds the engine (it must have this package); None = this one.
    `backend`, `threads`, `provider`: as for `Policy.load`; `threads` None leaves one core to the controller.
    `allow_held`: also load what the gate held back; only for shadow mode.
    `prove`: answer the golden samples before the first request, whatever was proven where the artifact was made.
    `start_timeout_s` [s]: verify, load and warm up. `request_timeout_s` [s]: after it the worker is killed.
    `log`: file that its output is appended to; None keeps only what explains a death.
    """

    python: str | None = None
    backend: str = "onnxruntime"
    threads: int | None = None
    provider: str | None = None
    allow_held: bool = False
    prove: bool = False
    start_timeout_s: float = 120.0
    request_timeout_s: float = 1.0
    log: Path | None = None

    def __post_init__(self) -> None:
        for name in ("start_timeout_s", "request_timeout_s"):
            value = getattr(self, name)
            if not 0.0 < value < float("inf"):
                raise BackendError(f"WorkerOptions.{name}: found {value}, expected a finite number of seconds above 0")
        if self.threads is not None and self.threads < 1:
            raise BackendError(f"WorkerOptions.threads: found {self.threads}, expected at least 1, or None")

    @property
    def for_motion(self) -> bool:
        """False where answers must not move a robot: a held artifact may be loaded, or there is no engine at all."""
        return not self.allow_held and self.backend.partition(":")[0] != "fake"

    def executable(self) -> str:
        """Absolute path of the interpreter, links kept (they are what makes a virtual environment)."""
        if self.python is None:
            return sys.executable
        found = shutil.which(self.python)
        if found is None:
            raise BackendError(
                f"worker python: found no executable {self.python!r}, expected a Python with dropgate[onnx] installed"
            )
        return os.path.abspath(found)

    def command(self, artifact: Path, fd: int) -> list[str]:
        """The command line, for an inherited socket `fd`."""
        command = [self.executable(), "-m", "runtime", "worker", str(artifact), "--fd", str(fd)]
        command += ["--backend", self.backend]
        command += [] if self.threads is None else ["--threads", str(self.threads)]
        command += [] if self.provider is None else ["--provider", self.provider]
        command += ["--prove"] if self.prove else []
        return [*command, "--allow-held"] if self.allow_held else command

    def environment(self) -> dict[str, str]:
        """Of this process; another interpreter does not get this one's module paths (ROS adds its own to them)."""
        kept = {**os.environ, **_ONE_THREAD, "PYTHONFAULTHANDLER": "1", "PYTHONSAFEPATH": "1"}
        kept.pop("PYTHONPATH", None)
        kept.pop("PYTHONHOME", None)
        if self.python is None:
            kept["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
        return kept


class WorkerProcess:
    """A started worker. `link` is this side's end of the socket, non-blocking."""

    def __init__(self, artifact: Path, options: WorkerOptions) -> None:
        """BackendError if there is no such interpreter, no place for the log, or nothing left to start it with."""
        with contextlib.ExitStack() as undo:
            try:
                self._log = undo.enter_context(_open_log(options.log))
                self._log_start = os.fstat(self._log.fileno()).st_size
                self.link, there = socket.socketpair()
                undo.enter_context(self.link)
                with there:
                    self._process = _start(artifact, options, there.fileno(), self._log)
            except OSError as error:
                raise BackendError(f"worker: it cannot be started: {error}") from error
            undo.pop_all()
        self.link.setblocking(False)
        self.link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def gone(self) -> bool:
        """True once the process has ended."""
        return self._process.poll() is not None

    def hang_up(self) -> None:
        """Drop the link: nothing of it can be heard afterwards. A worker leaves by itself when it notices."""
        self.link.close()

    def kill(self) -> None:
        """Drop the link and end the process. Does not wait for the end."""
        self.hang_up()
        self._process.kill()

    def reap(self, timeout_s: float) -> bool:
        """Wait at most `timeout_s` [s] for the end; True if it came. The only call here that blocks."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def how(self) -> str:
        """How it ended: exit code or signal."""
        code = self._process.poll()
        if code is None:
            return "it has not ended yet"
        if code >= 0:
            return f"exit {code}"
        known = {item.value: item.name for item in signal.Signals}
        return f"signal {-code} ({known.get(-code, 'unknown')})"

    def last_words(self) -> str:
        """The end of what it wrote, on one line."""
        size = os.fstat(self._log.fileno()).st_size
        start = max(self._log_start, size - LAST_WORDS)
        text = os.pread(self._log.fileno(), max(0, size - start), start).decode("utf-8", "replace")
        return " | ".join(line.strip() for line in text.splitlines() if line.strip()) or "nothing"

    def close_log(self) -> None:
        """Give the log file back; `last_words` is not available afterwards."""
        self._log.close()


def _start(artifact: Path, options: WorkerOptions, fd: int, log: BinaryIO) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        options.command(artifact, fd),
        pass_fds=(fd,),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        env=options.environment(),
        cwd="/",  # a folder called `runtime` where the controller was started must not be what runs
    )


def _open_log(path: Path | None) -> BinaryIO:
    """For appending by the child and reading (`pread`) by this side, whose offset the child shares."""
    if path is None:
        return tempfile.TemporaryFile("a+b", buffering=0)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return open(path, "a+b", buffering=0)
    except OSError as error:
        raise BackendError(f"worker log {path}: {error}; name a file that can be written") from error
