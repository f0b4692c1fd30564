# SPDX-License-Identifier: Apache-2.0
"""Which weights of a pi0-like network cannot reach its actions, so that their removal changes nothing.

The language stack is read through its keys and values only. Its last block's queries, output and MLP therefore write
to a stream that nobody reads, and whatever a cut leaves without a reader follows. Parts of tensors that are never
used (rows of the token table, the last third of pi0.5's final modulation) are not listed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import nn

from compress.models.base import BlockGroup
from compress.models.surgery import ZeroAttention, ZeroMlp, ZeroProjection


def dead_weights(module: nn.Module, groups: Mapping[str, BlockGroup], always: tuple[str, ...]) -> dict[str, int]:
    """State-dict name -> elements.

    Args:
        module: the live network, as far as it has been cut.
        groups: `language`, `action` and the towers, by role.
        always: dotted paths of modules that this family never uses.
    """
    roots = {*always, *_of_language(module, groups["language"], groups["action"])}
    for role, group in groups.items():
        if role != "language":
            roots |= set(_unread_norms(module, group))
    prefixes = tuple(f"{root}." for root in roots)
    return {name: value.numel() for name, value in module.state_dict().items() if name.startswith(prefixes)}


def _of_language(module: nn.Module, language: BlockGroup, action: BlockGroup) -> Iterator[str]:
    """From the end: a block's writers matter if a later block's keys and values do."""
    yield language.after
    stream_is_read = False
    pairs = list(zip(language.stack(module), action.stack(module), strict=True))
    for index, (block, reader) in reversed(list(enumerate(pairs))):
        here = f"{language.blocks}.{index}"
        attention = f"{here}.{language.attention}"
        queried = not isinstance(block.get_submodule(f"{language.attention}.q_proj"), ZeroProjection)
        if not stream_is_read:
            yield from (f"{attention}.q_proj", f"{attention}.o_proj")
        if not stream_is_read or isinstance(getattr(block, language.mlp), ZeroMlp):
            yield from (f"{here}.{language.mid_norm}", f"{here}.{language.mlp}")
        if isinstance(getattr(reader, action.attention), ZeroAttention) and not (queried and stream_is_read):
            yield from (f"{attention}.k_proj", f"{attention}.v_proj", f"{here}.{language.input_norm}")
        else:
            stream_is_read = True


def _unread_norms(module: nn.Module, group: BlockGroup) -> Iterator[str]:
    """Norms in front of writers that are gone."""
    for index, block in enumerate(group.stack(module)):
        if isinstance(getattr(block, group.attention), ZeroAttention):
            yield f"{group.blocks}.{index}.{group.input_norm}"
        if isinstance(getattr(block, group.mlp), ZeroMlp):
            yield f"{group.blocks}.{index}.{group.mid_norm}"
