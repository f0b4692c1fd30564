# SPDX-License-Identifier: Apache-2.0
"""Which panels a gate runs beside the suite itself, and on which terms: robustness axes and the instruction swap."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from compress.gate.margins import margin_of
from compress.gate.rows import IN_DISTRIBUTION
from compress.sim.perturb.registry import AXES, perturbation

INSTRUCTION_SWAP = "instruction_swap"
PANELS = (*AXES, INSTRUCTION_SWAP)


class PanelSpecError(ValueError):
    """A panel that nobody defined, or terms that make no sense."""


@dataclass(frozen=True)
class PanelSpec:
    """The terms of one panel; each is a paired test of its own.

    Attributes:
        pairs: budget; undecided then means hold.
        margin: the loss that is still accepted, a rate, `release` or `strict` (instruction_swap: the rise of success
            under a wrong sentence).
        alpha: probability of passing a policy that is worse than that; None takes the gate's.
        strength: of the perturbation, in the unit of the axis (docs/panels.md); None takes the axis's default.
        advisory: reported only; a release needs every other panel to pass.
    """

    pairs: int = 60
    margin: float | str = 0.10
    alpha: float | None = None
    strength: float | None = None
    advisory: bool = False

    def resolved(self, name: str, alpha: float) -> PanelSpec:
        """With every None replaced by its default. Raises PanelSpecError."""
        if name not in PANELS:
            raise PanelSpecError(f"there is no panel {name!r}. Available: {', '.join(PANELS)}")
        strength = self.strength
        if name == INSTRUCTION_SWAP and strength is not None:
            raise PanelSpecError(f"panel {name!r} has strength {strength!r}, but it perturbs nothing: leave it out")
        if name in AXES:
            try:
                strength = perturbation(name, 0, 0, 0, strength).strength
            except ValueError as error:
                raise PanelSpecError(f"panel {name!r}: {error}") from error
        try:
            margin = margin_of(self.margin)
        except ValueError as error:
            raise PanelSpecError(f"panel {name!r}: {error}") from error
        full = replace(self, margin=margin, alpha=alpha if self.alpha is None else self.alpha, strength=strength)
        if isinstance(full.pairs, bool) or not isinstance(full.pairs, int) or full.pairs < 1:
            raise PanelSpecError(f"panel {name!r} has pairs {full.pairs!r}, expected a whole number of at least 1")
        for what, value in (("margin", full.margin), ("alpha", full.alpha)):
            if not isinstance(value, float) or not math.isfinite(value) or not 0.0 < value < 0.5:
                raise PanelSpecError(f"panel {name!r} has {what} {value!r}, expected a number between 0 and 0.5")
        return full


def resolve(panels: Mapping[str, PanelSpec | Mapping[str, Any]], alpha: float) -> dict[str, PanelSpec]:
    """All panels of a gate in the order of PANELS, as data or as specs. Raises PanelSpecError."""
    if not isinstance(panels, Mapping):
        raise PanelSpecError(f"`panels` is {panels!r}, expected a mapping from panel to its terms")
    if IN_DISTRIBUTION in panels:
        raise PanelSpecError(f"panel {IN_DISTRIBUTION!r} is the gate itself: its terms are `pairs`, `margin`, `alpha`")
    found = {}
    for name, terms in panels.items():
        try:
            spec = terms if isinstance(terms, PanelSpec) else PanelSpec(**terms)
        except TypeError as error:
            known = ", ".join(asdict(PanelSpec()))
            raise PanelSpecError(f"panel {name!r} is {terms!r} ({error}); expected some of: {known}") from error
        found[name] = spec.resolved(name, alpha)
    return {name: found[name] for name in PANELS if name in found}


def strengths(panels: Mapping[str, PanelSpec]) -> dict[str, float]:
    """Of the axes among the panels, for workers."""
    return {name: terms.strength for name, terms in panels.items() if terms.strength is not None}


def kind_of(panel: str) -> str:
    """`suite`, `axis` or `swap`."""
    return "swap" if panel == INSTRUCTION_SWAP else "axis" if panel in AXES else "suite"
