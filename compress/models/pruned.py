# SPDX-License-Identifier: Apache-2.0
"""Published checkpoints that were trained without some blocks and do not say which: the list is given, and checked.

Tensors of what was removed may be there, unused; then nothing in the file confirms the list. They may be absent; then
every writer must agree with it. Or the blocks that stayed may have new numbers; then their count must agree.

An adapter takes part by a classmethod `published(folder, depths)`: a whole network without weights, and the published
tensors by the names that they have in it. One without it reads such a folder as far as its own `load` can.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from compress.models.base import BlockGroup, ModelError, Surgery, VlaModel
from compress.models.checkpoint import fill, is_own, restore
from compress.models.pruned_tensors import ATTENTION, MLP, compare, numbers_of, told_by, unread_norms, without_removed
from compress.models.registry import adapter, checkpoint_path
from compress.models.surgery import operate

HELD = {
    "present": "the tensors of what was removed are there and were left out: nothing in the file confirms the list",
    "absent": "the tensors of what was removed are absent, exactly as the list says",
    "renumbered": "the blocks that stayed have new numbers: their count is all that confirms the list",
    "listed": "the checkpoint's own configuration says what was removed",
    "whole": "nothing was removed",
}


@dataclass(frozen=True)
class Cut:
    """What is said to have left one stack; indices of the whole stack, from 0. Raises ModelError.

    Attributes:
        role: the stack.
        keep: the blocks that stayed, or None where the other two lists say what left.
        drop_attention, drop_mlp: blocks without attention, and without MLP.
        depth: of the whole stack; None: as the tensors and the lists tell.
    """

    role: str = "language"
    keep: tuple[int, ...] | None = None
    drop_attention: tuple[int, ...] = ()
    drop_mlp: tuple[int, ...] = ()
    depth: int | None = None

    def __post_init__(self) -> None:
        if (self.keep is None) == (not self.drop_attention and not self.drop_mlp):
            raise ModelError("give either the blocks that stayed, or the blocks without attention and without MLP")
        for blocks in (self.keep or (), self.drop_attention, self.drop_mlp):
            if len(set(blocks)) != len(blocks) or any(block < 0 for block in blocks):
                raise ModelError(f"block list {list(blocks)}: expected different indices from 0")
        top = max(self.named, default=-1)
        if self.keep == () or (self.depth is not None and top >= self.depth):
            raise ModelError(f"blocks {sorted(self.named)} of {self.depth}: expected at least one, all below the depth")

    @property
    def named(self) -> set[int]:
        """Every index in the lists."""
        return {*(self.keep or ()), *self.drop_attention, *self.drop_mlp}

    def gone(self, depth: int) -> dict[str, set[int]]:
        """Blocks without attention, and without MLP, of `depth`."""
        if self.keep is None:
            return {ATTENTION: set(self.drop_attention), MLP: set(self.drop_mlp)}
        left = set(range(depth)) - set(self.keep)
        return {ATTENTION: left, MLP: set(left)}

    def surgery(self, group: BlockGroup, depth: int) -> Surgery:
        """The same as a record: whole blocks leave the list where the stack allows it, the rest are stubs."""
        gone = self.gone(depth)
        both, kept = gone[ATTENTION] & gone[MLP], set(range(depth))
        if len(both) == depth:
            raise ModelError(f"{self.role}: the list leaves none of {depth} blocks")
        units = {block // group.unit for block in both}
        whole = all(block in both for block in kept if block // group.unit in units)
        if group.compact and whole and not both & group.pinned:
            kept -= both
        return Surgery(depth, *(tuple(sorted(blocks)) for blocks in (kept, gone[ATTENTION] & kept, gone[MLP] & kept)))


@dataclass(frozen=True)
class Imported:
    """A policy with its record of surgery, and how the checkpoint held what was removed (a key of `HELD`)."""

    model: VlaModel
    role: str
    held: str

    @property
    def surgery(self) -> Surgery:
        """Of that stack."""
        return self.model.surgery[self.role]


def import_pruned(family: str, checkpoint: str | Path, cut: Cut | None) -> Imported:
    """Read a published pruned checkpoint.

    Args:
        family: the adapter.
        checkpoint: its folder, as published.
        cut: what its publisher says was removed; None: only its own configuration can say.

    Raises:
        ModelError: the list is missing or contradicts the tensors (the first such tensor is named), or the folder
            cannot be read.
        compress.models.registry.UnknownFamilyError: see there.
    """
    folder = checkpoint_path(family, str(checkpoint))
    if is_own(folder):
        raise ModelError(f"{folder} is DropGate's own checkpoint, which says itself what was removed: use it as it is")
    reader = adapter(family)
    if hasattr(reader, "published"):
        return _by_tensors(reader, folder, cut)
    return _by_loading(reader.load(folder), folder, cut)


def _by_tensors(reader: Any, folder: Path, cut: Cut | None) -> Imported:
    model, tensors = _opened(reader, folder, cut)
    group = _group(model, "language" if cut is None else cut.role)
    expected = model.module.state_dict()
    if cut is None:
        raise ModelError(_question(folder, told_by(expected, tensors, model.groups)))
    depth = _depth(model, group, cut, folder)
    surgery, numbers = cut.surgery(group, depth), numbers_of(tensors, group)
    if _renumbered(cut, group, depth, numbers, folder):
        held, rest = "renumbered", dict(tensors)
    else:
        held = compare(expected, tensors, group, cut.gone(depth), folder)
        rest = without_removed(expected, tensors, group, cut.gone(depth), surgery, folder)
    restore(model.module, (group,), {cut.role: surgery})
    rest |= unread_norms(model.module.state_dict(), rest, group, surgery)
    fill(model.module, rest, folder)
    model.record_surgery({**model.surgery, cut.role: surgery})
    return Imported(model, cut.role, held)


def _by_loading(model: VlaModel, folder: Path, cut: Cut | None) -> Imported:
    """Where the adapter cannot leave tensors out: the folder lists what left, or holds every tensor."""
    listed = {role: record for role, record in model.surgery.items() if record != Surgery.none(record.depth)}
    if cut is None and not listed:
        raise ModelError(_question(folder, [f"every tensor of {', '.join(g.role for g in model.groups)} is there"]))
    role = next(iter(listed)) if cut is None else cut.role
    group = _group(model, role)
    if cut is None:
        return Imported(model, role, "listed")
    done = model.surgery.get(role, Surgery.none(len(group.stack(model.module))))
    wanted = cut.surgery(group, _depth(model, group, cut, folder))
    if listed and wanted != done:
        raise ModelError(f"{folder}: its configuration says {role} is {done}, the list says {wanted}")
    if not listed:
        operate(model.module, group, done, wanted)
        model.record_surgery({**model.surgery, role: wanted})
    return Imported(model, role, "listed" if listed else "present")


def _depth(model: VlaModel, group: BlockGroup, cut: Cut, folder: Path) -> int:
    """Of the whole stack, as the network has it; the list must not contradict it."""
    done = model.surgery.get(group.role, Surgery.none(len(group.stack(model.module))))
    if cut.depth not in (None, done.depth) or max(cut.named) >= done.depth:
        said = f"--depth {cut.depth}" if cut.depth else f"block {max(cut.named)}"
        raise ModelError(f"{folder}: {group.role} has blocks 0 to {done.depth - 1}, the list says {said}")
    return done.depth


def _opened(reader: Any, folder: Path, cut: Cut | None) -> tuple[VlaModel, dict[str, Tensor]]:
    """The adapter's network, of the depth that tensors and lists tell together."""
    seen: dict[str, set[int]] = {}

    def depth_of(role: str, numbers: set[int]) -> int:
        seen[role] = numbers
        if cut is not None and role == cut.role:
            return cut.depth or max(numbers | cut.named, default=-1) + 1
        return max(numbers, default=-1) + 1

    try:
        model, tensors = reader.published(folder, depth_of)
    except ModelError as error:
        there = seen.get(cut.role, set()) if cut is not None else set()
        beyond = sorted(cut.named - set(range(max(there) + 1))) if cut is not None and there else []
        if not beyond:
            raise
        raise ModelError(
            f"{folder}: the list names blocks {beyond}, the tensors end at {max(there)}: {error}"
        ) from error
    return model, tensors


