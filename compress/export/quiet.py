# SPDX-License-Identifier: Apache-2.0
"""Silence for the exporter: torch.onnx reports progress, missing extras and graph dumps that no user can act on.

What can be acted on is raised as an `ExportError`; nothing that decides success is read from a log.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

NOISY = ("torch.onnx", "torch.export", "torch.fx", "torch._export", "torch._dynamo", "onnxscript", "onnx_ir")


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings, prints or log lines below CRITICAL from the export stack; everything is restored afterwards."""
    loggers = [logging.getLogger(name) for name in _present()]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        sink = io.StringIO()  # torch.fx prints graphs when it cannot trace one
        with warnings.catch_warnings(), redirect_stderr(sink), redirect_stdout(sink):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _present() -> list[str]:
    """The noisy roots and every logger below them that has its own level (torch sets some)."""
    known = [name for name in logging.root.manager.loggerDict if name.startswith(tuple(f"{root}." for root in NOISY))]
    return [*NOISY, *known]
