# SPDX-License-Identifier: Apache-2.0
"""What a policy is told of the chunk in use, and how much of that is certain by the time its answer can be used.

Real-time chunking (arXiv 2506.07339, algorithm 1): rows that will be over when the answer comes are frozen, then the
old chunk counts less and less, and where it says nothing the answer is free. When the answer comes is the worst of the
last few measured delays, from question to use; no guess is made before the first.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from runtime.contract.action import ActionSpec
from runtime.contract.guidance import Guidance, prefix_weights

REMEMBERED = 10  # delays
_EDGE = 1e-6  # share of a row


class Guide:
    """Of one robot and policy. Times in seconds of one clock."""

    def __init__(self, spec: ActionSpec, frozen_s: float) -> None:
        """`frozen_s` [s]: what is committed beyond the moment in which an answer is used."""
        self._spec, self._frozen_s = spec, frozen_s
        self._delays: deque[float] = deque(maxlen=REMEMBERED)
        self._asked_s: float | None = None

    @property
    def delay_s(self) -> float:
        """From question to use, the worst of the last ones [s]; 0 before the first."""
        return max(self._delays, default=0.0)

    def asked(self, now_s: float) -> None:
        """A question goes out."""
        self._asked_s = now_s

    def answered(self, now_s: float) -> None:
        """Its answer is put to use."""
        if self._asked_s is not None:
            self._delays.append(max(0.0, now_s - self._asked_s))
            self._asked_s = None

    def along(
        self, stamp_s: float, now_s: float, said: Callable[[float], NDArray[np.float64] | None]
    ) -> Guidance | None:
        """For a chunk that begins at `stamp_s`; `said` gives the old chunk's command (D,) for an instant, or None.

        None if the old chunk says nothing about any of its rows. Rows before the old chunk begins, which motion that
        was slowed can leave, are over; they are free.
        """
        spec, commands = self._spec, np.zeros((self._spec.horizon, self._spec.dim), np.float32)
        told = np.zeros(spec.horizon, dtype=bool)
        for row in range(spec.horizon):
            command = said(stamp_s + row * spec.dt_s)
            if command is not None:
                commands[row], told[row] = command, True
        if not told.any():
            return None
        certain_s = now_s - stamp_s + self.delay_s + self._frozen_s
        frozen = math.ceil(certain_s / spec.dt_s - _EDGE)
        weights = prefix_weights(spec.horizon, frozen, int(np.flatnonzero(told)[-1]) + 1)
        return Guidance(commands, np.where(told, weights, np.float32(0.0)))
