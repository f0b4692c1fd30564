# SPDX-License-Identifier: Apache-2.0
"""Contenders in processes of their own that take turns: A B A B, the order reversed from round to round.

Two engines in one process disturb each other's thread pools, and a slow moment of a shared machine must slow all sides.
Only one contender computes at a time. Both sides speak JSON lines: the child says one when it is ready, then answers
each question with one (`serve`).
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from runtime.errors import BackendError

Answer = dict[str, Any]
TIMEOUT_S = 900.0  # for one line: torch.compile of a big network takes minutes, a deadlock takes for ever
STARTED_AT = "DROPGATE_STARTED_AT"  # monotonic [s]: when the parent started the child
LAST_WORDS = 400


class Contender:
    """A child process that answers questions; `ready` is what it said first."""

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:  # fmt: skip
        """Start it with this process's module paths.

        Args:
            name: for messages.
            command: arguments of the Python interpreter.
            environment: added to this process's own.
            timeout_s: [s] how long any one line of it may take.
        """
        kept = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
        self.name, self.timeout_s, self._heard = name, timeout_s, b""
        self._errors = tempfile.TemporaryFile("w+b")  # noqa: SIM115  `close` closes it
        self._process = subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**kept, **(environment or {}), STARTED_AT: str(time.monotonic())},
        )
        self.ready: Answer = {}

    def wait_ready(self) -> Answer:
        """What it says once it is ready, however often asked; BackendError with its last words if it dies or hangs."""
        if not self.ready:
            self.ready = self._read()
        return self.ready

    def ask(self, question: Mapping[str, Any]) -> Answer:
        """Its answer; BackendError with its last words if it died, or is ended because it takes too long."""
        assert self._process.stdin is not None  # opened as a pipe
        try:
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise self._dead() from error
        return self._read()

    def _read(self) -> Answer:
        """The next line, read past the stream's own buffer so that waiting for it can end."""
        assert self._process.stdout is not None  # opened as a pipe
        pipe, until = self._process.stdout.fileno(), time.monotonic() + self.timeout_s
        while b"\n" not in self._heard:
            if not select.select([pipe], [], [], max(0.0, until - time.monotonic()))[0]:
                raise self._hangs()
            block = os.read(pipe, 1 << 16)
            if not block:
                raise self._dead()
            self._heard += block
        line, _, self._heard = self._heard.partition(b"\n")
        answer: Answer = json.loads(line)
        return answer

    def _dead(self) -> BackendError:
        code = self._process.wait()
        return BackendError(f"{self.name}: its process ended with code {code}: {self._last_words()}")

    def _hangs(self) -> BackendError:
        """Ended, because a late answer would be taken for that to the next question."""
        self._process.kill()
        self._process.wait()
        return BackendError(
            f"{self.name}: found no answer within {self.timeout_s:g} s, so its process was ended; its last words: "
            f"{self._last_words()}. Run it alone: python -m runtime bench ARTIFACT --runs 1"
        )

    def _last_words(self) -> str:
        size = os.fstat(self._errors.fileno()).st_size
        text = os.pread(self._errors.fileno(), LAST_WORDS, max(0, size - LAST_WORDS)).decode("utf-8", "replace")
        words = [line.strip() for line in text.splitlines() if line.strip()]
        return words[-1] if words else "no message"

    def close(self) -> None:
        """End it; more calls are harmless."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                with suppress(BrokenPipeError):  # a question that nobody read
                    stream.close()


def take_turns(
    contenders: Mapping[str, Contender], rounds: int, warm_up: int = 0
) -> tuple[dict[str, list[Answer]], dict[str, list[Answer]]]:
    """Answers of `warm_up` first calls of each, and of `rounds` calls in turns; the question is `{"call": number}`.

    Raises:
        BackendError: one of them died or hangs.
    """
    first: dict[str, list[Answer]] = {name: [] for name in contenders}
    timed: dict[str, list[Answer]] = {name: [] for name in contenders}
    for name, contender in contenders.items():
        contender.wait_ready()
        first[name] += [contender.ask({"call": index}) for index in range(warm_up)]
    for index in range(rounds):
        for name in contenders if index % 2 == 0 else reversed(list(contenders)):
            timed[name].append(contenders[name].ask({"call": index}))
    return first, timed


def serve(start: Callable[[], tuple[Answer, Callable[[Answer], Answer]]]) -> None:
    """The child's side: `start` gives the first line and what answers questions, until stdin closes.

    Whatever libraries print goes to stderr.
    """
    line = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    ready, answer = start()
    line.write(json.dumps(ready) + "\n")
    for question in sys.stdin:
        line.write(json.dumps(answer(json.loads(question))) + "\n")


def since_started() -> float:
    """Seconds since the parent started this process."""
    return time.monotonic() - float(os.environ[STARTED_AT])
