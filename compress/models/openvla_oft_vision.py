# SPDX-License-Identifier: Apache-2.0
"""The two vision towers of OpenVLA: transformers' own DINOv2 and SigLIP blocks, tapped behind the last block.

Upstream taps timm's towers behind their last block but one, without the final norm (`get_intermediate_layers` with
n = {depth - 2}). The last published block is therefore never read; the towers here end at the tap and have no such
block. A tower that gets shorter is tapped behind whatever block is its last.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import Dinov2WithRegistersConfig, SiglipVisionConfig
from transformers.models.dinov2_with_registers.modeling_dinov2_with_registers import Dinov2WithRegistersLayer
from transformers.models.siglip.modeling_siglip import SiglipEncoderLayer

from compress.models.base import ModelError
from compress.models.openvla_oft_config import OpenVlaOftConfig, VitShape

NORM_EPS = 1e-6  # timm's, in both towers


class Tower(nn.Module):
    """Pixels -> patch features; class token and registers take part, without positions, and are left out at the end."""

    def __init__(self, shape: VitShape, image_size: int, patch_size: int, blocks: list[nn.Module]) -> None:
        super().__init__()
        count = (image_size // patch_size) ** 2
        self.patches = nn.Conv2d(3, shape.width, patch_size, stride=patch_size)
        self.positions = nn.Parameter(torch.randn(1, count, shape.width) * 0.02)
        self.prefix = nn.Parameter(torch.randn(1, shape.prefix, shape.width) * 0.02) if shape.prefix else None
        self.blocks = nn.ModuleList(blocks)
        self.tap = nn.Identity()

    def forward(self, pixels: Tensor, language: Tensor | None = None) -> Tensor:
        """(R, 3, H, W) normalised, and (R, W) mean language embeddings where the blocks are FiLMed -> (R, N, V)."""
        stream = self.patches(pixels).flatten(2).transpose(1, 2) + self.positions
        skipped = 0
        if self.prefix is not None:
            skipped = self.prefix.shape[1]
            stream = torch.cat([self.prefix.expand(stream.shape[0], -1, -1), stream], dim=1)
        for block in self.blocks:
            stream = block(stream, attention_mask=None) if language is None else block(stream, language)
        return self.tap(stream)[:, skipped:]


class FilmBlock(nn.Module):
    """A block whose stream is scaled and shifted between attention and MLP (arXiv 2502.19645, section IV-C)."""

    def __init__(self, block: nn.Module, width: int, language_width: int) -> None:
        super().__init__()
        self.block = block
        self.scale = nn.Linear(language_width, width)
        self.shift = nn.Linear(language_width, width)

    def forward(self, stream: Tensor, language: Tensor) -> Tensor:
        """(R, N, V) and (R, W) -> (R, N, V)."""
        block: Any = self.block
        if isinstance(block, Dinov2WithRegistersLayer):
            attended, _ = block.attention(block.norm1(stream))
            stream = self._modulate(stream + block.layer_scale1(attended), language)
            return stream + block.layer_scale2(block.mlp(block.norm2(stream)))
        attended, _ = block.self_attn(block.layer_norm1(stream), attention_mask=None)
        stream = self._modulate(stream + attended, language)
        return stream + block.mlp(block.layer_norm2(stream))

    def _modulate(self, stream: Tensor, language: Tensor) -> Tensor:
        return stream * (1 + self.scale(language).unsqueeze(1)) + self.shift(language).unsqueeze(1)


def dinov2(config: OpenVlaOftConfig) -> Tower:
    """DINOv2 with registers, up to the tap."""
    shape = config.dinov2
    if shape.mlp_width % shape.width:
        raise ModelError(f"dinov2: MLP width {shape.mlp_width}, expected a multiple of the width {shape.width}")
    found = Dinov2WithRegistersConfig(
        hidden_size=shape.width,
        num_hidden_layers=shape.depth,
        num_attention_heads=shape.heads,
        mlp_ratio=shape.mlp_width // shape.width,
        hidden_act="gelu",
        layer_norm_eps=NORM_EPS,
        image_size=config.image_size,
        patch_size=config.patch_size,
        attn_implementation="sdpa",
    )
    return _tower(config, shape, [Dinov2WithRegistersLayer(found) for _ in range(shape.depth)])


def siglip(config: OpenVlaOftConfig) -> Tower:
    """SigLIP up to the tap, with the exact GELU of the timm tower that OpenVLA was trained with."""
    shape = config.siglip
    found = SiglipVisionConfig(
        hidden_size=shape.width,
        intermediate_size=shape.mlp_width,
        num_hidden_layers=shape.depth,
        num_attention_heads=shape.heads,
        hidden_act="gelu",
        layer_norm_eps=NORM_EPS,
        image_size=config.image_size,
        patch_size=config.patch_size,
        attn_implementation="sdpa",
    )
    return _tower(config, shape, [SiglipEncoderLayer(found) for _ in range(shape.depth)])


def _tower(config: OpenVlaOftConfig, shape: VitShape, blocks: list[nn.Module]) -> Tower:
    if config.film:
        blocks = [FilmBlock(block, shape.width, config.language.width) for block in blocks]
    return Tower(shape, config.image_size, config.patch_size, blocks)
