# SPDX-License-Identifier: Apache-2.0
"""How much is to leave a stack: a number of blocks, a share, a budget, or the very list, given or published."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from compress.published import preset
from compress.scores import PARTS

FORMS = ("auto", "stub", "compact")
AMOUNTS = ("keep", "drop", "keep_blocks", "preset", "keep_fraction", "parameter_budget", "latency_budget_ms")
GIVEN = ("keep_blocks", "preset")  # amounts that are the list itself


class PlanError(ValueError):
    """A budget that cannot be met, or a plan that cannot be read; the message says what is possible."""


@dataclass(frozen=True)
class PlanSpec:
    """How much leaves one stack; exactly one of the amounts is set.

    Attributes:
        role, part: the stack, and what of a block goes. `language+action` is for pairs: a block and the expert's block
            of the same index leave together, and score the sum of both.
        form: how a whole block goes: `compact` (the list gets shorter), `stub` (its slot stays and writes zero; any
            subset is allowed), or `auto`: compact where the stack allows it.
        keep, drop: blocks.
        keep_blocks: the very blocks that stay.
        preset: the blocks that a published cut kept, by its name in `published_plans.yaml`.
        keep_fraction: of the blocks that are there now, (0, 1]; rounded to the nearest allowed number, halves up.
        parameter_budget: parameters of the whole model afterwards, at most.
        latency_budget_ms: predicted time of one inference afterwards [ms], at most; needs measured costs.
    """

    role: str = "language"
    part: str = "block"
    keep: int | None = None
    drop: int | None = None
    keep_blocks: tuple[int, ...] | None = None
    preset: str | None = None
    keep_fraction: float | None = None
    parameter_budget: int | None = None
    latency_budget_ms: float | None = None
    form: str = "auto"

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise PlanError(f"form is {self.form!r}, expected one of: {', '.join(FORMS)}")
        given = [name for name in AMOUNTS if getattr(self, name) is not None]
        if len(given) != 1:
            raise PlanError(f"set exactly one of {', '.join(AMOUNTS)}; found {', '.join(given) or 'none'}")
        if self.part not in PARTS:
            raise PlanError(f"part is {self.part!r}, expected one of: {', '.join(PARTS)}")
        name, value = given[0], getattr(self, given[0])
        if name in GIVEN:
            self._check_given()
            return
        inside = 0.0 < value <= 1.0 if name == "keep_fraction" else value >= 0 if name == "drop" else value > 0
        if not inside:  # NaN is never inside
            limits = {"keep_fraction": "in (0, 1]", "drop": ">= 0"}.get(name, "> 0")
            raise PlanError(f"{name} is {value}, expected {limits}")

    def _check_given(self) -> None:
        if self.preset is not None:
            found = preset(self.preset)
            if (self.role, self.part) != (found.role, found.part):
                raise PlanError(
                    f"preset {self.preset} is of {found.role}/{found.part}, found {self.role}/{self.part}: leave "
                    "`role` and `part` out of the recipe, or write these"
                )
        blocks = self.blocks or ()
        if not blocks or len(set(blocks)) != len(blocks) or min(blocks) < 0:
            raise PlanError(f"keep_blocks is {list(blocks)}, expected different block indices, at least one")

    @property
    def blocks(self) -> tuple[int, ...] | None:
        """The blocks that stay, ascending, where the list itself is given."""
        kept = preset(self.preset).keep if self.preset is not None else self.keep_blocks
        return None if kept is None else tuple(sorted(kept))

    @property
    def amount(self) -> tuple[str, float]:
        """Name and value of the one amount that is set; of a given list its length, as `keep`."""
        if self.blocks is not None:
            return "keep", len(self.blocks)
        name = next(name for name in AMOUNTS if getattr(self, name) is not None)
        return name, getattr(self, name)


def latency_budget(specs: Sequence[PlanSpec]) -> float | None:
    """The latency budget [ms] that stacks share, if there is one.

    Raises:
        PlanError: two budgets: a latency is of the whole policy, so there is only one.
    """
    found = sorted({spec.latency_budget_ms for spec in specs if spec.latency_budget_ms is not None})
    if len(found) > 1:
        raise PlanError(
            f"latency_budget_ms is {found} for different stacks, but it is the time of the whole policy: write the "
            "same one for every stack that may be cut for it"
        )
    return found[0] if found else None
