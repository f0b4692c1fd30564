# SPDX-License-Identifier: Apache-2.0
"""The lossless pass: remove every weight that no action depends on, and prove that nothing changed.

Published checkpoints carry such weights: heads that are never asked, a last language block whose output nobody reads, a
second token table (`reference` numbers: a fifth of LeRobot's pi0). They are found by their gradient, which is exactly
zero for every sample and noise, and they leave only if loss and chunk stay the same to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from compress.models.base import Batch, BlockGroup, ModelError, Surgery, VlaModel
from compress.models.surgery import Hollow, operate
from compress.probing import device_of, quiet, surgery_of

SEEDS = (0, 1)


@dataclass(frozen=True)
class Removed:
    """One thing that left: `what` in words, its tensors' elements and bytes."""

    what: str
    elements: int
    bytes: int


@dataclass(frozen=True)
class TrimReport:
    """What the lossless pass did.

    Attributes:
        removed: what left, in the order of the network.
        unloaded: what the published checkpoint holds and this network never needed.
        kept: tensors without any gradient that could not leave: the outputs changed, or their owner is needed.
        elements_before, elements_after: parameters of the published checkpoint, and of the model now.
        bytes_saved: by `removed`.
        samples: observations whose loss and chunk are the same to the bit.
    """

    removed: tuple[Removed, ...]
    unloaded: tuple[Removed, ...]
    kept: tuple[str, ...]
    elements_before: int
    elements_after: int
    bytes_saved: int
    samples: int

    @property
    def share(self) -> float:
        """Part of the published checkpoint's parameters that left."""
        return 1.0 - self.elements_after / self.elements_before

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "share": self.share}


def trim(model: VlaModel, batches: Sequence[Batch]) -> TrimReport:
    """Remove, in place, what cannot affect the action.

    Args:
        model: unpruned; stubbed and hollowed in place, and its record of surgery extended.
        batches: observations with actions, of any content; more of them make a chance zero less likely.

    Raises:
        ModelError: no batches, or the outputs changed (the model is then not to be used).
    """
    if not batches:
        raise ModelError("the lossless pass needs at least one batch to look at")
    here = [batch.to(device_of(model.module)) for batch in batches]
    unloaded = tuple(Removed(name, size, 0) for name, size in sorted(model.unloaded.items()))
    before = _elements(model.module) + sum(item.elements for item in unloaded)
    wanted = _outputs(model, here)
    dead = dead_tensors(model, here)
    removed = [*_stub(model, dead), *_hollow(model, dead, here[:1])]
    if any(not torch.equal(a, b) for a, b in zip(_outputs(model, here), wanted, strict=True)):
        raise ModelError(f"{model.family}: the outputs changed although only weights without gradient left; a defect")
    left = set(dict(model.module.named_parameters()))
    return TrimReport(
        removed=tuple(removed),
        unloaded=unloaded,
        kept=tuple(sorted(dead & left)),
        elements_before=before,
        elements_after=_elements(model.module),
        bytes_saved=sum(item.bytes for item in removed),
        samples=sum(map(len, here)),
    )


def dead_tensors(model: VlaModel, batches: Sequence[Batch]) -> set[str]:
    """Names of the parameters whose gradient is absent or exactly zero for every batch and noise seed."""
    named = dict(model.module.named_parameters())
    alive: set[str] = set()
    with quiet(model.module, named.values()), torch.enable_grad():
        for seed in SEEDS:
            for batch in batches:
                found = torch.autograd.grad(model.loss(batch, seed).sum(), list(named.values()), allow_unused=True)
                alive |= {n for n, g in zip(named, found, strict=True) if g is not None and bool(g.any())}
    return set(named) - alive


def _stub(model: VlaModel, dead: set[str]) -> Iterator[Removed]:
    """Writers of blocks all of whose weights are dead."""
    wanted: dict[str, Surgery] = dict(model.surgery)
    for group in model.groups:
        done = surgery_of(model, group)
        attention, mlp = set(done.without_attention), set(done.without_mlp)
        for index, (original, block) in enumerate(zip(done.kept, group.stack(model.module), strict=True)):
            root = f"{group.blocks}.{index}."
            for part, gone, paths in _writers(group, attention, mlp):
                names = {n for path in paths for n, _ in _named(block.get_submodule(path), f"{root}{path}.")}
                if original not in gone and names and names <= dead:
                    gone.add(original)
                    sizes = [p for n, p in model.module.named_parameters() if n in names]
                    yield _removed(f"{group.role} block {original}: {part}", sizes)
        wanted[group.role] = Surgery(done.depth, done.kept, tuple(sorted(attention)), tuple(sorted(mlp)))
        if wanted[group.role] != done:
            operate(model.module, group, done, wanted[group.role])
    if wanted != dict(model.surgery):
        model.record_surgery(wanted)


def _writers(
    group: BlockGroup, attention: set[int], mlp: set[int]
) -> tuple[tuple[str, set[int], tuple[str, ...]], ...]:
    own = (f"{group.attention}.q_proj", f"{group.attention}.o_proj") if group.shared_kv else (group.attention,)
    return ("attention", attention, own), ("MLP", mlp, (group.mlp,))


def _hollow(model: VlaModel, dead: set[str], batches: Sequence[Batch]) -> Iterator[Removed]:
    """Submodules all of whose weights are dead, outermost first, one by one, each put back if the outputs notice."""
    wanted = _outputs(model, batches)
    for path in list(_candidates(model.module, "", dead)):
        parent, _, name = path.rpartition(".")
        holder = model.module.get_submodule(parent)
        owner = holder.get_submodule(name)
        sizes = list(owner.parameters())
        setattr(holder, name, Hollow())
        if _same(model, batches, wanted):
            model.record_hollow((_original(model, path),))
            yield _removed(path, sizes)
        else:
            setattr(holder, name, owner)


def _candidates(module: nn.Module, path: str, dead: set[str]) -> Iterator[str]:
    for name, child in module.named_children():
        here = f"{path}{name}"
        names = {n for n, _ in _named(child, f"{here}.")}
        if names and names <= dead:
            yield here
        elif names & dead:
            yield from _candidates(child, f"{here}.", dead)


def _original(model: VlaModel, path: str) -> str:
    """The path in the whole network: block numbers before any removal."""
    for group in model.groups:
        if path.startswith(f"{group.blocks}."):
            number, _, rest = path[len(group.blocks) + 1 :].partition(".")
            return f"{group.blocks}.{surgery_of(model, group).kept[int(number)]}.{rest}".rstrip(".")
    return path


def _same(model: VlaModel, batches: Sequence[Batch], wanted: Sequence[Tensor]) -> bool:
    try:
        return all(torch.equal(a, b) for a, b in zip(_outputs(model, batches), wanted, strict=True))
    except (AttributeError, TypeError, RuntimeError, ValueError, IndexError):
        return False  # the owner is more than its weights: somebody reads its attributes or the form of its output


def _outputs(model: VlaModel, batches: Sequence[Batch]) -> list[Tensor]:
    with torch.no_grad(), quiet(model.module):
        return [value for batch in batches for value in (model.loss(batch, 0), model.chunk(batch, 0))]


def _named(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Parameter]]:
    return ((f"{prefix}{name}", parameter) for name, parameter in module.named_parameters())


def _removed(what: str, tensors: Sequence[Tensor]) -> Removed:
    return Removed(what, sum(t.numel() for t in tensors), sum(t.numel() * t.element_size() for t in tensors))


def _elements(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
