# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a demonstration file, in one sentence: where, what was found, what to do."""

from __future__ import annotations

import numpy as np


class DemoFileError(ValueError):
    """A demonstration file that cannot be used; the message says where and why."""


def require_finite(where: str, values: np.ndarray) -> None:
    """Refuse NaN and infinity.

    Args:
        where: file, episode and field, such as `a.hdf5: demo_1/actions`.
        values: float (T, D).

    Raises:
        DemoFileError: names the first such value by its index.
    """
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        index = ", ".join(map(str, bad[0]))
        raise DemoFileError(
            f"{where}[{index}] is {values[tuple(bad[0])]} ({len(bad)} such values), "
            "expected finite numbers. Next: remove or re-record this demonstration"
        )
