# SPDX-License-Identifier: Apache-2.0
"""Removal is exact: the same outputs as a gate of 0, and the same bits after save and load."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from algorithm_factory import batches, policy

from compress.baselines import SCORERS
from compress.dtr.drop import DropError, drop
from compress.leave_one_out import naive_losses
from compress.models.reference import ReferenceVla
from compress.plan import Plan, PlanSpec, make_plan

PARTS = ("block", "attention", "mlp")


def plan_for(model: ReferenceVla, dropped: tuple[int, ...], role: str = "language", part: str = "block") -> Plan:
    plan = make_plan(SCORERS["random"](model, [], role, part), PlanSpec(role, part, drop=len(dropped)))
    everything = sorted([*plan.kept, *plan.dropped])
    return replace(plan, dropped=dropped, kept=tuple(b for b in everything if b not in dropped))


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("role", ["language", "vision.siglip"])
def test_dropping_one_block_gives_the_loss_of_leaving_it_out(role: str, part: str) -> None:
    whole = policy(depth=3, vision_depth=3)
    batch = batches(whole, 2, 2)[0]
    with torch.no_grad():
        _, losses = naive_losses(whole, next(g for g in whole.groups if g.role == role), part, batch)
    for index in range(3):
        model = policy(depth=3, vision_depth=3)
        drop(model, plan_for(model, (index,), role, part))
        with torch.no_grad():
            assert torch.equal(model.loss(batch), losses[index])


@pytest.mark.parametrize("part", PARTS)
def test_stub_and_compact_removal_give_the_same_chunk(part: str) -> None:
    compact, stubbed = policy(depth=4, vision_depth=1), policy(depth=4, vision_depth=1)
    batch = batches(compact, 2, 2)[0]
    slots = tuple(replace(group, compact=False) for group in stubbed.groups)
    stubbed.__class__ = type("Stubbed", (ReferenceVla,), {"groups": property(lambda _self: slots)})
    drop(compact, plan_for(compact, (1, 3), part=part))
    drop(stubbed, plan_for(stubbed, (1, 3), part=part))
    assert len(stubbed.module.language.layers) == 4
    assert len(compact.module.language.layers) == (2 if part == "block" else 4)
    assert torch.equal(compact.chunk(batch), stubbed.chunk(batch))


@pytest.mark.parametrize("part", PARTS)
def test_save_and_load_give_the_same_bits(tmp_path: Path, part: str) -> None:
    model = policy(depth=4, vision_depth=2)
    whole = model.chunk(batches(model, 2, 2)[0])
    plans = [plan_for(model, (0, 2), part=part), plan_for(model, (1,), "vision.siglip", part)]
    drop(model, plans)
    batch = batches(model, 2, 2)[0]
    model.save(tmp_path / "weights")
    again = ReferenceVla.load(tmp_path / "weights")
    assert torch.equal(again.chunk(batch), model.chunk(batch))
    assert not torch.equal(again.chunk(batch), whole)
    assert again.identity() == model.identity()
    assert again.surgery == model.surgery
    assert sum(p.numel() for p in again.module.parameters()) < sum(p.numel() for p in policy(4).module.parameters())


def test_dropping_twice_counts_in_original_indices() -> None:
    twice, once = policy(depth=6, vision_depth=1), policy(depth=6, vision_depth=1)
    drop(twice, plan_for(twice, (0, 3)))
    drop(twice, plan_for(twice, (5,)))
    drop(once, plan_for(once, (0, 3, 5)))
    assert twice.surgery["language"].kept == once.surgery["language"].kept == (1, 2, 4)
    assert twice.identity() == once.identity()


def test_parts_dropped_earlier_stay_gone() -> None:
    model = policy(depth=3, vision_depth=1)
    drop(model, plan_for(model, (0, 1), part="mlp"))
    drop(model, plan_for(model, (2,), part="attention"))
    drop(model, plan_for(model, (1,)))
    record = model.surgery["language"]
    assert (record.kept, record.without_mlp, record.without_attention) == ((0, 2), (0,), (2,))


def test_plan_of_another_model_is_refused_and_nothing_is_cut() -> None:
    model, other = policy(seed=0), policy(seed=1)
    with pytest.raises(DropError, match="was made for model"):
        drop(model, [plan_for(model, (0,)), plan_for(other, (1,), "vision.siglip")])
    assert model.identity() == policy(seed=0).identity()


def test_plan_is_refused_once_it_has_been_carried_out() -> None:
    model = policy(depth=3, vision_depth=1)
    plan = plan_for(model, (0,))
    drop(model, plan)
    with pytest.raises(DropError, match="was made for model"):
        drop(model, plan)


def test_plan_that_breaks_the_stacks_rules_is_refused() -> None:
    model = policy(depth=4, vision_depth=1)
    paired = tuple(replace(g, unit=2, pinned=frozenset({0})) for g in model.groups)
    good = plan_for(model, (2, 3))
    model.__class__ = type("Paired", (ReferenceVla,), {"groups": property(lambda _self: paired)})
    with pytest.raises(DropError, match=r"pinned blocks \[\] and tears \[3\] from their units of 2"):
        drop(model, replace(good, dropped=(2,), kept=(0, 1, 3)))
    with pytest.raises(DropError, match=r"pinned blocks \[0\]"):
        drop(model, replace(good, dropped=(0, 1), kept=(2, 3)))
    with pytest.raises(DropError, match=r"the plan is for 9 blocks"):
        drop(model, replace(good, depth=9))
    drop(model, good)
    assert model.surgery["language"].kept == (0, 1)
