# SPDX-License-Identifier: Apache-2.0
"""The only importer of `tensorrt` (a station with a GPU) and `tensorrt_rtx` (the same parser and builder, no GPU).

Both have one Python API, so that one path through `tensorrt_build` serves the robot and the check at export. Which
of the two is a name, chosen once: `TENSORRT` on a station, `TENSORRT_RTX` where convertibility alone is asked.
"""

from __future__ import annotations

import importlib
import warnings
from typing import Any

from runtime.backends.tensorrt_targets import install_command
from runtime.errors import BackendError

TENSORRT, TENSORRT_RTX = "tensorrt", "tensorrt_rtx"
INSTALL_RTX = "pip install tensorrt-rtx (Linux x86_64; part of the dev extra)"
KEPT_MESSAGES = 200


def library(name: str = TENSORRT) -> Any:
    """The module; BackendError names what to install when it, or one of its libraries, is missing."""
    if name not in (TENSORRT, TENSORRT_RTX):
        raise BackendError(f"TensorRT library: found {name!r}, available: {[TENSORRT, TENSORRT_RTX]}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # both warn of their own deprecated names when imported
            return importlib.import_module(name)
    except (ImportError, OSError, RuntimeError) as error:  # a binding without its shared library raises any of these
        fix = install_command() if name == TENSORRT else INSTALL_RTX
        raise BackendError(f"{name} is not importable ({error}); run: {fix}") from error


def version_of(trt: Any) -> str:
    """The full version, `10.16.1.11`."""
    return str(trt.__version__)


def logger(trt: Any) -> Any:
    """A logger that keeps its warnings and errors, newest last, in `messages`; nothing is printed."""

    class Messages(trt.ILogger):  # type: ignore[misc]
        """Handed to the library, which calls `log` from its own threads."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.messages: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            """Keep what a person may have to read."""
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR, trt.ILogger.WARNING):
                self.messages.append(f"{severity.name.lower()}: {message.strip()}")
                del self.messages[:-KEPT_MESSAGES]

    return Messages()


def create(kind: Any, *arguments: Any) -> Any:
    """An object of the library; without memory or a device its constructors raise what no user can read."""
    try:
        return kind(*arguments)
    except (TypeError, RuntimeError) as error:  # "factory function returned nullptr"
        log = next((each for each in arguments if hasattr(each, "messages")), None)
        told = last_errors(log) if log is not None else "no message"
        raise BackendError(f"TensorRT cannot make a {kind.__name__} ({error}): {told}; check nvidia-smi") from error


def last_errors(log: Any, count: int = 3) -> str:
    """The newest errors of a logger in one line, or its warnings, or `no message`."""
    errors = [text for text in log.messages if not text.startswith("warning")] or list(log.messages)
    return " | ".join(errors[-count:]) or "no message"
