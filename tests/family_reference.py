# SPDX-License-Identifier: Apache-2.0
"""The reference VLA as a conformance case."""

from __future__ import annotations

from algorithm_factory import policy
from family_cases import FamilyCase, scramble

from compress.models.base import VlaModel
from compress.models.reference import ReferenceVla


def make(seed: int) -> VlaModel:
    made = policy(depth=4, seed=seed, vision_depth=3)
    scramble(made.module, seed)
    return made


CASE = FamilyCase(make, ReferenceVla.load, why_no_library="this network is defined by DropGate itself")
