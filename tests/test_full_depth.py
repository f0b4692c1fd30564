# SPDX-License-Identifier: Apache-2.0
"""From a checkpoint to a proven graph at full depth and small width: trim, probe, plan, drop, save, load, export."""

from __future__ import annotations

from pathlib import Path

import family_openvla_oft
import family_pi05
import pytest
import torch
from family_cases import samples_for
from family_pi0 import narrow_config
from pi_publisher import quantiles, write_lerobot

from compress.costs import measure
from compress.dtr.drop import drop
from compress.export.draft import export_draft
from compress.gateprobe import probe
from compress.models.base import VlaModel
from compress.models.registry import load_model
from compress.plan import PlanSpec, make_plan
from compress.trim import TrimReport, trim

pytestmark = pytest.mark.slow


def openvla_oft(folder: Path) -> VlaModel:
    """32 language blocks."""
    family_openvla_oft.full_depth_narrow(0).save(folder)
    return load_model("openvla_oft", folder)


def pi05(folder: Path) -> VlaModel:
    """18 pairs, as LeRobot publishes them: with two word heads that no action needs. Short tower, one flow step."""
    config = narrow_config()
    config.num_inference_steps, config.vlm_config.vision_config.num_hidden_layers = 1, 3
    write_lerobot(family_pi05.make(0, config), folder, "QUANTILES", quantiles(2))
    return load_model("pi05", folder)


def cut_to_half(model: VlaModel, keep: int) -> tuple[TrimReport, tuple[int, ...]]:
    """The stages of a run, without a recipe."""
    batches = [model.collate([sample]) for sample in samples_for(model, 4)]
    report = trim(model, batches)
    scores = probe(model, batches, "language")
    plan = make_plan(scores, PlanSpec(keep=keep), measure(model, batches[0], "language"))
    before = sum(p.numel() for p in model.module.parameters())
    drop(model, plan)
    after = sum(p.numel() for p in model.module.parameters())
    assert plan.predicted["parameters"] == after < before
    return report, plan.dropped


def proven(model: VlaModel, folder: Path) -> None:
    """Saved, loaded, exported; the robot's runtime answers what torch answers (checked inside)."""
    batch = model.collate(samples_for(model, 2))
    model.save(folder / "pruned")
    loaded = load_model(model.family, folder / "pruned")
    assert torch.equal(loaded.chunk(batch), model.chunk(batch))
    source = {"name": model.family, "revision": "test", "sha256": "0" * 64}
    lineage = {"source": source, "recipe_sha256": "1" * 64, "plan_sha256": "2" * 64}
    report = export_draft(loaded, samples_for(model, 8), folder / "draft", lineage)
    assert report.golden.ok


def test_openvla_oft_of_32_blocks(tmp_path: Path) -> None:
    model = openvla_oft(tmp_path / "whole")
    report, dropped = cut_to_half(model, 16)
    assert (report.removed, len(dropped)) == ((), 16)
    assert len(model.surgery["language"].kept) == 16
    proven(model, tmp_path)


def test_pi05_of_18_pairs(tmp_path: Path) -> None:
    model = pi05(tmp_path / "whole")
    report, dropped = cut_to_half(model, 9)
    heads = [item.what for item in report.unloaded]
    assert [name.split(".")[-2] for name in heads] == ["lm_head", "lm_head"]
    assert {item.what for item in report.removed} >= {"language block 17: attention", "language block 17: MLP"}
    assert 17 in dropped
    record = model.surgery["language"]
    assert (len(record.kept), record.without_attention, record.without_mlp) == (18, dropped, dropped)
    proven(model, tmp_path)
