# SPDX-License-Identifier: Apache-2.0
"""Leave one out: the action loss without a block, minus the loss with it. The oracle that GateProbe estimates.

Naively every block costs a forward pass of the whole model. The prefix cache removes what cannot have changed: modules
that ran before the stack and blocks below the one left out answer with what they returned in the first pass; everything
from that block on runs for real, on the same tensors, so both ways give the same bits (checked on the first batch).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from compress.models.base import Batch, BlockGroup, VlaModel
from compress.models.surgery import ZeroAttention, ZeroMlp
from compress.probing import Probe, find_group, require_finite
from compress.scores import Progress, ScoreError, Scores


def leave_one_out(
    model: VlaModel,
    batches: Iterable[Batch],
    role: str,
    part: str,
    progress: Progress | None = None,
    cached: bool = True,
) -> Scores:
    """Mean loss increase per block when that block alone is gone; may be negative.

    Args:
        model: left as it was.
        batches: calibration batches.
        role, part: what is left out.
        progress: called with batches done, batches in all (0 if unknown) and a text.
        cached: reuse what runs before the block; off, every block costs a whole forward pass. Always off where other
            stacks read this one's keys and values: a block that is not run leaves none behind.

    Raises:
        ScoreError: a loss is NaN or infinite, or the cache does not reproduce the model.
    """
    group = find_group(model, role)
    cached = cached and not group.shared_kv

    def measure(batch: Batch, number: int) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            if cached:
                base, losses = cached_losses(model, group, part, batch, number, check=number == 0)
            else:
                base, losses = naive_losses(model, group, part, batch, number)
        rounding = torch.finfo(base.dtype).eps * base.abs()
        return (losses - base).T, rounding[:, None].expand(-1, len(losses))

    return Probe("loo", model, batches, role, part, progress, extra={"prefix_cached": cached}).run(measure)


def naive_losses(
    model: VlaModel, group: BlockGroup, part: str, batch: Batch, noise_seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Loss (B,) of the whole model, and (blocks, B) of the model without each block: one full forward pass each."""
    base = model.loss(batch, noise_seed)
    require_finite(base, batch, "action loss")
    losses = []
    for block in group.stack(model.module):
        with silenced(group, block, part):
            losses.append(model.loss(batch, noise_seed))
    return base, torch.stack(losses)


def cached_losses(
    model: VlaModel, group: BlockGroup, part: str, batch: Batch, noise_seed: int = 0, check: bool = False
) -> tuple[Tensor, Tensor]:
    """The same as `naive_losses`; only block i and what follows it runs anew.

    Raises:
        ScoreError: with `check`, replaying does not give the model's own loss.
    """
    blocks = list(group.stack(model.module))
    with recorded(model.module, group) as returned:
        base = model.loss(batch, noise_seed)
    require_finite(base, batch, "action loss")
    if any(block not in returned for block in blocks):
        raise ScoreError(
            f"{group.role}: blocks are not called as modules, nothing can be cached; use leave_one_out(cached=False)"
        )
    upstream = {module: outputs for module, outputs in returned.items() if module not in blocks}
    losses = []
    for index, block in enumerate(blocks):
        done = {earlier: returned[earlier] for earlier in blocks[:index]}
        with replayed({**upstream, **done}), silenced(group, block, part):
            losses.append(model.loss(batch, noise_seed))
    if check:
        with silenced(group, blocks[-1], part):
            wanted = model.loss(batch, noise_seed)
        if not torch.equal(wanted, losses[-1]):
            raise ScoreError(
                f"{group.role}: a module before the stack keeps state between calls; use leave_one_out(cached=False)"
            )
    return base, torch.stack(losses)


@contextmanager
def silenced(group: BlockGroup, block: nn.Module, part: str) -> Iterator[None]:
    """While open, the block's writers (or one of them) write zero: the block is gone, exactly."""
    with ExitStack() as undo:
        if part in ("block", "attention") and group.shared_kv:  # keys and values stay, as they do in a stub
            output = block.get_submodule(f"{group.attention}.o_proj")
            undo.enter_context(_answering(output, lambda x: x.new_zeros(*x.shape[:-1], output.out_features)))
        elif part in ("block", "attention"):
            undo.enter_context(_answering(getattr(block, group.attention), ZeroAttention().forward))
        if part in ("block", "mlp"):
            undo.enter_context(_answering(getattr(block, group.mlp), ZeroMlp().forward))
        yield


@contextmanager
def recorded(module: nn.Module, group: BlockGroup) -> Iterator[dict[nn.Module, list[Any]]]:
    """While open, the dict collects what the blocks return, and what modules that run before them only return."""
    blocks = list(group.stack(module))
    outputs: dict[nn.Module, list[Any]] = {}
    late: set[nn.Module] = set()

    def note(caller: nn.Module, _args: Any, output: Any) -> None:
        if caller not in blocks and blocks[0] in started:
            late.add(caller)
        outputs.setdefault(caller, []).append(output)

    started: set[nn.Module] = set()
    watched = [*blocks, *_beside(module, group)]
    handles = [child.register_forward_hook(note) for child in watched]
    handles.append(blocks[0].register_forward_pre_hook(lambda first, _args: started.add(first)))
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
    for caller in late:
        del outputs[caller]


@contextmanager
def replayed(answers: dict[nn.Module, list[Any]]) -> Iterator[None]:
    """While open, these modules return what they returned before, call by call, without computing."""
    with ExitStack() as undo:
        for module, outputs in answers.items():
            calls = iter(outputs)
            undo.enter_context(_answering(module, lambda *_args, _calls=calls, **_kwargs: next(_calls)))
        yield


@contextmanager
def _answering(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Shadow `module.forward` on the instance; hooks and the class stay as they are."""
    before = module.__dict__.get("forward")
    module.__dict__["forward"] = forward
    try:
        yield
    finally:
        if before is None:
            del module.__dict__["forward"]
        else:
            module.__dict__["forward"] = before


def _beside(module: nn.Module, group: BlockGroup) -> list[nn.Module]:
    """Every module that neither holds the stack nor lies in it, as high up in the tree as possible."""
    path = group.blocks.split(".")
    holders = [module.get_submodule(".".join(path[:depth])) for depth in range(len(path))]
    return [
        child
        for holder, inner in zip(holders, path, strict=True)
        for name, child in holder.named_children()
        if name != inner
    ]
