# SPDX-License-Identifier: Apache-2.0
"""Do a checkpoint's tensors agree with a list of removed writers, and which stay? By the names of a whole network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from compress.models.base import BlockGroup, ModelError, Surgery

ATTENTION, MLP = "attention", "mlp"
Tensors = Mapping[str, Tensor]


def compare(expected: Tensors, tensors: Tensors, group: BlockGroup, gone: Mapping[str, set[int]], folder: Path) -> str:
    """How removed writers are held: `present`, `absent`, or `whole` if there are none.

    Args:
        expected: of the whole network.
        tensors: of the checkpoint.
        group: the stack.
        gone: blocks without attention and without MLP, by the list.
        folder: for the error.

    Raises:
        ModelError: names the first tensor that contradicts the list.
    """
    present, absent = "", ""
    for block, part, names in _writers(expected, group):
        missing = [name for name in names if name not in tensors]
        here = f"{folder}: {group.role} block {block} "
        if block not in gone[part]:
            if missing:
                raise ModelError(f"{here}keeps its {part} by the list, but {missing[0]} is not in the checkpoint")
        elif 0 < len(missing) < len(names):
            there = next(name for name in names if name in tensors)
            raise ModelError(f"{here}has no {part} by the list, but {there} is there and {missing[0]} is not")
        elif missing:
            absent = absent or missing[0]
        else:
            present = present or names[0]
    if present and absent:
        raise ModelError(
            f"{folder}: the list removes {present}, but it is there, although the checkpoint leaves out what was "
            f"removed ({absent}): the list is too long, or of another checkpoint"
        )
    return "present" if present else "absent" if absent else "whole"


def without_removed(
    expected: Tensors, tensors: Tensors, group: BlockGroup, gone: Mapping[str, set[int]], surgery: Surgery, folder: Path
) -> dict[str, Tensor]:
    """The tensors that stay, with the numbers that their blocks have once `surgery` is done.

    Raises:
        ModelError: a tensor that is left out has another shape than the network's.
    """
    places = {original: position for position, original in enumerate(surgery.kept)}
    removed = {name for block, part, names in _writers(expected, group) if block in gone[part] for name in names}
    rest: dict[str, Tensor] = {}
    for name, value in tensors.items():
        block = _number(name, group)
        if name in expected and (name in removed or (block is not None and block not in places)):
            if value.shape != expected[name].shape:
                found, wanted = tuple(value.shape), tuple(expected[name].shape)
                raise ModelError(f"{folder}: {name} is {found}, the network expects {wanted}")
        elif block is None or block not in places:
            rest[name] = value
        else:
            start = f"{group.blocks}."
            rest[f"{start}{places[block]}.{name.removeprefix(start).partition('.')[2]}"] = value
    return rest


def unread_norms(here: Tensors, rest: Tensors, group: BlockGroup, surgery: Surgery) -> dict[str, Tensor]:
    """Norms in front of removed writers that are not in `rest`: they read nothing, and publishers may leave them out.

    Args:
        here: of the network that was cut.
        rest: what the checkpoint gives for it.
        group: the stack.
        surgery: what was done to it.
    """
    made: dict[str, Tensor] = {}
    for position, original in enumerate(surgery.kept):
        norms = [group.input_norm] if original in surgery.without_attention and not group.shared_kv else []
        norms += [group.mid_norm] if original in surgery.without_mlp else []
        for norm in norms:
            start = f"{group.blocks}.{position}.{norm}."
            for name in (name for name in here if name.startswith(start) and name not in rest):
                made[name] = torch.zeros(here[name].shape, dtype=_dtype_beside(rest, group, norm, here[name].dtype))
    return made


def told_by(expected: Tensors, tensors: Tensors, groups: Iterable[BlockGroup]) -> list[str]:
    """What tensors tell by themselves of each stack: where they are absent, and where nothing can be told."""
    found = []
    for group in groups:
        lacking: dict[str, list[int]] = {ATTENTION: [], MLP: []}
        for block, part, names in _writers(expected, group):
            if any(name not in tensors for name in names):
                lacking[part].append(block)
        full = [b for b in _depth(expected, group) if b not in lacking[ATTENTION] and b not in lacking[MLP]]
        found.append(
            f"{group.role}: attention tensors are absent in blocks {lacking[ATTENTION]}, MLP tensors in blocks "
            f"{lacking[MLP]}; blocks {full} hold every tensor, from which it cannot be told whether they are run"
        )
    return found


def _dtype_beside(rest: Tensors, group: BlockGroup, norm: str, otherwise: torch.dtype) -> torch.dtype:
    """Of the same norm in another block."""
    found = (value.dtype for name, value in rest.items() if _number(name, group) is not None and f".{norm}." in name)
    return next(found, otherwise)


def numbers_of(tensors: Tensors, group: BlockGroup) -> set[int]:
    """Block numbers that the tensors of a stack carry."""
    return {number for number in (_number(name, group) for name in tensors) if number is not None}


def _depth(expected: Tensors, group: BlockGroup) -> range:
    return range(max(numbers_of(expected, group), default=-1) + 1)


def _writers(expected: Tensors, group: BlockGroup) -> Iterator[tuple[int, str, list[str]]]:
    """Block, part, and the tensors of that part, block by block."""
    shared = tuple(f"{group.attention}.{name}." for name in ("q_proj", "o_proj"))
    starts = {ATTENTION: shared if group.shared_kv else (f"{group.attention}.",), MLP: (f"{group.mlp}.",)}
    for block in _depth(expected, group):
        own = f"{group.blocks}.{block}."
        inner = [name.removeprefix(own) for name in expected if name.startswith(own)]
        for part, start in starts.items():
            yield block, part, [own + name for name in inner if name.startswith(start)]


def _number(name: str, group: BlockGroup) -> int | None:
    start = f"{group.blocks}."
    number = name.removeprefix(start).partition(".")[0] if name.startswith(start) else ""
    return int(number) if number.isdecimal() else None
