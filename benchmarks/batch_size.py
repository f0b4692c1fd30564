# SPDX-License-Identifier: Apache-2.0
"""How many samples a batch may have on a device, from the peak memory of one and of two."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from device_peak import GIB

ENOUGH = 8  # samples; where fewer fit, activations are computed twice instead of kept
USABLE = 0.92  # of what is free
Peak = Callable[[int, bool], float]


def choose(peak: Peak, budget: float, most: int) -> dict[str, Any]:
    """Whether activations are computed twice, and how many samples a batch has: a power of two, at most `most`.

    Args:
        peak: (samples, checkpointing) -> bytes.
        budget: bytes that may be in use.
        most: samples.

    Raises:
        SystemExit: not even one sample fits.
    """
    tried: list[dict[str, Any]] = []
    for again in (False, True):
        one, two = peak(1, again), peak(2, again)
        each = two - one
        fits = most if each <= 0 else 1 if two == float("inf") else int((budget - (one - each)) // each)
        fits = min(fits, most) if one <= budget else 0
        size = 1 << (fits.bit_length() - 1) if fits > 0 else 0
        known = {"one": one, "two": two}
        tried.append({
            "checkpointing": again, "batch_size": size, "fits": fits,
            "peak_bytes": {name: value if np.isfinite(value) else None for name, value in known.items()},
        })  # fmt: skip
        if size >= min(ENOUGH, most):
            break
    best = max(tried, key=lambda item: item["batch_size"])
    if not best["batch_size"]:
        raise SystemExit(f"not even one sample fits into the {budget / GIB:.1f} GiB that are free: use a bigger device")
    return {"checkpointing": best["checkpointing"], "batch_size": best["batch_size"], "tried": tried}
