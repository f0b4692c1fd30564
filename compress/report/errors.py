# SPDX-License-Identifier: Apache-2.0
"""The one error of the report."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from compress.plan import PlanError
from compress.scores import ScoreError


class ReportError(ValueError):
    """There is nothing to report on, or an evidence file is damaged; the message names the file."""


@contextmanager
def reading(path: Path, stage: str) -> Iterator[None]:
    """What goes wrong inside is a damaged `path`, which `stage` writes again."""
    try:
        yield
    except ReportError:
        raise
    except KeyError as error:
        raise ReportError(f"{path}: has no {error}, so it is damaged; run: compress {stage}") from error
    except (TypeError, ValueError, AttributeError, IndexError, ScoreError, PlanError) as error:
        raise ReportError(f"{path}: is damaged ({error}); run: compress {stage}") from error
