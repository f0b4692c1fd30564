# SPDX-License-Identifier: Apache-2.0
"""What a teacher adds to recovery: healed cuts, streams to follow, answers that are asked for once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from algorithm_factory import batches, demos, policy
from family_cases import case, samples_for

from compress.dtr.drop import drop
from compress.dtr.heal import cuts, heal
from compress.dtr.recover import recover
from compress.dtr.spec import RecoverSpec
from compress.dtr.teacher import distilled_loss
from compress.models.reference import ReferenceVla
from compress.plan import Plan
from compress.probing import find_group

SPEC = RecoverSpec(steps=4, batch_size=4, lr=3e-3, warmup=1, ema=0.0, bf16=False, log_every=1, checkpoint_s=0.0)


def without(dropped: tuple[int, ...], form: str = "auto", part: str = "block", depth: int = 6) -> ReferenceVla:
    model = policy(depth=depth, vision_depth=1)
    kept = tuple(i for i in range(depth) if i not in dropped)
    rule = {"drop": float(len(dropped))}
    drop(model, Plan("language", part, depth, kept, dropped, "hand", "0" * 64, model.identity(), rule, form=form))
    return model


def whole(depth: int = 6) -> ReferenceVla:
    return policy(depth=depth, vision_depth=1)


@pytest.mark.parametrize("form", ["stub", "compact"])
def test_a_cut_lies_behind_the_last_block_that_writes(form: str) -> None:
    model = without((0, 2, 3, 5), form)
    found = [(c.behind, c.removed, c.teacher) for c in cuts(model, find_group(model, "language"))]
    assert found == [(1, (2, 3), 4), (4, (5,), 6)]  # nothing writes in front of block 0


def test_no_steps_and_healing_is_the_refit_alone(tmp_path: Path) -> None:
    model = without((1, 2, 4))
    report = recover(model, demos(), replace(SPEC, steps=0, heal=True), tmp_path, whole())
    assert (report.steps, report.curve) == (0, ())
    assert report.loss_before != report.loss_healed == report.loss_after
    with pytest.raises(ValueError, match="`steps` is 0 and `heal` is false"):
        replace(SPEC, steps=0)


@pytest.mark.parametrize("form", ["stub", "compact"])
def test_healing_brings_the_stream_behind_every_cut_nearer_to_the_teachers(form: str) -> None:
    model, given = without((1, 2, 4), form), batches(whole(), 24, 4)
    with torch.no_grad():
        before = float(torch.stack([model.loss(b).mean() for b in given]).mean())
    found = heal(model, whole(), given)
    assert [(h.behind, h.removed) for h in found] == [(0, (1, 2)), (3, (4,))]
    assert all(h.error_after < 0.9 * h.error_before and h.ridge > 0.0 for h in found)
    target = whole()
    with torch.no_grad():
        off = [(model.predict(b) - target.predict(b)).abs().mean() for b in given]
        cold = [(without((1, 2, 4), form).predict(b) - target.predict(b)).abs().mean() for b in given]
    assert float(torch.stack(off).mean()) < float(torch.stack(cold).mean())
    assert before > 0.0


def test_a_stream_that_nobody_reads_is_not_healed() -> None:
    """The last language block of pi0 writes for nobody; to fit the stream behind it would spoil the keys before it."""
    model, teacher = case("pi0").make(0), case("pi0").make(0)
    drop(model, Plan("language", "block", 4, (0, 1, 2), (3,), "hand", "0" * 64, model.identity(), {"drop": 1.0}))
    before = model.identity()
    assert cuts(model, find_group(model, "language")) == []
    assert heal(model, teacher, [model.collate(samples_for(model, 2, seed)) for seed in (1, 2)]) == ()
    assert model.identity() == before


def test_healing_leaves_alone_what_it_cannot_better() -> None:
    """A pruned policy that is its own teacher lacks nothing."""
    model = without((2,), "stub")
    before = model.identity()
    (found,) = heal(model, model, batches(model, 8, 4))
    assert (found.ridge, found.error_before, found.error_after) == (0.0, 0.0, 0.0)
    assert model.identity() == before


def test_healing_touches_nothing_but_the_layers_in_front_of_cuts() -> None:
    model = without((2,))
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    heal(model, whole(), batches(model, 8, 4))
    changed = {n for n, v in model.module.state_dict().items() if not torch.equal(v, before[n])}
    assert changed == {"language.layers.1.mlp.down_proj.weight"}
    with pytest.raises(ValueError, match="at least 2"):
        heal(model, whole(), batches(model, 4, 4))


def test_features_are_the_relative_error_of_the_streams_that_both_have() -> None:
    model, teacher = without((1, 2)), whole()
    batch = batches(model, 3, 3)[0]
    streams: dict[str, list[torch.Tensor]] = {}
    for name, policy_, places in (("student", model, (1, 2, 3)), ("teacher", teacher, (3, 4, 5))):
        norms = [policy_.module.language.layers[i].input_layernorm for i in places] + [policy_.module.language.norm]
        seen = streams.setdefault(name, [])
        handles = [n.register_forward_pre_hook(lambda _m, args, kept=seen: kept.append(args[0])) for n in norms]
        policy_.loss(batch)
        for handle in handles:
            handle.remove()
    pairs = zip(streams["student"], streams["teacher"], strict=True)
    wanted = torch.stack([(s - t).square().mean() / t.square().mean() for s, t in pairs]).mean()
    found = distilled_loss(teacher, 0.0, 3.0)(model, batch, 0)
    torch.testing.assert_close(found, model.loss(batch).mean() + 3.0 * wanted)
    found.backward()
    assert model.module.language.layers[0].mlp.down_proj.weight.grad is not None
    assert all(p.grad is None for p in teacher.module.parameters())


def test_a_teacher_without_noise_is_asked_once_per_frame() -> None:
    model, teacher, asked = without((1,)), whole(), []

    class Counted(ReferenceVla):
        def loss(self, batch: object, noise_seed: int = 0) -> torch.Tensor:
            asked.append(noise_seed)
            return super().loss(batch, noise_seed)

    teacher.__class__ = Counted
    loss, batch = distilled_loss(teacher, 1.0), batches(model, 4, 4)[0]
    first, second = loss(model, batch, 0), loss(model, batch, 7)
    assert asked == [0, 1]  # once for the answer, once to learn that it does not depend on the noise
    torch.testing.assert_close(first, second)


def test_a_teacher_with_noise_is_asked_every_time() -> None:
    model, teacher, asked = without((1,)), whole(), []

    class Noisy(ReferenceVla):
        def loss(self, batch: object, noise_seed: int = 0) -> torch.Tensor:
            asked.append(noise_seed)
            self.module.head[3].bias.data.fill_(float(noise_seed))
            return super().loss(batch, noise_seed)

    teacher.__class__ = Noisy
    loss, batch = distilled_loss(teacher, 1.0), batches(model, 4, 4)[0]
    first, second = loss(model, batch, 0), loss(model, batch, 7)
    assert asked == [0, 1, 7]
    assert not torch.allclose(first, second)


def test_recovery_reports_what_was_healed_and_resumes_in_the_same_bits(tmp_path: Path) -> None:
    spec = replace(SPEC, heal=True, distill=0.5, features=0.5)
    straight, resumed = without((1, 2)), without((1, 2))
    report = recover(straight, demos(), spec, tmp_path / "straight", whole())
    assert [cut["removed"] for cut in report.healed] == [(1, 2)]
    assert report.loss_healed is not None
    assert report.teacher_identity == whole().identity()

    class PlannedStop(Exception):
        pass

    def stop(step: int, _total: int, _text: str) -> None:
        if step == 3:
            raise PlannedStop

    with pytest.raises(PlannedStop):
        recover(without((1, 2)), demos(), spec, tmp_path / "cut", whole(), stop)
    again = recover(resumed, demos(), spec, tmp_path / "cut", whole())
    assert again.resumed_at == 2
    assert again.identity_after == report.identity_after
