# SPDX-License-Identifier: Apache-2.0
"""Healing: before any training step, refit the last linear layer in front of each cut in closed form.

Where a run of blocks left, the stream that enters the next kept block lacks what they added. The MLP that writes to the
stream just before the cut has a linear output layer; ridge regression on calibration states changes its weights so that
the stream comes as near as it can to the unpruned policy's. Nothing is added to the network, and nothing costs time at
inference. (LLM-Streamline, arXiv 2403.19135, trains a small network in place of the run; here it is a refit of what is
there.) Cuts are healed from the bottom up, so each one also mends what is left of those below it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compress.models.base import Batch, BlockGroup, VlaModel
from compress.probing import device_of, quiet, surgery_of

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # times the mean diagonal of the normal equations


@dataclass(frozen=True)
class Healed:
    """One cut.

    Attributes:
        role: the stack.
        behind: original index of the block whose MLP was refitted.
        removed: original indices of the run that left.
        ridge: the regularisation that did best on the batches kept aside, 0 where none of them helped.
        error_before, error_after: of the stream behind the cut against the unpruned policy's, relative, on the batches
            that were kept aside.
    """

    role: str
    behind: int
    removed: tuple[int, ...]
    ridge: float
    error_before: float
    error_after: float


@dataclass(frozen=True)
class Cut:
    """Where both stacks should agree: on entering positions `student` and `teacher` of their lists."""

    behind: int
    removed: tuple[int, ...]
    writer: int
    student: int
    teacher: int


def heal(model: VlaModel, teacher: VlaModel, batches: Sequence[Batch]) -> tuple[Healed, ...]:
    """Refit in front of every cut of `model`, in place.

    Args:
        model: pruned.
        teacher: the policy it was cut from.
        batches: calibration batches, two or more; every other one is kept aside to choose the ridge.

    Raises:
        ValueError: fewer than two batches.
    """
    if len(batches) < 2:
        raise ValueError(f"healing needs at least 2 calibration batches, found {len(batches)}")
    found = []
    with torch.no_grad(), quiet(model.module), quiet(teacher.module):
        for group in model.groups:
            for cut in cuts(model, group):
                found.append(_refit(model, teacher, group, cut, batches))
    return tuple(found)


def cuts(model: VlaModel, group: BlockGroup) -> list[Cut]:
    """Every run of blocks that wrote to the stream and no longer does, behind a block that still does.

    Where only keys and values are read, nobody reads the stream behind the last block: a run at the end is no cut.
    """
    record = surgery_of(model, group)
    silent = set(record.without_attention) & set(record.without_mlp)
    live = [index for index in record.kept if index not in silent and index not in record.without_mlp]
    found = []
    for number, block in enumerate(live):
        following = live[number + 1] if number + 1 < len(live) else record.depth
        removed = tuple(i for i in range(block + 1, following) if i not in record.kept or i in silent)
        end = removed[-1] + 1 if removed else block + 1
        if removed and removed[0] == block + 1 and not (group.shared_kv and end == record.depth):
            student = next((p for p, i in enumerate(record.kept) if i >= end), len(record.kept))
            found.append(Cut(block, removed, record.kept.index(block), student, end))
    return found


def _refit(model: VlaModel, teacher: VlaModel, group: BlockGroup, cut: Cut, batches: Sequence[Batch]) -> Healed:
    writer = _writer(group, group.stack(model.module)[cut.writer])
    halves = [_states(model, teacher, group, cut, writer, batches[start::2]) for start in (0, 1)]
    (inputs, missing, _), (test_inputs, test_missing, test_target) = halves
    size = float(test_target.norm())
    before = float(test_missing.norm()) / size
    normal, right = inputs.T @ inputs, inputs.T @ missing
    level = float(normal.diagonal().mean())
    best, change = (before, 0.0), torch.zeros_like(right)
    for ridge in RIDGES:
        found = torch.linalg.solve(normal + ridge * level * torch.eye(len(normal), dtype=normal.dtype), right)
        error = float((test_missing - test_inputs @ found).norm()) / size
        if error < best[0]:
            best, change = (error, ridge), found
    update = change.T.to(writer.weight.device, torch.float32)
    writer.weight.copy_((writer.weight.float() + update[:, : writer.in_features]).to(writer.weight.dtype))
    if writer.bias is not None:
        writer.bias.copy_((writer.bias.float() + update[:, -1]).to(writer.bias.dtype))
    return Healed(group.role, cut.behind, cut.removed, best[1], before, best[0])


def _writer(group: BlockGroup, block: nn.Module) -> nn.Linear:
    """The linear layer by which a block's MLP writes to the stream: the last one it holds."""
    return [child for child in block.get_submodule(group.mlp).modules() if isinstance(child, nn.Linear)][-1]


def _states(
    model: VlaModel, teacher: VlaModel, group: BlockGroup, cut: Cut, writer: nn.Linear, batches: Sequence[Batch]
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows (N, F) that enter the writer, what is missing in the stream behind the cut (N, W), and the wanted stream."""
    rows: list[list[Tensor]] = [[], [], []]
    for number, batch in enumerate(batches):
        here = batch.to(device_of(model.module))
        with _entering(_reader(model, group, cut.student)) as own, _entering(writer) as features:
            model.loss(here, number)
        with _entering(_reader(teacher, group, cut.teacher)) as wanted:
            teacher.loss(here, number)
        x, s, t = (
            torch.cat([state.flatten(0, -2) for state in states]).cpu().double() for states in (features, own, wanted)
        )
        if writer.bias is not None:
            x = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], dim=1)
        for held, value in zip(rows, (x, t - s, t), strict=True):
            held.append(value)
    inputs, missing, wanted_rows = (torch.cat(held) for held in rows)
    return inputs, missing, wanted_rows


def _reader(model: VlaModel, group: BlockGroup, position: int) -> nn.Module:
    """The norm that the stream enters at `position` of the list."""
    stack = group.stack(model.module)
    if position == len(stack):
        return model.module.get_submodule(group.after)
    norm: nn.Module = getattr(stack[position], group.input_norm)
    return norm


@contextmanager
def _entering(module: nn.Module) -> Iterator[list[Tensor]]:
    """While open, collect the first argument of every call of `module`."""
    seen: list[Tensor] = []

    def read(_module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        seen.append((args[0] if args else next(iter(kwargs.values()))).detach())

    handle = module.register_forward_pre_hook(read, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()
