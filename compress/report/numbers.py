# SPDX-License-Identifier: Apache-2.0
"""Numbers as people read them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

DASH = "\u2013"


def percent(fraction: float) -> str:
    """`0.95` -> `95 %`."""
    return f"{100 * fraction:.0f}\u00a0%"


def points(difference: float | None) -> str:
    """A difference of two rates in percentage points, signed."""
    return DASH if difference is None else f"{100 * difference:+.1f}".replace("-", "\u2212")


def small(value: float) -> str:
    """Three significant digits."""
    return f"{value:.3g}".replace("-", "\u2212")


def rate(data: Mapping[str, Any] | None) -> str:
    """`18/20, 90 % (70 to 97)`, or a dash."""
    if data is None or not data["trials"]:
        return DASH
    low, high = data["wilson95"]
    span = f"{100 * low:.0f} to {100 * high:.0f}"
    return f"{data['successes']}/{data['trials']}, {percent(data['rate'])} ({span})".replace(" to ", "\u00a0to\u00a0")


def e_value(log_e: float | None) -> str:
    """Wealth from its logarithm; None is certainty."""
    return "certain" if log_e is None else small(math.exp(min(log_e, 50.0)))


def ticks(low: float, high: float, count: int = 5) -> tuple[float, ...]:
    """Round numbers (1, 2, 2.5, 5 times a power of ten) that cover [low, high], about `count` of them."""
    span = high - low
    if not span > 0:
        low, high, span = low - 0.5, high + 0.5, 1.0
    power = 10.0 ** math.floor(math.log10(span / count))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10, 20) if power * factor * count >= span)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return tuple(round(step * i, 12) for i in range(first, last + 1))


def blocks(indices: tuple[int, ...] | list[int]) -> str:
    """`0, 1, 4`, or `none`."""
    return ", ".join(map(str, indices)) or "none"
