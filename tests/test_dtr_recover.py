# SPDX-License-Identifier: Apache-2.0
"""Recovery learns, resumes, merges its adapters, listens to its teacher, and reports what it did."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from algorithm_factory import batches, demos, policy

from compress.baselines import SCORERS
from compress.costs import flops_share
from compress.dtr.drop import drop
from compress.dtr.lora import adapters
from compress.dtr.recover import REPORT, RecoverError, recover
from compress.dtr.spec import RecoverSpec
from compress.dtr.teacher import distilled_loss
from compress.models.base import ModelError
from compress.models.reference import ReferenceVla
from compress.plan import PlanSpec, make_plan
from compress.settings import SettingsError
from compress.training import TrainingError

SPEC = RecoverSpec(steps=5, batch_size=4, lr=3e-3, warmup=1, ema=0.5, bf16=False, log_every=1, checkpoint_s=0.0)


def pruned() -> ReferenceVla:
    model = policy(depth=3, vision_depth=1)
    drop(model, make_plan(SCORERS["uniform"](model, [], "language", "block"), PlanSpec(drop=1)))
    return model


class PlannedStop(Exception):
    """Ends a run from inside."""


def stop_at(step: int) -> Any:
    def progress(done: int, _total: int, _text: str) -> None:
        if done == step:
            raise PlannedStop

    return progress


@pytest.mark.parametrize("method", ["full", "lora"])
def test_interrupted_recovery_ends_in_the_same_bits(tmp_path: Path, method: str) -> None:
    spec, straight, resumed = replace(SPEC, method=method), pruned(), pruned()
    whole = recover(straight, demos(), spec, tmp_path / "straight")
    with pytest.raises(PlannedStop):
        recover(pruned(), demos(), spec, tmp_path / "cut", progress=stop_at(4))
    again = recover(resumed, demos(), spec, tmp_path / "cut")
    assert (whole.resumed_at, again.resumed_at) == (0, 3)
    assert again.identity_after == whole.identity_after == straight.identity()
    assert again.curve == whole.curve
    assert again.action_error_after == whole.action_error_after


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_frozen_tower_keeps_its_bits_while_the_rest_learns(tmp_path: Path, method: str) -> None:
    model = pruned()
    flags = [p.requires_grad for p in model.module.parameters()]
    before = {name: p.detach().clone() for name, p in model.module.named_parameters()}
    recover(model, demos(), replace(SPEC, method=method, freeze=("vision.siglip",)), tmp_path)
    changed = {n.split(".")[0] for n, p in model.module.named_parameters() if not torch.equal(p, before[n])}
    assert "vision" not in changed
    assert "language" in changed
    assert [p.requires_grad for p in model.module.parameters()] == flags


@pytest.mark.parametrize(("role", "words"), [("language", "lost blocks"), ("vision.dino", "no stack")])
def test_what_cannot_be_frozen_is_refused(tmp_path: Path, role: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        recover(pruned(), demos(), replace(SPEC, freeze=(role,)), tmp_path)


def test_recovery_lowers_the_held_out_loss_and_reports_it(tmp_path: Path) -> None:
    model, seen = pruned(), []
    spec = replace(SPEC, steps=12)
    report = recover(model, demos(), spec, tmp_path, progress=lambda *call: seen.append(call))
    assert report.loss_after < report.loss_before
    assert len(report.action_error_after) == 7
    assert report.held_out_frames == 20  # one episode of six
    assert [call[:2] for call in seen] == [(step, 12) for step in range(1, 13)]
    assert json.loads((tmp_path / REPORT).read_text()) == json.loads(json.dumps(report.to_json()))
    assert report.identity_before == pruned().identity() != report.identity_after
    assert model.surgery["language"].kept == (0, 2)


def test_held_out_episodes_are_never_trained_on(tmp_path: Path) -> None:
    arrays, touched = demos(), []
    _, testing = arrays.split(SPEC.held_out, SPEC.seed)
    names = {arrays.names[int(arrays.episode[i])] for i in testing}

    class Watched(ReferenceVla):
        def loss(self, batch: Any, noise_seed: int = 0) -> torch.Tensor:
            if torch.is_grad_enabled() and self.module.training:
                touched.extend(batch.sample_ids)
            return super().loss(batch, noise_seed)

    model = pruned()
    model.__class__ = Watched
    recover(model, arrays, SPEC, tmp_path)
    assert len(touched) == SPEC.steps * SPEC.batch_size
    assert not {name.rpartition("/")[0] for name in touched} & names


def test_lora_leaves_plain_linear_layers_of_low_rank_change(tmp_path: Path) -> None:
    model = pruned()
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    recover(model, demos(), replace(SPEC, method="lora", lora_rank=2), tmp_path)
    after = model.module.state_dict()
    assert after.keys() == before.keys()
    assert all(p.requires_grad for p in model.module.parameters())
    name = "language.layers.0.mlp.down_proj.weight"
    change = (after[name] - before[name]).double()
    assert torch.linalg.matrix_rank(change, rtol=1e-4) <= 2
    assert change.abs().max() > 0
    assert torch.equal(after["placeholders"], before["placeholders"])


def test_lora_is_taken_out_again_after_an_error() -> None:
    model = pruned()
    before, flags = model.identity(), [p.requires_grad for p in model.module.parameters()]
    with pytest.raises(PlannedStop), adapters(model.module, 2, 0):
        raise PlannedStop
    assert model.identity() == before
    assert [p.requires_grad for p in model.module.parameters()] == flags


def test_lora_starts_as_the_model_it_adapts() -> None:
    model = pruned()
    batch = batches(model, 2, 2)[0]
    before = model.chunk(batch)
    with adapters(model.module, 2, 0):
        assert torch.equal(model.chunk(batch), before)


def test_distillation_adds_the_distance_to_the_teacher() -> None:
    teacher, student = policy(depth=3, vision_depth=1), pruned()
    batch = batches(student, 3, 3)[0]
    distance = (student.predict(batch) - teacher.predict(batch)).abs().mean(-1)
    real = (~batch.pad).float()
    wanted = student.loss(batch).mean() + 2.0 * (distance * real).sum() / real.sum()
    loss = distilled_loss(teacher, 2.0)(student, batch, 0)
    torch.testing.assert_close(loss, wanted)
    loss.backward()
    assert all(p.grad is None for p in teacher.module.parameters())
    torch.testing.assert_close(distilled_loss(student, 2.0)(student, batch, 0), student.loss(batch).mean())


def test_teacher_with_another_kind_of_output_is_refused() -> None:
    student = pruned()
    batch = batches(student, 2, 2)[0]
    odd = policy(depth=1, vision_depth=1)
    odd.loss = lambda *_args, **_kwargs: torch.zeros(2)  # type: ignore[method-assign]
    with pytest.raises(ModelError, match=r"the teacher's head returned \[\] in one loss"):
        distilled_loss(odd, 1.0)(student, batch, 0)


def test_compute_matching_takes_steps_over_flops_share(tmp_path: Path) -> None:
    model = pruned()
    share = flops_share(model, batches(model, 1, 1)[0])
    assert 0.5 < share < 1.0
    report = recover(model, demos(), replace(SPEC, compute_matched=True), tmp_path)
    assert report.flops_share == pytest.approx(share)
    assert report.steps == math.ceil(5 / share) > 5
    assert report.curve[-1]["step"] == report.steps


def test_teacher_and_held_out_frames_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(RecoverError, match=r"heal, distill and features \(False, 1.0, 0.0\) need a teacher"):
        recover(pruned(), demos(), replace(SPEC, distill=1.0), tmp_path)
    with pytest.raises(RecoverError, match="expected at least 500 and 1"):
        recover(pruned(), demos(), replace(SPEC, batch_size=500), tmp_path)


def test_folder_of_another_recovery_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlannedStop):
        recover(pruned(), demos(), SPEC, tmp_path, progress=stop_at(3))
    for other in (replace(SPEC, distill=0.5), replace(SPEC, steps=6)):
        with pytest.raises(TrainingError, match="belongs to another model, data set or recipe"):
            recover(pruned(), demos(), other, tmp_path, teacher=policy(depth=3, vision_depth=1))


def test_settings_out_of_range_are_refused() -> None:
    for wrong in ({"steps": 0}, {"lr": float("nan")}, {"ema": 1.0}, {"held_out": 0.0}):
        with pytest.raises(SettingsError, match=f"`{next(iter(wrong))}` is"):
            replace(SPEC, **wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="method is 'prefix', expected one of: full, lora"):
        replace(SPEC, method="prefix")  # type: ignore[arg-type]