def _renumbered(cut: Cut, group: BlockGroup, depth: int, numbers: set[int], folder: Path) -> bool:
    """Whether the tensors count the kept blocks anew; the list must then be complete and of the same length."""
    if len(numbers) >= depth or numbers != set(range(len(numbers))) or cut.keep is None or set(cut.keep) <= numbers:
        return False
    if len(cut.keep) != len(numbers):
        raise ModelError(
            f"{folder}: the list keeps {len(cut.keep)} blocks of {cut.role}, the tensors are of {len(numbers)}"
        )
    if cut.depth is None:
        raise ModelError(
            f"{folder}: {cut.role} holds blocks 0 to {len(numbers) - 1}, the list keeps block {max(cut.keep)}: if the "
            "blocks that stayed were given new numbers, say how many there were (--depth)"
        )
    if not group.compact:
        raise ModelError(
            f"{folder}: {cut.role} holds {len(numbers)} blocks of {depth}, but other stacks read its slots, so that "
            "none can be missing: a policy that is shallower in both is read as it is, without an import"
        )
    return True


def _group(model: VlaModel, role: str) -> BlockGroup:
    for group in model.groups:
        if group.role == role:
            return group
    raise ModelError(f"{model.family} has no stack {role!r}; it has: {', '.join(g.role for g in model.groups)}")


def _question(folder: Path, told: Sequence[str]) -> str:
    return (
        f"{folder}: which blocks were removed is not written in this checkpoint. {'; '.join(told)}. Give the "
        "publisher's list: --drop-attention and --drop-mlp, or --keep, or --preset"
    )
