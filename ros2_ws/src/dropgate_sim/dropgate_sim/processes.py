# SPDX-License-Identifier: Apache-2.0
"""The nodes of a robot as child processes with one log each; if one dies, everybody hears why. None is left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

TERM_AFTER_S, KILL_AFTER_S = 5.0, 10.0
TAIL_BYTES = 1500
# run a module as `python -m` does, but be told to end when the process that started it ends (Linux: PR_SET_PDEATHSIG)
RUN_MODULE = """
import ctypes, os, runpy, signal, sys
ctypes.CDLL(None).prctl(1, int(signal.SIGTERM))
parent, sys.argv = int(sys.argv[1]), sys.argv[2:]
if os.getppid() != parent:
    sys.exit("the process that started this one has ended")
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


class ProcessDied(RuntimeError):
    """A node's process ended by itself; the message has the end of its log."""


@dataclass(frozen=True)
class Program:
    """A Python module to run and its arguments; `environment` is added to this process's own."""

    name: str
    module: str
    arguments: Sequence[str]
    environment: Mapping[str, str]


class Processes:
    """`with Processes(...) as robot:` starts all programs, and ends them all on leaving.

    Args:
        programs: started in order.
        logs: folder; each program writes `<name>.log`, added to what is there.
    """

    def __init__(self, programs: Sequence[Program], logs: Path) -> None:
        self._programs, self._logs = programs, logs
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Processes:
        self._logs.mkdir(parents=True, exist_ok=True)
        try:
            for program in self._programs:
                self._children[program.name] = self._start(program)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def check(self) -> None:
        """Raises ProcessDied if any of them has ended."""
        for name, child in self._children.items():
            code = child.poll()
            if code is not None:
                how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit {code}"
                raise ProcessDied(f"{name} ended ({how}). The end of {self._log(name)}:\n{self.tail(name)}")

    def tail(self, name: str) -> str:
        """The last lines of a log."""
        text = self._log(name).read_bytes()[-TAIL_BYTES:].decode(errors="replace").strip()
        return "\n".join(f"    {line}" for line in text.splitlines()) or "    (nothing)"

    def pid(self, name: str) -> int:
        """Process id."""
        return self._children[name].pid

    def close(self) -> None:
        """Interrupt, then terminate, then kill; more calls are harmless."""
        for how, patience_s in ((signal.SIGINT, TERM_AFTER_S), (signal.SIGTERM, KILL_AFTER_S), (signal.SIGKILL, 60.0)):
            living = [child for child in self._children.values() if child.poll() is None]
            for child in living:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, how)
            until = time.monotonic() + patience_s
            for child in living:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(timeout=max(0.0, until - time.monotonic()))
        self._children.clear()

    def _start(self, program: Program) -> subprocess.Popen[bytes]:
        with self._log(program.name).open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-c", RUN_MODULE, str(os.getpid()), program.module, *program.arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
                    "PYTHONUNBUFFERED": "1",
                    **program.environment,
                },
                start_new_session=True,  # a Ctrl-C here is not theirs, and their own children end with them
            )

    def _log(self, name: str) -> Path:
        return self._logs / f"{name}.log"
