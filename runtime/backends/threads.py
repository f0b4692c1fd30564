# SPDX-License-Identifier: Apache-2.0
"""How many threads may an engine take? All cores of this process but one, which belongs to the controller."""

from __future__ import annotations

import os

from runtime.errors import BackendError


def cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def engine_threads(asked: int | None = None) -> int:
    """`asked`, or one less than there are cores; at least 1. BackendError for a number below 1."""
    if asked is not None and asked < 1:
        raise BackendError(
            f"engine threads: found {asked}, expected at least 1, or None for all cores but one (here "
            f"{max(1, cores() - 1)} of {cores()})"
        )
    return max(1, cores() - 1) if asked is None else asked
