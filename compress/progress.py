# SPDX-License-Identifier: Apache-2.0
"""What a long stage says while it works, on stderr: bars on a terminal, a line now and then elsewhere, or nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TextIO

LINE_EVERY_S = 10.0


class Bar(Protocol):
    """One long job."""

    def update(self, done: int, total: int, note: str = "") -> None:
        """`done` of `total` (0: unknown) are finished; `note` is shown beside (loss, running tally)."""
        ...


class Progress(Protocol):
    """Where stages report to."""

    def say(self, text: str) -> None:
        """One line."""
        ...

    def bar(self, label: str, total: int) -> Any:
        """A context manager that yields a `Bar` for a job of `total` steps (0: not known yet)."""
        ...


class _NoBar:
    def update(self, done: int, total: int, note: str = "") -> None:
        """Nothing."""


class Silent:
    """For libraries and tests."""

    def say(self, text: str) -> None:
        """Nothing."""

    @contextmanager
    def bar(self, label: str, total: int) -> Iterator[Bar]:
        """A bar that shows nothing."""
        yield _NoBar()


class Indented:
    """Another progress, its lines below the line of a stage."""

    def __init__(self, inner: Progress) -> None:
        self._inner = inner

    def say(self, text: str) -> None:
        """One line, indented."""
        self._inner.say(f"      {text}")

    def bar(self, label: str, total: int) -> Any:
        """The other's bar, which is indented already."""
        return self._inner.bar(label, total)


class _LineBar:
    def __init__(self, label: str, stream: TextIO) -> None:
        self._label, self._stream = label, stream
        self._said = time.monotonic()

    def update(self, done: int, total: int, note: str = "") -> None:
        """At most one line every LINE_EVERY_S seconds, and one at the end."""
        now = time.monotonic()
        if now - self._said >= LINE_EVERY_S or done == total:
            self._said = now
            of = f"/{total}" if total else ""
            print(f"      {self._label} {done}{of} {note}".rstrip(), file=self._stream, flush=True)


class Lines:
    """For logs and pipes."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr

    def say(self, text: str) -> None:
        """One line, flushed."""
        print(text, file=self._stream, flush=True)

    @contextmanager
    def bar(self, label: str, total: int) -> Iterator[Bar]:
        """Rare lines."""
        del total
        yield _LineBar(label, self._stream)


class _RichBar:
    def __init__(self, view: Any, task: Any) -> None:
        self._view, self._task = view, task

    def update(self, done: int, total: int, note: str = "") -> None:
        """Redraw."""
        self._view.update(self._task, completed=done, total=total or None, note=note)


class Terminal:
    """For people."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True, highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """One line."""
        self._console.print(text, markup=False)

    @contextmanager
    def bar(self, label: str, total: int) -> Iterator[Bar]:
        """A bar with count, time left and a note; gone when done."""
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as View

        columns = (
            TextColumn("      {task.description}"), BarColumn(bar_width=28), MofNCompleteColumn(),
            TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}", markup=False),
        )  # fmt: skip
        with View(*columns, console=self._console, transient=True) as view:
            yield _RichBar(view, view.add_task(label, total=total or None, note=""))


def choose(quiet: bool = False) -> Progress:
    """Bars if stderr is a terminal, lines otherwise."""
    if quiet:
        return Silent()
    return Terminal() if sys.stderr.isatty() else Lines()
