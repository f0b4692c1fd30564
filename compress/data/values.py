# SPDX-License-Identifier: Apache-2.0
"""A number in the data set's convention and in the policy's: signs, offsets and units that differ, said by two points.

    action_values: {gripper: {data: [-1, 1], policy: [1, 0]}}     the data's -1 is the policy's 1, its 1 the policy's 0
    action_values: {dx: {data: [0, 1000], policy: [0, 1]}}        millimetres to metres

Everything else follows on the line through both points, also outside them; the inverse exchanges `data` and `policy`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class ValueMap:
    """One dimension of the action.

    Attributes:
        data: two different numbers as the data set stores them, in its unit.
        policy: what they are to the policy, in the unit that `policy_io.json` says.
    """

    data: tuple[float, ...]
    policy: tuple[float, ...]

    def __post_init__(self) -> None:
        for name, pair in (("data", self.data), ("policy", self.policy)):
            if len(pair) != 2 or not all(map(math.isfinite, pair)) or pair[0] == pair[1]:
                raise ValueError(f"`{name}` is {list(pair)}, expected two different numbers")

    def apply(self, values: np.ndarray) -> np.ndarray:
        """The data set's numbers -> the policy's, float32, of the same shape."""
        import numpy as np

        (low, high), (first, second) = self.data, self.policy
        slope = (second - first) / (high - low)
        return (first + (values.astype(np.float64) - low) * slope).astype(np.float32)

    @property
    def inverse(self) -> ValueMap:
        """The policy's numbers -> the data set's."""
        return ValueMap(self.policy, self.data)
