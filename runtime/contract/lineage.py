# SPDX-License-Identifier: Apache-2.0
"""Where a policy comes from: source model, recipe, and which blocks were kept (arXiv 2606.27755, block removal)."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.contract import check
from runtime.contract.codec import conform


@dataclass(frozen=True)
class SourceModel:
    """The uncompressed policy: a name for people, a revision, and the SHA-256 of its weights. Raises ContractError."""

    name: str
    revision: str
    sha256: str

    def __post_init__(self) -> None:
        conform(self)
        check.require(self.name != "", "SourceModel.name", self.name, "a name")
        check.sha256(self.sha256, "SourceModel.sha256")


@dataclass(frozen=True)
class KeptStack:
    """One stack of blocks: indices kept, ascending, of `original_depth` blocks. Raises ContractError."""

    name: str
    original_depth: int
    kept: tuple[int, ...]

    def __post_init__(self) -> None:
        conform(self)
        check.identifier(self.name, "KeptStack.name")
        check.positive(self.original_depth, f"KeptStack[{self.name}].original_depth")
        ordered = list(self.kept) == sorted(set(self.kept)) and bool(self.kept)
        check.require(ordered, f"KeptStack[{self.name}].kept", self.kept, "ascending indices, each once, at least one")
        inside = all(0 <= index < self.original_depth for index in self.kept)
        check.require(inside, f"KeptStack[{self.name}].kept", self.kept, f"indices in 0..{self.original_depth - 1}")


@dataclass(frozen=True)
class PlanSummary:
    """The compression plan: SHA-256 of the plan file and its kept-block map. Raises ContractError."""

    sha256: str
    stacks: tuple[KeptStack, ...]

    def __post_init__(self) -> None:
        conform(self)
        check.sha256(self.sha256, "PlanSummary.sha256")
        check.unique((stack.name for stack in self.stacks), "PlanSummary.stacks names")


@dataclass(frozen=True)
class Lineage:
    """Identity of the policy before any file exists: family, source, recipe and plan. Raises ContractError."""

    family: str
    source: SourceModel
    recipe_sha256: str
    plan: PlanSummary

    def __post_init__(self) -> None:
        conform(self)
        check.identifier(self.family, "Lineage.family")
        check.sha256(self.recipe_sha256, "Lineage.recipe_sha256")
