# SPDX-License-Identifier: Apache-2.0
"""An arm that notes where its distances were asked for."""

from __future__ import annotations

from arm_models import Arm


class Spy:
    """The arm's kinematics; `near` says which configurations are too near."""

    def __init__(self, arm: Arm, near=lambda q: False) -> None:
        self._arm, self.near, self.asked, self.distances = arm, near, [], set()

    def places(self, *given):
        return self._arm.kinematics.places(*given)

    def too_near(self, q, itself, scene):
        self.asked.append(q.copy())
        self.distances.add((itself, scene))
        return "a and b are 1 mm apart" if self.near(q) else ""
