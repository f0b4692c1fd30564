# SPDX-License-Identifier: Apache-2.0
"""The prunable stacks of pi0 and pi0.5, and which of their blocks must go together.

The expert reads the language stack's keys and values block by block, so neither list gets shorter alone
(a plan for `language+action` takes both); a removed language block goes on giving keys and values.
"""

from __future__ import annotations

from collections.abc import Mapping

from compress.models.base import BlockGroup, ModelError, Surgery

PAIRED = ("language", "action")


def groups(vlm: str, expert: str) -> tuple[BlockGroup, ...]:
    """`language`, `action` and `vision.siglip`, by the dotted paths of PaliGemma and of the expert's stack."""
    tower = f"{vlm}.vision_tower"
    siglip = BlockGroup(
        role="vision.siglip",
        blocks=f"{tower}.encoder.layers",
        attention="self_attn",
        mlp="mlp",
        input_norm="layer_norm1",
        mid_norm="layer_norm2",
        after=f"{tower}.post_layernorm",
    )
    language = _gemma("language", f"{vlm}.language_model", "action", shared_kv=True)
    return (language, _gemma("action", expert, "language"), siglip)


def _gemma(role: str, stack: str, partner: str, shared_kv: bool = False) -> BlockGroup:
    return BlockGroup(
        role=role,
        blocks=f"{stack}.layers",
        attention="self_attn",
        mlp="mlp",
        input_norm="input_layernorm",
        mid_norm="post_attention_layernorm",
        after=f"{stack}.norm",
        compact=False,
        shared_kv=shared_kv,
        partner=partner,
    )


def require_pairs(surgery: Mapping[str, Surgery]) -> None:
    """Both paired stacks must have kept the same blocks; a role that is absent is whole.

    Raises:
        ModelError: they have not.
    """
    kept = {role: surgery[role].kept if role in surgery else None for role in PAIRED}
    whole = tuple(range(next((surgery[role].depth for role in PAIRED if role in surgery), 0)))
    language, action = (whole if blocks is None else blocks for blocks in kept.values())
    if language != action:
        raise ModelError(
            f"language kept blocks {list(language)}, the expert {list(action)}: they leave their lists in pairs"
        )
