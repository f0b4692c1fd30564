# SPDX-License-Identifier: Apache-2.0
"""Which of a stack's last hidden states a network reads, and a last block that computes no others.

Rows of a sequence meet in attention alone. Behind the last attention that is left, norms, MLPs and stubs therefore need
no row that nobody reads, and the attention itself needs queries, scores and output for those rows only. A block whose
attention is a stub lies behind it like an MLP, whatever was dropped before.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb, repeat_kv

from compress.models.base import ModelError
from compress.models.surgery import ZeroAttention, ZeroMlp


class Rows(nn.Module):
    """Cuts the rows that are read out of a sequence; it has no weights.

    A stack whose last hidden states go through it, and nowhere else, need not compute any others (`narrow`).
    """

    def __init__(self, stack: str, start: int, stop: int | None) -> None:
        """Rows `start` to `stop`, as Python slices count them.

        Args:
            stack: dotted path of the stack that is read, from the module that holds this one.
            start, stop: negative, from the end: in front lies a prompt of any length.
        """
        super().__init__()
        self.stack, self.start, self.stop = stack, start, stop

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, L, W) -> (B, rows, W)."""
        return hidden[:, self.start : self.stop]

    @property
    def count(self) -> int:
        """How many."""
        return (self.stop or 0) - self.start


class NarrowBlock(nn.Module):
    """A block of Llama's kind that gives the rows that are read: keys and values of all tokens, the rest for those."""

    def __init__(self, block: nn.Module, rows: Rows) -> None:
        """Around `block`, whose weights it shares."""
        super().__init__()
        self.block, self.rows = block, rows

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor, position_embeddings: tuple[Tensor, Tensor], **_: object
    ) -> Tensor:
        """(B, L, W), additive mask (B, 1, L, L) and rotary angles (B, L, head) -> (B, rows, W)."""
        block: Any = self.block
        stream: Tensor = self.rows(hidden_states)
        if not isinstance(block.self_attn, ZeroAttention):
            normed = block.input_layernorm(hidden_states)
            stream = stream + self._attend(normed, attention_mask, position_embeddings)
        if not isinstance(block.mlp, ZeroMlp):
            stream = stream + block.mlp(block.post_attention_layernorm(stream))
        return stream

    def _attend(self, normed: Tensor, mask: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
        attention: Any = self.block.self_attn
        rows = self.rows
        query, key, value = (
            projection(tokens).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
            for projection, tokens in (
                (attention.q_proj, rows(normed)), (attention.k_proj, normed), (attention.v_proj, normed),
            )
        )  # fmt: skip
        query, _ = apply_rotary_pos_emb(query, query, *(rows(angle) for angle in angles))
        key, _ = apply_rotary_pos_emb(key, key, *angles)
        copies = query.shape[1] // key.shape[1]
        seen = mask[:, :, rows.start : rows.stop]
        mixed = F.scaled_dot_product_attention(
            query, repeat_kv(key, copies), repeat_kv(value, copies), attn_mask=seen, scale=attention.scaling
        )
        written: Tensor = attention.o_proj(mixed.transpose(1, 2).flatten(2))
        return written


def narrow(module: nn.Module) -> Iterator[str]:
    """Let every stack that is read through `Rows` compute those rows only, in place; says what it did to which block.

    The outputs are the same to rounding. For export: a narrowed stack no longer trains, probes or saves as before.

    Raises:
        ModelError: a stack is not of Llama's kind.
    """
    for path, rows in list(module.named_modules()):
        if not isinstance(rows, Rows):
            continue
        parent, _, name = path.rpartition(".")
        holder = module.get_submodule(parent)
        layers = holder.get_submodule(f"{rows.stack}.layers")
        if not isinstance(layers, nn.ModuleList) or any(not hasattr(block, "self_attn") for block in layers):
            raise ModelError(f"{path} reads {rows.stack}, which has no `layers` of Llama's kind")
        if not len(layers):
            continue
        attending = [i for i, block in enumerate(layers) if not isinstance(block.self_attn, ZeroAttention)]
        last = attending[-1] if attending else 0
        layers[last] = NarrowBlock(layers[last], rows)
        setattr(holder, name, nn.Identity())
        yield f"{rows.stack}: block {last} of {len(layers)} computes the {rows.count} rows that are read"
