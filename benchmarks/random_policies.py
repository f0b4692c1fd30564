# SPDX-License-Identifier: Apache-2.0
"""Policies with random weights for latency measurements, which depend on shapes and not on weights. The same seed gives
the same weights in every process."""

from __future__ import annotations

import numpy as np

from compress.models.base import Surgery, VlaModel
from compress.models.openvla_oft import OpenVlaOft
from compress.models.openvla_oft_config import LlamaShape, OpenVlaOftConfig, VitShape
from compress.models.policy_io import PolicyIo
from compress.models.reference import ReferenceVla
from compress.models.reference_config import ReferenceConfig
from compress.models.reference_specs import action_spec, observation_spec
from compress.models.surgery import operate
from compress.reference import tokenizer
from runtime.contract.conventions import NormMethod
from runtime.contract.normalization import Normalization, Normalizers
from runtime.contract.spec import INSTRUCTION_FIELD, PromptSpec

ROLE, VOCABULARY = "language", 512


def tokenizer_json() -> bytes:
    """A real tokenizer with `VOCABULARY` rows."""
    return tokenizer.trained(VOCABULARY)


def normalizers(state: int = 8, action: int = 7) -> Normalizers:
    """-1 to 1."""
    unit = (Normalization.of(NormMethod.Q01_Q99, -np.ones(size), np.ones(size)) for size in (state, action))
    return Normalizers(*unit)


def reference() -> ReferenceVla:
    """The reference architecture at full size."""
    return ReferenceVla(ReferenceConfig(), normalizers(), tokenizer_json())


def oft_io(image_size: int, max_tokens: int = 32) -> PolicyIo:
    """Two cameras, LIBERO's state and action, 8 steps."""
    shape = ReferenceConfig(image_size=image_size, patch_size=image_size // 2, max_tokens=max_tokens)
    prompt = PromptSpec(template=INSTRUCTION_FIELD, max_tokens=max_tokens, pad_id=0, lowercase=True)
    return PolicyIo(observation_spec(shape), action_spec(shape), prompt, normalizers(), tokenizer_json())


def oft_150m(depth: int = 16, width: int = 768, image_size: int = 112) -> OpenVlaOft:
    """A one-pass policy of OpenVLA-OFT's kind, about 150 M parameters: Llama blocks 768 wide, two small towers."""
    config = OpenVlaOftConfig(
        language=LlamaShape(depth, width, heads=12, kv_heads=12, mlp_width=2048, vocabulary=VOCABULARY),
        dinov2=VitShape(depth=6, width=384, heads=16, mlp_width=1536, prefix=5),
        siglip=VitShape(depth=6, width=384, heads=16, mlp_width=1536),
        image_size=image_size,
        suffix_id=400,
    )
    return OpenVlaOft(config, oft_io(image_size))


def shorten(model: VlaModel, keep: int) -> None:
    """Keep `keep` language blocks, evenly spread, first and last included."""
    (group,) = [group for group in model.groups if group.role == ROLE]
    done = model.surgery[ROLE]
    chosen = np.unique(np.linspace(0, len(done.kept) - 1, keep).round().astype(int))
    wanted = Surgery(done.depth, tuple(done.kept[i] for i in chosen))
    operate(model.module, group, done, wanted)
    model.record_surgery({ROLE: wanted})


def depth_of(model: VlaModel) -> int:
    """Language blocks that are there."""
    return len(model.surgery[ROLE].kept)
