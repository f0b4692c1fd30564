# SPDX-License-Identifier: Apache-2.0
"""GR00T N1.7's eyes and language: transformers' Qwen3-VL for a fixed number of images of one size.

The same numbers as `Qwen3VLModel`, but nothing depends on what the prompt holds: images are looked up by their place
among the image tokens, all images run through the tower side by side, and a still image enters without its copy in
time. What the taps of the tower add to the stream behind the first language blocks is no block's doing, so those
blocks (`early`) are no part of the stack that can be probed and pruned.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLVisionConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import (
    Qwen3VLTextModel,
    Qwen3VLVisionAttention,
    Qwen3VLVisionBlock,
    Qwen3VLVisionModel,
    apply_rotary_pos_emb_vision,
)
from transformers.vision_utils import get_vision_interpolation_indices_and_weights, get_vision_position_ids

from compress.models.groot_config import GrootConfig, text_config, vision_config

Rotation = tuple[Tensor, Tensor]


class VisionAttention(Qwen3VLVisionAttention):
    """Attention within each image, all images side by side."""

    def forward(self, hidden_states: Tensor, position_embeddings: Rotation) -> tuple[Tensor, None]:
        """(N, patches, D) -> the same."""
        query, key, value = self.qkv(hidden_states).unflatten(-1, (3, self.num_heads, -1)).unbind(2)
        query, key = apply_rotary_pos_emb_vision(query, key, *position_embeddings)
        query, key, value = (x.transpose(1, 2) for x in (query, key, value))
        mixed = F.scaled_dot_product_attention(query, key, value, scale=self.scaling)
        return self.proj(mixed.transpose(1, 2).flatten(2)), None


class VisionBlock(Qwen3VLVisionBlock):
    """One block of the tower; `place` is its index in the whole tower, by which taps find it."""

    def __init__(self, config: Qwen3VLVisionConfig, place: int) -> None:
        super().__init__(config)
        self.attn = VisionAttention(config)
        self.place = place

    def forward(self, hidden_states: Tensor, position_embeddings: Rotation) -> Tensor:
        """(N, patches, D) -> the same."""
        hidden_states = hidden_states + self.attn(self.norm1(hidden_states), position_embeddings=position_embeddings)[0]
        found: Tensor = hidden_states + self.mlp(self.norm2(hidden_states))
        return found


class Vlm(nn.Module):
    """Images and prompt -> one state per token of the prompt, before any last norm."""

    def __init__(self, config: GrootConfig, image_size: int) -> None:
        """Random weights; `image_size` [px] is the side of every image."""
        super().__init__()
        self.config = config
        shape = vision_config(config)
        self.visual = Qwen3VLVisionModel(shape)
        self.visual.blocks = nn.ModuleList(VisionBlock(shape, place) for place in range(shape.depth))
        language = Qwen3VLTextModel(text_config(config))
        self.embed_tokens, self.rotary_emb = language.embed_tokens, language.rotary_emb
        self.early = language.layers[: len(config.vlm.taps)]
        self.layers = language.layers[len(config.vlm.taps) :]
        self.side = image_size // config.vlm.patch_size
        with torch.device("cpu"):
            grid = torch.tensor([[1, self.side, self.side]])
            rows, shares = get_vision_interpolation_indices_and_weights(
                grid, self.visual.num_grid_per_side, self.visual.interpolation_mode,
                self.visual.interpolation_align_corners, config.vlm.merge,
            )  # fmt: skip
            places = get_vision_position_ids(grid, config.vlm.merge)
        self.shares: Tensor
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("shares", shares, persistent=False)
        self.register_buffer("places", places, persistent=False)

    @property
    def image_tokens(self) -> int:
        """Tokens per image."""
        return (self.side // self.config.vlm.merge) ** 2

    def forward(self, pixels: Tensor, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Run images and prompt through.

        Args:
            pixels: (B, C, 3, H, W), normalised.
            input_ids, attention_mask: int64 (B, T), right-padded; `image_tokens` times C of them are image tokens.

        Returns:
            States (B, T, D), and bool (B, T): true where an image is.
        """
        images, taps = self.see(pixels)
        pictured = (input_ids == self.config.vlm.image_token) & attention_mask.bool()
        place = (pictured.long().cumsum(1) - 1).clamp(0, images.shape[1] - 1)[..., None]

        def at_their_places(tokens: Tensor) -> Tensor:
            return tokens.gather(1, place.expand(-1, -1, tokens.shape[-1])) * pictured[..., None]

        words = self.embed_tokens(input_ids) * ~pictured[..., None]
        hidden = words + at_their_places(images)
        length = input_ids.shape[1]
        rows = torch.arange(length, device=hidden.device)
        visible = attention_mask.bool()[:, None, None, :] & (rows[:, None] >= rows)
        mask = blocked(visible, hidden.dtype)
        rotation = self.rotary_emb(hidden, self.positions(pictured))
        for block, tap in zip(self.early, taps, strict=True):
            hidden = block(hidden, attention_mask=mask, position_embeddings=rotation) + at_their_places(tap)
        for block in self.layers:
            hidden = block(hidden, attention_mask=mask, position_embeddings=rotation)
        return hidden, pictured

    def see(self, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(B, C, 3, H, W) -> image tokens (B, C * tokens, D), and those of every tap."""
        tower, v, batch = self.visual, self.config.vlm, pixels.shape[0]
        cells = self.side // v.merge
        grid = pixels.reshape(-1, 3, cells, v.merge, v.patch_size, cells, v.merge, v.patch_size)
        patches = grid.permute(0, 2, 5, 3, 6, 1, 4, 7).flatten(5).flatten(1, 4)  # (N, patches, 3 * p * p)
        projection = tower.patch_embed.proj
        still = projection.weight.sum(2).flatten(1)  # both frames of a still image are the same
        hidden = F.linear(patches, still, projection.bias)
        hidden = hidden + (tower.pos_embed(self.rows) * self.shares[..., None].to(hidden.dtype)).sum(1)
        rotation = tower.rotary_pos_emb(hidden, self.places)
        tapped = []
        for block in tower.blocks:
            hidden = block(hidden, position_embeddings=rotation)
            if block.place in v.taps:
                tapped.append(hidden)
        merged = tower.merger(hidden)
        # Last of all: what a probe makes differentiable at the next norm must be so here too.
        taps = [merger(state) for merger, state in zip(tower.deepstack_merger_list, tapped, strict=True)]
        return merged.reshape(batch, -1, v.width), [tap.reshape(batch, -1, v.width) for tap in taps]

    def positions(self, pictured: Tensor) -> Tensor:
        """Time, height and width of every token, (3, B, T): words count on, an image counts as its side."""
        cells = self.side // self.config.vlm.merge
        words, seen = ((x.long().cumsum(1) - x.long()) for x in (~pictured, pictured))  # before each token
        start = words + seen // self.image_tokens * cells
        within = seen % self.image_tokens
        image = torch.stack([start, start + within // cells, start + within % cells])
        return torch.where(pictured, image, start)


def blocked(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive mask: 0 where `visible`, the lowest number elsewhere."""
    return torch.zeros_like(visible, dtype=dtype).masked_fill(~visible, torch.finfo(dtype).min)
