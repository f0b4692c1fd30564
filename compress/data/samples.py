# SPDX-License-Identifier: Apache-2.0
"""The neutral sample: what every demonstration reader yields and every model adapter collates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Sample:
    """One training sample, in physical units and before any model's own preprocessing.

    Attributes:
        images: camera key -> uint8 (H, W, 3), RGB, already in the orientation the policy sees.
        state: float32 (S,), proprioception in physical units.
        actions: float32 (T, A), the next T actions in physical units.
        pad: bool (T,), true where the chunk runs past the end of the episode.
        instruction: the sentence given to the policy.
        sample_id: `dataset/episode/frame`, unique within a demonstration set and the same on every machine.
    """

    images: Mapping[str, np.ndarray]
    state: np.ndarray
    actions: np.ndarray
    pad: np.ndarray
    instruction: str
    sample_id: str
