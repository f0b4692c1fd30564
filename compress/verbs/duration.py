# SPDX-License-Identifier: Apache-2.0
"""How long a key or a release counts, as people write it: `90d`, `12h`."""

from __future__ import annotations

import argparse
import re
from datetime import timedelta

_UNITS = {"d": timedelta(days=1), "h": timedelta(hours=1)}
LONGEST = timedelta(days=3650)


def duration(text: str) -> timedelta:
    """Days or hours, up to ten years; argparse.ArgumentTypeError."""
    found = re.fullmatch(r"([1-9][0-9]{0,5})([dh])", text)
    made = int(found[1]) * _UNITS[found[2]] if found is not None else None
    if made is None or made > LONGEST:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected such as 90d or 12h, at most {LONGEST.days}d")
    return made
