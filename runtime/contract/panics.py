# SPDX-License-Identifier: Apache-2.0
"""A Rust library that gives up raises `PanicException`, which is no `Exception` and would pass every handler."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class LibraryPanic(Exception):
    """A library stopped at a defect of its own; the text is the library's."""


@contextmanager
def panics_as_errors() -> Iterator[None]:
    """Inside, a Rust panic is raised as LibraryPanic; everything else passes unchanged."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise LibraryPanic(f"the library panicked: {error}") from error
