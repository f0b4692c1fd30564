# SPDX-License-Identifier: Apache-2.0
"""Remove the blocks that a plan drops, from the live model and from its configuration.

Compact where the stack allows it (the list gets shorter), otherwise a stub (the slot stays, its writers write zero);
both give the very outputs of a gate turned to 0. A plan for `A+B` takes the same blocks out of both stacks.
"""

from __future__ import annotations

from collections.abc import Sequence

from compress.models.base import BlockGroup, Surgery, VlaModel
from compress.models.surgery import operate
from compress.plan import Plan
from compress.probing import find_group, find_groups, surgery_of
from compress.scores import JOIN, roles_of


class DropError(ValueError):
    """A plan that does not belong to this model; nothing was removed."""


def drop(model: VlaModel, plans: Plan | Sequence[Plan]) -> None:
    """Remove, in place, what the plans of one model drop; all plans are checked before the first cut.

    Args:
        model: shortened, and its record of surgery extended.
        plans: one per stack (or pair of stacks) and part.

    Raises:
        DropError: a plan made for another model, or one that does not fit what is left of the stack.
    """
    plans = [plans] if isinstance(plans, Plan) else list(plans)
    identity = model.identity()
    wanted = dict(model.surgery)
    for plan in plans:
        if plan.model_identity != identity:
            raise DropError(
                f"the plan for {plan.role} was made for model {plan.model_identity[:12]}, this is {identity[:12]}: "
                "probe and plan this model, or load the one that was planned"
            )
        for group in find_groups(model, plan.role):
            done = wanted.get(group.role, surgery_of(model, group))
            wanted[group.role] = after(plan, group, done)
    for role in {role for plan in plans for role in roles_of(plan.role)}:
        group = find_group(model, role)
        operate(model.module, group, surgery_of(model, group), wanted[role])
    model.record_surgery(wanted)


def after(plan: Plan, group: BlockGroup, done: Surgery) -> Surgery:
    """The state of a stack in state `done` once `plan` is carried out.

    Raises:
        DropError: another depth, blocks that are gone already, or a whole unit that would be torn.
    """
    gone = sorted(set(plan.dropped) - set(done.kept))
    if plan.depth != done.depth or gone:
        raise DropError(
            f"{plan.role}: the plan is for {plan.depth} blocks and drops {list(plan.dropped)}; "
            f"the stack keeps {list(done.kept)} of {done.depth}"
        )
    compact = plan.part == "block" and (group.compact if plan.form == "auto" else plan.form == "compact")
    if compact:
        _require_whole(plan, group, done)
    attention, mlp = set(done.without_attention), set(done.without_mlp)
    kept = set(done.kept)
    if compact:
        kept -= set(plan.dropped)
    elif plan.part in ("block", "attention"):
        attention |= set(plan.dropped)
    if not compact and plan.part in ("block", "mlp"):
        mlp |= set(plan.dropped)
    return Surgery(done.depth, tuple(sorted(kept)), tuple(sorted(attention & kept)), tuple(sorted(mlp & kept)))


def _require_whole(plan: Plan, group: BlockGroup, done: Surgery) -> None:
    """What leaves the list leaves it in whole units, and nothing that is pinned."""
    if not group.compact:
        pairs = f", or role `{group.role}{JOIN}{group.partner}`" if group.partner else ""
        raise DropError(
            f"{plan.role}: other stacks read this one's slots, so its blocks cannot leave the list; "
            f"use form `stub`{pairs}"
        )
    pinned = sorted(set(plan.dropped) & group.pinned)
    units = {d // group.unit for d in plan.dropped}
    torn = sorted(b for b in done.kept if b not in plan.dropped and b // group.unit in units)
    if pinned or torn:
        raise DropError(
            f"{plan.role}: the plan drops pinned blocks {pinned} and tears {torn} from their units of {group.unit}; "
            "form `stub` takes any block"
        )
