# SPDX-License-Identifier: Apache-2.0
"""OpenVLA-OFT as a conformance case: the L1 head, three or four blocks in every stack."""

from __future__ import annotations

from typing import Any

import torch
from family_cases import VOCABULARY, FamilyCase, scramble, tiny_io

from compress.models.openvla_oft import OpenVlaOft
from compress.models.openvla_oft_config import LlamaShape, OpenVlaOftConfig, VitShape
from compress.models.policy_io import PolicyIo

IO = tiny_io()
FAR = 3.0
SUFFIX = 400  # a token that no prompt of the suite ends with


def config(depth: int = 4, width: int = 32, io: PolicyIo = IO, **changes: Any) -> OpenVlaOftConfig:
    """Every size small; the towers have the published number of heads."""
    made = OpenVlaOftConfig(
        language=LlamaShape(depth, width, heads=4, kv_heads=4, mlp_width=2 * width, vocabulary=VOCABULARY),
        dinov2=VitShape(depth=3, width=32, heads=16, mlp_width=64, prefix=3),
        siglip=VitShape(depth=4, width=48, heads=16, mlp_width=80),
        image_size=28,
        horizon=io.action.horizon,
        suffix_id=SUFFIX,
    )
    return OpenVlaOftConfig(**{**vars(made), **changes})


def tiny(seed: int, **changes: Any) -> OpenVlaOft:
    """A policy with random weights, every one of which matters, that is smooth where a finite difference looks.

    Its actions lie far from any target, and the head's units far from zero: half of them on, half of them off.
    """
    made = OpenVlaOft(config(**changes), IO, seed=seed)
    scramble(made.module, seed, scale=0.5)
    head = made.module.get_submodule("head")
    with torch.no_grad():
        head.get_parameter("fc2.bias").add_(FAR)
        for name in ("fc1.bias", "mlp_resnet_blocks.0.ffn.1.bias", "mlp_resnet_blocks.1.ffn.1.bias"):
            bias = head.get_parameter(name)
            bias.add_(FAR * (1 - 2 * (torch.arange(len(bias)) % 2)))
    return made


def full_depth_narrow(seed: int = 0) -> OpenVlaOft:
    """As many language blocks as published, 64 wide."""
    return tiny(seed, depth=32, width=64)


CASE = FamilyCase(
    tiny,
    OpenVlaOft.load,
    why_no_library="OpenVLA-OFT is no installable library; test_openvla_oft.py computes its description independently",
)
