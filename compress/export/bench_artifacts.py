# SPDX-License-Identifier: Apache-2.0
"""The runtime's own bench, with the work of older artifacts, which do not say it, counted from their graphs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from compress.export.errors import ExportError
from compress.export.work import count
from runtime.contract.artifact import read_artifact
from runtime.inference.bench import Bench, bench, counted, named
from runtime.inference.bench_table import table
from runtime.inference.roofline import Work

__all__ = ["Bench", "bench_artifacts", "table"]


def bench_artifacts(
    folders: Sequence[Path], rounds: int, backend: str, threads: int | None, provider: str | None
) -> Bench:
    """Time artifacts in turns; see `runtime.inference.bench.bench`."""
    artifacts = named(folders)
    work = {name: found for name, folder in artifacts.items() if (found := work_of(folder)) is not None}
    return bench(artifacts, rounds, backend=backend, threads=threads, provider=provider, work=work)


def work_of(folder: Path) -> Work | None:
    """What the artifact says, else what its graph has; None where that cannot be counted."""
    known = counted(folder)
    if known is not None:
        return known
    artifact = read_artifact(folder)
    try:
        return count(artifact.path(artifact.manifest.policy.graph.file))
    except ExportError:
        return None
