# SPDX-License-Identifier: Apache-2.0
"""Blocks that leave two stacks together, by a plan for `language+action`: every family that has such pairs."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pipeline_factory
import pytest
import torch
from family_cases import NAMES, case, samples_for
from test_family_conformance import batch_of, families, gated, plan_of
from transformers import PI0ForConditionalGeneration

from compress.baselines import scorer
from compress.costs import Timing, count_flops, measure
from compress.dtr.drop import DropError, drop
from compress.dtr.heal import heal
from compress.gateprobe import probe, probe_together
from compress.models.base import ModelError, VlaModel
from compress.models.registry import load_model
from compress.pipeline import run_recipe
from compress.plan import Plan, PlanSpec, load_plans, make_plan
from compress.probing import find_group, find_groups
from compress.recipe import parse_recipe
from compress.scores import ScoreError, Scores, summed
from compress.stages.probe import load_scores
from compress.trim import trim

ROLE = "language+action"
PAIRED = [name for name in NAMES if any(group.partner for group in case(name).make(0).groups)]
paired = pytest.mark.parametrize("name", PAIRED)


def pair_plan(model: VlaModel, dropped: tuple[int, ...], form: str = "auto", part: str = "block") -> Plan:
    return replace(plan_of(model, "language", dropped, part, form), role=ROLE)


def units(model: VlaModel) -> list[tuple[int, ...]]:
    size, depth = find_groups(model, ROLE)[0].unit, model.surgery.get("language")
    count = 4 if depth is None else depth.depth
    return [tuple(range(start, start + size)) for start in range(0, count, size)]


def test_families_with_pairs_are_these() -> None:
    assert PAIRED == ["pi0", "pi05", "smolvla"]
    assert [find_groups(case(name).make(0), ROLE)[0].unit for name in PAIRED] == [1, 1, 2]


@families
def test_pairs_that_a_family_does_not_have_are_refused(name: str) -> None:
    model = case(name).make(0)
    wrong = ROLE if name not in PAIRED else "language+vision.siglip"
    with pytest.raises(ModelError, match=r"has no (pairs|stack)"):
        find_groups(model, wrong)


@paired
@pytest.mark.parametrize("form", ["auto", "stub"])
def test_a_pair_that_leaves_is_both_gates_at_zero(name: str, form: str) -> None:
    model = case(name).make(1)
    batch = batch_of(model)
    for dropped in units(model):
        cut = case(name).make(1)
        with torch.no_grad(), ExitStack() as gates:
            for role in ("language", "action"):
                for index in dropped:
                    gates.enter_context(gated(model, find_group(model, role), index, "block", 0.0))
            wanted = model.loss(batch, 2), model.chunk(batch, 2)
        drop(cut, pair_plan(cut, dropped, form))
        lengths = {len(find_group(cut, role).stack(cut.module)) for role in ("language", "action")}
        assert lengths == {4 if form == "stub" else 4 - len(dropped)}
        with torch.no_grad():
            torch.testing.assert_close(cut.loss(batch, 2), wanted[0], rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(cut.chunk(batch, 2), wanted[1], rtol=1e-5, atol=1e-5)


@paired
def test_pairs_come_back_bit_equal_from_disk_and_weigh_what_was_said(name: str, tmp_path: Path) -> None:
    model = case(name).make(0)
    batch, dropped = batch_of(model, 1), units(model)[1]
    costs = measure(model, batch, ROLE)
    drop(model, pair_plan(model, dropped))
    said = costs.left(dropped)
    assert sum(p.numel() for p in model.module.parameters()) == said["parameters"]
    left = count_flops(model, batch, model.groups[0])[0]
    assert left / costs.total_flops == pytest.approx(said["flops_share"], abs=1e-6)
    model.save(tmp_path / "pruned")
    loaded = case(name).load(tmp_path / "pruned")
    assert torch.equal(loaded.chunk(batch, 4), model.chunk(batch, 4))
    assert loaded.identity() == model.identity()
    assert loaded.surgery["language"] == loaded.surgery["action"]
    assert loaded.surgery["language"].kept == tuple(i for i in range(4) if i not in dropped)


@paired
def test_a_pair_scores_the_sum_of_its_blocks(name: str) -> None:
    model = case(name).make(0)
    found = [batch_of(model, 3)]
    pairs, alone = probe(model, found, ROLE), [probe(model, found, role) for role in ("language", "action")]
    assert pairs.values == pytest.approx([a + b for a, b in zip(alone[0].values, alone[1].values, strict=True)])
    for half in (0, 1):
        wanted = np.array(alone[0].per_half[half]) + alone[1].per_half[half]
        np.testing.assert_allclose(pairs.per_half[half], wanted)
    assert (pairs.subject.role, pairs.subject.unit) == (ROLE, find_groups(model, ROLE)[0].unit)
    assert pairs.extra["of"]["action"]["values"] == list(alone[1].values)
    assert Scores.from_json(pairs.to_json()).digest() == pairs.digest()


@paired
def test_the_plan_takes_the_cheapest_units_of_pairs(name: str) -> None:
    model = case(name).make(0)
    scores = probe(model, [batch_of(model)], ROLE)
    plan = make_plan(scores, PlanSpec(role=ROLE, keep=2), measure(model, batch_of(model, 1), ROLE))
    worth = {unit: sum(scores.of(block) for block in unit) for unit in units(model)}
    cheapest = sorted(worth, key=lambda unit: worth[unit])
    assert plan.dropped == tuple(sorted(block for unit in cheapest[: len(cheapest) // 2] for block in unit))
    drop(model, Plan.from_json(plan.to_json()))
    assert model.surgery["action"].kept == plan.kept
    assert sum(p.numel() for p in model.module.parameters()) == plan.predicted["parameters"]


@pytest.mark.parametrize("metric", ["uniform", "magnitude", "cosine", "taylor", "loo"])
def test_every_metric_can_rank_pairs(metric: str) -> None:
    model = case("pi0").make(0)
    found = [batch_of(model, 2)]
    pairs = scorer(metric)(model, found, ROLE, "block")
    alone = [scorer(metric)(model, found, role, "block") for role in ("language", "action")]
    assert pairs.values == pytest.approx([a + b for a, b in zip(alone[0].values, alone[1].values, strict=True)])


@paired
def test_leaving_one_language_block_out_is_its_stub(name: str) -> None:
    """Its keys and values stay."""
    model = case(name).make(1)
    found = [batch_of(model)]
    with torch.no_grad():
        whole = model.loss(found[0], 0).mean()
        for part in ("block", "attention", "mlp"):
            values = []
            for index in range(4):
                cut = case(name).make(1)
                drop(cut, plan_of(cut, "language", (index,), part, "stub"))
                values.append(float(cut.loss(found[0], 0).mean() - whole))
            assert scorer("loo")(model, found, "language", part).values == pytest.approx(values, abs=1e-6)


def test_units_of_pairs_are_never_torn() -> None:
    model = case("smolvla").make(0)
    before = model.identity()
    with pytest.raises(DropError, match=r"tears \[1\] from their units of 2; form `stub` takes any block"):
        drop(model, pair_plan(model, (0,)))
    with pytest.raises(DropError, match=r"use form `stub`, or role `language\+action`"):
        drop(model, plan_of(model, "language", (0,), form="compact"))
    assert model.identity() == before


def test_stacks_that_hold_different_blocks_have_no_pairs() -> None:
    model = case("pi0").make(0)
    one, two = probe_together(model, [batch_of(model)], [("language", "block"), ("action", "block")])
    shorter = replace(
        two, subject=replace(two.subject, blocks=(0, 1, 2)), values=two.values[:3], ties=(), per_half=(), noise=()
    )
    with pytest.raises(ScoreError, match="the stacks hold different ones"):
        summed([one, shorter], 1)


def test_times_of_both_stacks_add_up() -> None:
    model = case("pi0").make(0)
    costs = measure(model, batch_of(model, 1), ROLE, timer=lambda *_: Timing(9.0, (1.0, 0.5, 0.5, 1.0), "station"))
    assert (costs.total_latency_ms, costs.left((0, 1))["latency_ms"]) == (9.0, 6.0)


@paired
def test_cuts_by_pairs_are_healed(name: str) -> None:
    teacher, model = case(name).make(0), case(name).make(0)
    drop(model, pair_plan(model, units(model)[-1]))
    found = heal(model, teacher, [model.collate(samples_for(model, 3, seed)) for seed in (1, 2, 3, 4)])
    assert [cut.role for cut in found] == ["action"]  # nobody reads the language stream behind the end
    assert found[0].error_after <= found[0].error_before


def test_trimmed_pi0_cut_by_pairs_is_the_stock_class_again(tmp_path: Path) -> None:
    """Weights that no action depends on left; zeros stand in for them, and the stock class answers to the bit."""
    model = case("pi0").make(0)
    batch = batch_of(model)
    assert len(trim(model, [batch]).removed) == 5
    drop(model, pair_plan(model, (1, 2)))
    model.save_stock(tmp_path / "stock")
    stock = PI0ForConditionalGeneration.from_pretrained(tmp_path / "stock").eval()
    assert stock.config.dit_config.num_hidden_layers == stock.config.vlm_config.text_config.num_hidden_layers == 2
    load = case("pi0").stock_chunk
    assert load is not None
    scale, offset = (torch.from_numpy(getattr(model.io.normalizers.action, n)).float() for n in ("scale", "offset"))  # type: ignore[attr-defined]
    torch.testing.assert_close(
        model.chunk(batch), load(tmp_path / "stock", batch) * scale + offset, rtol=1e-6, atol=1e-6
    )


@pytest.mark.slow
def test_a_recipe_ends_in_a_folder_that_the_stock_class_loads(tmp_path: Path) -> None:
    """From LIBERO files and a checkpoint through trim, probe, plan, drop and recovery."""
    model = case("pi0").make(0)
    model.save(tmp_path / "policy")
    pipeline_factory.demos(tmp_path / "demos", episodes=2)
    plain = pipeline_factory.data(
        tmp_path, model={"family": "pi0", "checkpoint": str(tmp_path / "policy")}, plan={"role": ROLE, "keep": 2},
        data={"path": str(tmp_path / "demos"), "image_size": 28},
    )  # fmt: skip
    outcome = run_recipe(parse_recipe(plain, tmp_path), "recover")
    assert outcome.done[-1] == "recover"
    run = tmp_path / "run"
    (plan,), (scores,) = load_plans(run / "plan/plan.json"), load_scores(run / "probe/probe.json")
    assert (plan.role, plan.scores_digest, len(plan.kept)) == (ROLE, scores.digest(), 2)
    small = load_model("pi0", run / "recover/model")
    assert [len(group.stack(small.module)) for group in small.groups] == [2, 2, 3]
    batch = batch_of(small)
    load = case("pi0").stock_chunk
    assert load is not None
    scale, offset = (torch.from_numpy(getattr(small.io.normalizers.action, n)).float() for n in ("scale", "offset"))  # type: ignore[attr-defined]
    torch.testing.assert_close(
        small.chunk(batch), load(run / "recover/stock", batch) * scale + offset, rtol=1e-6, atol=1e-6
    )
