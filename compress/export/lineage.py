# SPDX-License-Identifier: Apache-2.0
"""Where a compressed policy comes from, as the manifest wants it; the kept-block map is read off the live model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from compress.export.errors import ExportError
from compress.models.base import VlaModel
from runtime.contract.lineage import KeptStack, Lineage, PlanSummary, SourceModel

KEYS = {"source", "recipe_sha256", "plan_sha256"}
SOURCE_KEYS = {"name", "revision", "sha256"}


def kept_stacks(model: VlaModel) -> tuple[KeptStack, ...]:
    """Original depth and kept indices of every stack of the model, whole ones included."""
    known = model.surgery
    stacks = []
    for group in model.groups:
        live = len(group.stack(model.module))
        record = known.get(group.role)
        kept = tuple(range(live)) if record is None else record.kept
        if len(kept) != live:
            raise ExportError(
                f"{group.role}: the model has {live} blocks, its surgery record keeps {len(kept)}; "
                "drop with compress.dtr.drop"
            )
        stacks.append(KeptStack(group.role, live if record is None else record.depth, kept))
    return tuple(stacks)


def lineage_of(model: VlaModel, given: Mapping[str, Any]) -> Lineage:
    """The lineage of `model`.

    Args:
        model: as it will be exported.
        given: `source` {`name`, `revision`, `sha256`: `identity()` of the uncompressed model}; `recipe_sha256` and
            `plan_sha256`: of the files that `seal` will be given.

    Raises:
        ExportError: a key is missing or unknown.
        ContractError: a value is not what the manifest allows.
    """
    _keys(given, KEYS, "lineage")
    source = given["source"]
    _keys(source, SOURCE_KEYS, "lineage.source")
    return Lineage(
        family=model.family,
        source=SourceModel(source["name"], source["revision"], source["sha256"]),
        recipe_sha256=given["recipe_sha256"],
        plan=PlanSummary(given["plan_sha256"], kept_stacks(model)),
    )


def _keys(found: Mapping[str, Any], expected: set[str], where: str) -> None:
    if set(found) != expected:
        raise ExportError(f"{where}: found keys {sorted(found)}, expected {sorted(expected)}")
