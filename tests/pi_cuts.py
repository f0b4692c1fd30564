# SPDX-License-Identifier: Apache-2.0
"""Cuts of pi0 and pi0.5, and what must hold of the weights that they leave without effect."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from family_cases import samples_for

from compress.dtr.drop import drop
from compress.models.base import Batch, Surgery
from compress.models.pi0_policy import PiPolicy
from compress.models.surgery import operate
from compress.plan import Plan


def batch_of(model: PiPolicy, count: int = 3) -> Batch:
    return model.collate(samples_for(model, count))


def stub(model: PiPolicy, role: str, attention: tuple[int, ...], mlp: tuple[int, ...]) -> None:
    group = next(g for g in model.groups if g.role == role)
    done = model.surgery[role]
    wanted = Surgery(done.depth, done.kept, attention, mlp)
    operate(model.module, group, done, wanted)
    model.record_surgery({**model.surgery, role: wanted})


def pairs(model: PiPolicy, dropped: Iterable[int]) -> None:
    """Take pairs out of both lists, by a plan; `dropped` counts blocks of the whole network."""
    gone = tuple(dropped)
    depth, left = model.surgery["language"].depth, model.surgery["language"].kept
    kept = tuple(i for i in left if i not in gone)
    drop(model, Plan("language+action", "block", depth, kept, gone, "by hand", "", model.identity(), {"drop": 1}))


def whole(model: PiPolicy) -> None:
    """Nothing is cut."""


def language_tail(model: PiPolicy) -> None:
    stub(model, "language", (2, 3), (2,))


def expert_tail(model: PiPolicy) -> None:
    """Nobody attends to the last two language blocks any more."""
    stub(model, "action", (2, 3), (3,))


def both_tails(model: PiPolicy) -> None:
    stub(model, "action", (3,), ())
    stub(model, "language", (2,), (2,))
    stub(model, "vision.siglip", (0,), (1,))


def a_pair(model: PiPolicy) -> None:
    pairs(model, [3])


CUTS: tuple[Callable[[PiPolicy], None], ...] = (whole, language_tail, expert_tail, both_tails, a_pair)


def check_dead_weights(model: PiPolicy) -> None:
    """Dead are exactly the tensors without gradient, and none of their values matters."""
    batch = batch_of(model)
    model.loss(batch, 3).sum().backward()
    silent = {n for n, p in model.module.named_parameters() if p.grad is None or not p.grad.any()}
    assert set(model.dead_weights) == silent
    before, loss = model.chunk(batch), model.loss(batch, 3).detach()
    state = model.module.state_dict()
    assert all(state[name].numel() == count for name, count in model.dead_weights.items())
    for name in model.dead_weights:
        state[name].normal_()
    assert torch.equal(model.chunk(batch), before)
    assert torch.equal(model.loss(batch, 3).detach(), loss)
