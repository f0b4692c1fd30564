# SPDX-License-Identifier: Apache-2.0
"""Probing leaves nothing behind, also when it fails, and names what it cannot accept."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from algorithm_factory import batches, policy
from torch import nn

from compress.baselines import SCORERS, scorer
from compress.gateprobe import probe
from compress.models.base import Batch, ModelError
from compress.models.reference import ReferenceVla
from compress.scores import ScoreError


def traces(model: ReferenceVla) -> list[Any]:
    """Everything a careless probe would change."""
    state: list[Any] = []
    for name, module in model.module.named_modules():
        hooks = len(module._forward_pre_hooks) + len(module._forward_hooks) + len(module._backward_hooks)
        state.append((name, hooks, module.training, "forward" in module.__dict__))
    for name, p in model.module.named_parameters():
        state.append((name, p.requires_grad, p.grad is None, p._version))
    return state


@pytest.mark.parametrize("metric", sorted(SCORERS))
@pytest.mark.parametrize("part", ["block", "mlp"])
def test_scoring_leaves_the_model_as_it_was(metric: str, part: str) -> None:
    model = policy(depth=2, vision_depth=2)
    model.module.train()
    model.module.head[1].eval()
    next(iter(model.module.parameters())).requires_grad_(False)
    given = batches(model, 2, 2)
    before, outputs, identity = traces(model), model.chunk(given[0]), model.identity()
    SCORERS[metric](model, given, "language", part)
    assert traces(model) == before
    assert torch.equal(model.chunk(given[0]), outputs)
    assert model.identity() == identity


@pytest.mark.parametrize("metric", ["gateprobe", "cosine", "taylor", "fisher", "loo"])
def test_nothing_stays_behind_after_an_error(metric: str) -> None:
    model = policy(depth=2, vision_depth=1)
    given, before = batches(model, 2, 2), traces(model)
    fail = model.module.head.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("planted")))
    with pytest.raises(RuntimeError, match="planted"):
        SCORERS[metric](model, given, "language", "block")
    fail.remove()
    assert traces(model) == before


@pytest.mark.parametrize("metric", ["gateprobe", "taylor", "fisher", "loo"])
def test_nan_sample_is_named_and_the_good_one_is_not(metric: str) -> None:
    model = policy(depth=2, vision_depth=1)
    batch = batches(model, 2, 2)[0]
    actions = batch.actions.clone()
    actions[1, 0, 0] = torch.nan
    with pytest.raises(ScoreError, match=batch.sample_ids[1]) as caught:
        SCORERS[metric](model, [replace(batch, actions=actions)], "language", "block")
    assert batch.sample_ids[0] not in str(caught.value)


def test_infinite_gradient_is_named() -> None:
    model = policy(depth=2, vision_depth=1)
    batch = batches(model, 2, 2)[0]
    model.module.head[0].register_full_backward_hook(lambda _m, g, _o: (g[0] * torch.inf,))
    with pytest.raises(ScoreError, match="NaN or infinity in the gateprobe scores"):
        probe(model, [batch])


def test_unknown_names_are_refused() -> None:
    model = policy(depth=2, vision_depth=1)
    given = batches(model, 2, 2)
    with pytest.raises(ModelError, match=r"no stack 'vision'; it has: language, vision\.siglip"):
        probe(model, given, "vision")
    with pytest.raises(ScoreError, match="part is 'head', expected one of: block, attention, mlp"):
        probe(model, given, part="head")
    with pytest.raises(ScoreError, match="metric is 'luck', expected one of: gateprobe, uniform"):
        scorer("luck")


def test_no_samples_and_a_sample_twice_are_refused() -> None:
    model = policy(depth=2, vision_depth=1)
    batch = batches(model, 2, 2)[0]
    with pytest.raises(ScoreError, match="no calibration samples"):
        probe(model, [])
    with pytest.raises(ScoreError, match="occur twice"):
        probe(model, [batch, batch])


class Mixing(ReferenceVla):
    """Samples are not independent: each sees the batch mean, as with batch norm."""

    def loss(self, batch: Batch, noise_seed: int = 0) -> torch.Tensor:
        own = super().loss(batch, noise_seed)
        return own + own.mean()


def test_samples_that_mix_are_refused() -> None:
    model = policy(depth=2, vision_depth=1)
    model.__class__ = Mixing
    with pytest.raises(ScoreError, match="probe with batch size 1"):
        probe(model, batches(model, 2, 2))
    assert len(probe(model, batches(model, 2, 1)).values) == 2


def test_stream_changed_in_place_is_refused() -> None:
    model = policy(depth=2, vision_depth=1)

    class InPlace(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.inner(hidden_states)
            with torch.no_grad():
                hidden_states.add_(1.0)
            return out

    model.module.language.layers[1].input_layernorm = InPlace(model.module.language.layers[1].input_layernorm)
    with pytest.raises(ScoreError, match="in place"):
        SCORERS["cosine"](model, batches(model, 2, 2), "language", "block")


def test_norm_that_is_never_called_is_refused() -> None:
    model = policy(depth=2, vision_depth=1)
    unread = replace(model.groups[0], mid_norm="unread")
    for block in model.module.language.layers:
        block.unread = nn.Identity()
    model.__class__ = type("Renamed", (ReferenceVla,), {"groups": property(lambda _self: (unread,))})
    with pytest.raises(ScoreError, match="were not called by the loss"):
        probe(model, batches(model, 2, 2), part="attention")


def test_loss_that_ignores_the_stack_is_refused() -> None:
    class Blind(ReferenceVla):
        def loss(self, batch: Batch, noise_seed: int = 0) -> torch.Tensor:
            return super().loss(batch, noise_seed).detach()

    model = policy(depth=2, vision_depth=1)
    model.__class__ = Blind
    with pytest.raises(ScoreError, match="does not depend on this stack"):
        probe(model, batches(model, 2, 2))
