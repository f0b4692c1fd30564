# SPDX-License-Identifier: Apache-2.0
"""Named margins: how much success rate may be lost, as one word of a recipe or a command."""

from __future__ import annotations

import math

MARGINS = {"release": 0.03, "strict": 0.02}
RELEASE_PAIRS = 800  # budget that goes with them


def margin_of(value: float | str) -> float:
    """A rate from a number, its text, or one of MARGINS. Raises ValueError."""
    if isinstance(value, str) and value in MARGINS:
        return MARGINS[value]
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        names = ", ".join(f"{name} ({rate:g})" for name, rate in MARGINS.items())
        raise ValueError(f"`margin` is {value!r}, expected a number such as 0.05, or one of: {names}")
    return number
