# SPDX-License-Identifier: Apache-2.0
"""Where two chunks speak about the same instant: which of them, or what between them, is meant.

    replace    the newest chunk alone (jumps at the seam are the filter's to slow or refuse)
    overlap    the next `frozen_s` are the old chunk's, as real-time chunking freezes what cannot be changed any more
               (arXiv 2506.07339); then the new one fades in over `fade_s`
    rtc        real-time chunking: the policy is told what the old chunk says (`runtime.control.guide`), so that its
               answer goes on from there; what little is left of the seam is blended as in overlap
    ensemble   all chunks that speak about it, weights exp(-decay * i), i = 0 the oldest (ACT, arXiv 2304.13705)

Times are absolute: a row of one chunk meets the row of another that is meant for the same instant, never the one with
the same index. Only a graph with such an input can be guided (`GraphSpec.guided`); with any other, rtc is overlap.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from runtime.contract.action import ActionSpec
from runtime.contract.chunk import ActionChunk
from runtime.contract.conventions import ActionKind, DimRole
from runtime.contract.guidance import Guidance
from runtime.control.guide import Guide
from runtime.errors import ContractError

KEPT = 8  # chunks that an ensemble may look back on
_EDGE = 1e-6  # share of a row


class Kind(str, Enum):
    """How chunks meet; see the module."""

    REPLACE = "replace"
    OVERLAP = "overlap"
    ENSEMBLE = "ensemble"
    RTC = "rtc"


@dataclass(frozen=True)
class Blend:
    """How chunks meet.

    Attributes:
        kind: see the module.
        frozen_s: what stays the old chunk's [s]: at least the motion that is committed already. Overlap and rtc.
        fade_s: time over which the new chunk takes over [s]. Overlap and rtc.
        decay: of the weights from the oldest to the newest; 0 is the plain mean. Ensemble only.
    """

    kind: Kind = Kind.REPLACE
    frozen_s: float = 0.1
    fade_s: float = 0.2
    decay: float = 0.01

    def __post_init__(self) -> None:
        if self.kind not in list(Kind):
            raise ContractError(f"blend: kind is {self.kind!r}, expected one of {[kind.value for kind in Kind]}")
        object.__setattr__(self, "kind", Kind(self.kind))
        for name in ("frozen_s", "fade_s", "decay"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0.0):
                raise ContractError(f"blend: {name} is {value}, expected a finite number of at least 0")

    def fitting(self, guided: bool) -> Blend:
        """What is possible with a graph that can or cannot be guided: rtc without guidance is overlap."""
        return replace(self, kind=Kind.OVERLAP) if self.kind is Kind.RTC and not guided else self


class Blender:
    """Remembers the chunks in use of one task. ContractError for actions that have no mean: absolute rotations."""

    def __init__(self, spec: ActionSpec, blend: Blend) -> None:
        turns = any(dim.role is DimRole.ROTATION for dim in spec.dims)
        if blend.kind is not Kind.REPLACE and spec.kind is ActionKind.ABSOLUTE and turns:
            raise ContractError(
                f"blend: {blend.kind.value} needs a mean of two actions, and absolute rotations have none here; "
                "use blend.kind: replace"
            )
        self._spec, self._blend, self._absolute = spec, blend, spec.kind is ActionKind.ABSOLUTE
        self._grip = [i for i, dim in enumerate(spec.dims) if dim.role is DimRole.GRIPPER]
        self._past: deque[ActionChunk] = deque(maxlen=KEPT)
        self._guide = Guide(spec, blend.frozen_s) if blend.kind is Kind.RTC else None

    def guidance(self, stamp_s: float, now_s: float, behind_s: float = 0.0) -> Guidance | None:
        """What a policy is told that is asked now about the observation of `stamp_s` [s]; None: nothing.

        Only for rtc, and not before there is a chunk to go on from. `behind_s` is as for `meet`.
        """
        if self._guide is None:
            return None
        self._guide.asked(now_s)
        if not self._past:
            return None
        old = self._shifted(self._past[-1], behind_s)
        return self._guide.along(stamp_s, now_s, lambda time_s: self._said(old, time_s))

    def meet(self, chunk: ActionChunk, now_s: float, behind_s: float = 0.0) -> ActionChunk:
        """The chunk to be used instead of `chunk`, with its stamp and names.

        Args:
            chunk: as the policy gave it.
            now_s: when it is put to use [s].
            behind_s: by how much the chunk in use has fallen behind its own times, because motion was slowed [s].
        """
        if self._guide is not None:
            self._guide.answered(now_s)
        past = [self._shifted(old, behind_s) for old in self._past]
        fits = chunk.names == self._spec.names and chunk.horizon == self._spec.horizon
        if self._blend.kind is Kind.REPLACE or not past or not fits:  # what does not fit is the filter's to refuse
            return chunk
        values = chunk.values.astype(np.float64)
        if self._blend.kind is not Kind.ENSEMBLE:
            values = self._overlap(values, chunk, past[-1], now_s)
        else:
            values = self._ensemble(values, chunk, past)
        return replace(chunk, values=values.astype(np.float32))

    def keep(self, chunk: ActionChunk, met: ActionChunk, slowed: float = 1.0, rows: int | None = None) -> None:
        """`met`, made of `chunk`, is in use: the next chunk meets it. What was refused has no voice.

        Args:
            chunk: as the policy gave it.
            met: of `meet`.
            slowed: by how much the filter stretched its time.
            rows: of them those that the filter let pass; None is all.
        """
        voice = chunk if self._blend.kind is Kind.ENSEMBLE else met
        self._past.append(replace(voice, dt_s=voice.dt_s * slowed, values=voice.values[:rows]))

    def clear(self) -> None:
        """What was said before a stop counts no more; how long answers take, does."""
        self._past.clear()

    @staticmethod
    def _shifted(old: ActionChunk, behind_s: float) -> ActionChunk:
        return replace(old, stamp_s=old.stamp_s + behind_s) if behind_s else old

    def _overlap(
        self, values: NDArray[np.float64], chunk: ActionChunk, old: ActionChunk, now_s: float
    ) -> NDArray[np.float64]:
        for row in range(chunk.horizon):
            begins = chunk.stamp_s + row * chunk.dt_s
            said = self._said(old, begins)
            if said is None:
                continue
            ahead = begins - now_s - self._blend.frozen_s
            weight = 0.0 if ahead < -_EDGE else min(1.0, (ahead + chunk.dt_s) / max(self._blend.fade_s, chunk.dt_s))
            new = values[row].copy()
            values[row] = (1.0 - weight) * said + weight * new
            values[row, self._grip] = said[self._grip] if weight < 0.5 else new[self._grip]
        return values

    def _ensemble(
        self, values: NDArray[np.float64], chunk: ActionChunk, past: list[ActionChunk]
    ) -> NDArray[np.float64]:
        for row in range(chunk.horizon):
            begins = chunk.stamp_s + row * chunk.dt_s
            voices = [said for old in past if (said := self._said(old, begins)) is not None]
            voices.append(values[row].copy())
            weights = np.exp(-self._blend.decay * np.arange(len(voices)))
            values[row] = np.average(voices, axis=0, weights=weights)
            values[row, self._grip] = voices[-1][self._grip]  # half open is no answer
        return values

    def _said(self, old: ActionChunk, time_s: float) -> NDArray[np.float64] | None:
        """What an older chunk means for a row that begins at `time_s`: places between rows, rates as they hold, less
        of a delta or a velocity where it was slowed."""
        at = (time_s - old.stamp_s) / old.dt_s
        below = math.floor(at + _EDGE)
        if not 0 <= below < old.horizon:
            return None
        rows = old.values.astype(np.float64)
        share = max(0.0, at - below)
        if not self._absolute:
            slower = np.full(rows.shape[1], self._spec.dt_s / old.dt_s)
            slower[self._grip] = 1.0
            return np.asarray(rows[below] * slower)
        if below + 1 >= old.horizon:
            return np.array(rows[below])
        between = (1.0 - share) * rows[below] + share * rows[below + 1]
        between[self._grip] = rows[below, self._grip]
        return np.asarray(between)
