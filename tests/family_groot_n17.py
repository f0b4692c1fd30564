# SPDX-License-Identifier: Apache-2.0
"""GR00T N1.7 as a conformance case: transformers' Qwen3-VL and the action head at a small size, random weights."""

from __future__ import annotations

import functools
from dataclasses import replace

from family_cases import VOCABULARY, FamilyCase, scramble, tiny_io, tokenizer_json
from tokenizers import Tokenizer

from compress.models.base import VlaModel
from compress.models.groot import GrootN17
from compress.models.groot_config import GrootConfig, HeadShape, QwenShape
from compress.models.policy_io import PolicyIo

IMAGE_TOKEN = 403  # the first id behind those of the small tokenizer
SPECIAL = ("<|image_pad|>", "<|vision_start|>", "<|vision_end|>", "<|im_start|>", "<|im_end|>")
VISION = "<|vision_start|>" + "<|image_pad|>" * 4 + "<|vision_end|>"
TINY = GrootConfig(
    vlm=QwenShape(
        width=48, mlp_width=96, heads=4, kv_heads=2, head_dim=16, vocabulary=VOCABULARY,
        image_token=IMAGE_TOKEN, rope_base=5e6, rope_sections=(4, 2, 2), vision_width=32, vision_mlp_width=64,
        vision_depth=4, vision_heads=2, vision_positions=9, patch_size=7, taps=(0, 2),
    ),
    depth=5,
    head=HeadShape(blocks=8, heads=4, head_dim=8, hidden=24, context_blocks=2, context_heads=4, positions=16),
    max_state_dim=12,
    max_action_dim=10,
    max_horizon=6,
    steps=3,
)  # fmt: skip


@functools.cache
def chat_tokenizer() -> bytes:
    """The small BPE tokenizer with the chat's special tokens behind its rows."""
    found = Tokenizer.from_str(tokenizer_json().decode())
    found.add_special_tokens(list(SPECIAL))
    assert found.token_to_id(SPECIAL[0]) == TINY.vlm.image_token
    return found.to_str().encode()


def io() -> PolicyIo:
    """Two cameras of 28 px: four image tokens each."""
    template = f"<|im_start|>user\n{VISION * 2}{{instruction}}<|im_end|>\n"
    return replace(tiny_io(template=template, max_tokens=40), tokenizer_json=chat_tokenizer())


def make(seed: int) -> VlaModel:
    made = GrootN17(TINY, io(), seed)
    scramble(made.module, seed)
    return made


CASE = FamilyCase(
    make,
    GrootN17.load,
    why_no_library="NVIDIA's class cannot be installed beside this torch; tests/test_groot_n17.py has other oracles",
    padding_is_seen=True,
)
