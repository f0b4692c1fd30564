# SPDX-License-Identifier: Apache-2.0
"""Leave whole towers as they are while the rest recovers: no gradient flows into them, which is most of their cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from compress.models.base import BlockGroup, VlaModel
from compress.probing import find_group


class FreezeError(ValueError):
    """A stack that does not exist, or that has lost blocks and needs its recovery."""


@contextmanager
def frozen(model: VlaModel, roles: Sequence[str]) -> Iterator[None]:
    """While open, the towers that hold the stacks `roles` are not trained; afterwards all flags are as before.

    A tower is the largest part of the model that holds this stack and no other one.

    Raises:
        FreezeError: see the class.
    """
    groups = [find_group(model, role) for role in roles]
    for group in groups:
        done = model.surgery.get(group.role)
        if done is not None and (len(done.kept) < done.depth or done.without_attention or done.without_mlp):
            raise FreezeError(f"freeze names {group.role}, which has lost blocks: take it out, or drop nothing there")
    held = [parameter for group in groups for parameter in _tower(model, group).parameters()]
    wishes = [parameter.requires_grad for parameter in held]
    for parameter in held:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, wish in zip(held, wishes, strict=True):
            parameter.requires_grad_(wish)


def _tower(model: VlaModel, group: BlockGroup) -> nn.Module:
    others = [f"{other.blocks}." for other in model.groups if other.role != group.role]
    parts = group.blocks.split(".")
    for count in range(1, len(parts) + 1):
        path = ".".join(parts[:count])
        if not any(other.startswith(f"{path}.") for other in others):
            return model.module.get_submodule(path)
    raise FreezeError(f"freeze names {group.role}, whose blocks another stack shares")
