# SPDX-License-Identifier: Apache-2.0
"""`ActionChunk`: what a policy answers, tied to the instant of the observation it was computed from.

Row i is meant for [stamp_s + i * dt_s, stamp_s + (i + 1) * dt_s). Schedulers splice by this time, never by index.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.contract.action import ActionSpec
from runtime.errors import PolicyOutputError


@dataclass(frozen=True, eq=False)
class ActionChunk:
    """Commands, shape (H, D), float32, read-only; `stamp_s` [s] of the observation, `dt_s` [s] between rows.

    Values are commands (see `ActionSpec.to_physical`), not clamped. Raises PolicyOutputError: finite check first.
    """

    values: NDArray[np.float32]
    stamp_s: float
    dt_s: float
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite and is refused below
            values = np.array(self.values, dtype=np.float32)
        bad = np.argwhere(~np.isfinite(values))
        if bad.size:
            raise PolicyOutputError(
                f"ActionChunk.values: found {values[tuple(bad[0])]} at {bad[0].tolist()}, expected finite numbers"
            )
        if not math.isfinite(self.stamp_s) or not (math.isfinite(self.dt_s) and self.dt_s > 0.0):
            raise PolicyOutputError(
                f"ActionChunk: found stamp_s {self.stamp_s}, dt_s {self.dt_s}, expected finite, dt_s > 0"
            )
        if values.ndim != 2 or values.shape[0] == 0 or values.shape[1] != len(self.names):
            raise PolicyOutputError(
                f"ActionChunk.values: found shape {values.shape}, expected (H >= 1, {len(self.names)})"
            )
        values.setflags(write=False)
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "names", tuple(self.names))

    @classmethod
    def of(cls, values: NDArray[Any], spec: ActionSpec, stamp_s: float) -> ActionChunk:
        """A chunk of exactly the spec's horizon, names and `dt_s`; PolicyOutputError otherwise."""
        chunk = cls(values, stamp_s, spec.dt_s, spec.names)
        if chunk.horizon != spec.horizon:
            raise PolicyOutputError(f"ActionChunk.values: found {chunk.horizon} rows, expected {spec.horizon}")
        return chunk

    @property
    def horizon(self) -> int:
        """Number of rows H."""
        return int(self.values.shape[0])

    @property
    def end_s(self) -> float:
        """First instant [s] that the chunk no longer covers."""
        return self.stamp_s + self.horizon * self.dt_s

    def index_at(self, time_s: float) -> int | None:
        """Row whose interval holds `time_s` [s] (same clock as `stamp_s`); None before the stamp or from `end_s` on."""
        if not math.isfinite(time_s):
            return None
        steps = (time_s - self.stamp_s) / self.dt_s
        index = math.floor(steps + 1e-6)
        return index if 0 <= index < self.horizon else None

    def value_at(self, time_s: float) -> NDArray[np.float32] | None:
        """The command (D,) for `time_s` [s], or None where the chunk says nothing: missing is not zero."""
        index = self.index_at(time_s)
        return None if index is None else self.values[index]
