# SPDX-License-Identifier: Apache-2.0
"""The lossless pass finds what no action depends on, removes it to the bit, and survives a save and load."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from family_cases import case, samples_for

from compress.dtr.drop import drop
from compress.gateprobe import probe
from compress.models.base import ModelError, Surgery
from compress.plan import PlanSpec, make_plan
from compress.trim import dead_tensors, trim

WITH_DEAD = ("pi0", "pi05", "smolvla")


@pytest.mark.parametrize("name", WITH_DEAD)
def test_what_leaves_has_no_gradient_and_changes_no_bit(name: str, tmp_path: Path) -> None:
    model = case(name).make(0)
    batch = model.collate(samples_for(model, 3))
    with torch.no_grad():
        wanted = model.loss(batch, 9), model.chunk(batch, 9)
    dead = dead_tensors(model, [batch])
    sizes = {n: p.numel() for n, p in model.module.named_parameters()}
    report = trim(model, [batch])
    gone = set(sizes) - {n for n, _ in model.module.named_parameters()}
    assert gone == dead - set(report.kept) != set()
    assert sum(item.elements for item in report.removed) == sum(sizes[n] for n in gone)
    assert report.bytes_saved == 4 * sum(sizes[n] for n in gone)
    with torch.no_grad():
        assert torch.equal(model.loss(batch, 9), wanted[0])
    assert torch.equal(model.chunk(batch, 9), wanted[1])
    model.save(tmp_path / "trimmed")
    loaded = case(name).load(tmp_path / "trimmed")
    assert torch.equal(loaded.chunk(batch, 9), wanted[1])
    assert loaded.identity() == model.identity()


@pytest.mark.parametrize("name", WITH_DEAD)
def test_a_trimmed_policy_is_probed_and_cut_like_any_other(name: str, tmp_path: Path) -> None:
    model = case(name).make(0)
    batch = model.collate(samples_for(model, 3))
    trim(model, [batch])
    scores = probe(model, [batch], "language")
    plan = make_plan(scores, PlanSpec(role="language", drop=2))
    assert 3 in plan.dropped  # the dead one goes first, at no cost
    drop(model, plan)
    model.save(tmp_path / "cut")
    assert torch.equal(case(name).load(tmp_path / "cut").chunk(batch), model.chunk(batch))


@pytest.mark.parametrize("name", WITH_DEAD)
def test_a_second_pass_finds_nothing(name: str) -> None:
    model = case(name).make(0)
    batch = model.collate(samples_for(model, 2))
    trim(model, [batch])
    again = trim(model, [batch])
    assert (again.removed, again.share) == ((), 0.0)


@pytest.mark.parametrize("name", ["reference", "openvla_oft"])
def test_a_network_without_spare_weights_stays_whole(name: str) -> None:
    model = case(name).make(0)
    before = model.identity()
    report = trim(model, [model.collate(samples_for(model, 3))])
    assert (report.removed, report.kept, report.bytes_saved) == ((), (), 0)
    assert model.identity() == before


def test_last_language_block_of_pi0_is_stubbed_and_its_keys_stay() -> None:
    model = case("pi0").make(0)
    trim(model, [model.collate(samples_for(model, 2))])
    assert model.surgery["language"] == Surgery(4, (0, 1, 2, 3), (3,), (3,))
    names = {n for n, _ in model.module.named_parameters() if "language_model.layers.3." in n}
    assert {n.rpartition("layers.3.")[2] for n in names} == {
        "input_layernorm.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight",
    }  # fmt: skip


def test_nothing_to_look_at_is_refused() -> None:
    with pytest.raises(ModelError, match="at least one batch"):
        trim(case("reference").make(0), [])
