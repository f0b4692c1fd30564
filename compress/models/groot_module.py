# SPDX-License-Identifier: Apache-2.0
"""The network of GR00T N1.7: Qwen3-VL (`groot_vlm`) once per observation, the action head (`groot_head`) once per step.

    images, prompt -> Qwen3-VL, first blocks -> norm -> context blocks --+ keys and values
    state, noisy chunk + time -> robot's encoders -> diffusion blocks <--+ -> robot's decoder -> velocity

The flow runs from noise (time 0) to actions (time 1), and its time is counted in whole ticks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.models.groot_config import GrootConfig
from compress.models.groot_head import IMAGES, TEXT, TIME_CHANNELS, ActionHead, waves
from compress.models.groot_vlm import Vlm, blocked


@dataclass(frozen=True)
class Context:
    """What the action head reads of one observation.

    Attributes:
        tokens: (B, T, D).
        masks: additive (B, 1, 1, T), for text and for images.
        state: (B, 1, head width).
    """

    tokens: Tensor
    masks: dict[str, Tensor]
    state: Tensor


class GrootNetwork(nn.Module):
    """All parameters."""

    def __init__(self, config: GrootConfig, image_size: int) -> None:
        """Random weights; `image_size` [px] is the side of every camera image."""
        super().__init__()
        self.config = config
        self.vlm = Vlm(config, image_size)
        self.head = ActionHead(config)

    def read(self, pixels: Tensor, input_ids: Tensor, attention_mask: Tensor, state: Tensor) -> Context:
        """Run the VLM once.

        Args:
            pixels: (B, C, 3, H, W), normalised.
            input_ids, attention_mask: int64 (B, T), right-padded, with image tokens.
            state: (B, S), normalised.
        """
        hidden, pictured = self.vlm(pixels, input_ids, attention_mask)
        real = attention_mask.bool()
        masks = {
            name: blocked(seen[:, None, None, :], hidden.dtype)
            for name, seen in (("all", real), (TEXT, real & ~pictured), (IMAGES, pictured))
        }
        tokens = self.head.vl_self_attention(self.head.vlln(hidden), masks["all"])
        limited = state.clamp(-1.0, 1.0) if self.config.clip else state
        filled = F.pad(limited, (0, self.config.max_state_dim - state.shape[-1]))
        return Context(tokens, masks, self.head.state_encoder(filled).unsqueeze(1))

    def velocity(self, context: Context, noisy: Tensor, time: tuple[Tensor, Tensor]) -> Tensor:
        """The flow's velocity at a noisy chunk.

        Args:
            context: of the observation.
            noisy: (B, max_horizon, max_action_dim).
            time: as `time_features` gives them, of B or 1 times.
        """
        batch, horizon = noisy.shape[:2]
        kind = context.tokens.dtype
        for_blocks, for_actions = (part.to(kind).expand(batch, -1) for part in time)
        actions = self.head.action_encoder(noisy.to(kind), for_actions)
        if self.config.head.positions:
            actions = actions + self.head.position_embedding.weight[:horizon]
        tokens = torch.cat([context.state, actions], dim=1)
        found = self.head.model(tokens, for_blocks, context.tokens, context.masks)
        velocity: Tensor = self.head.action_decoder(found[:, -horizon:])
        return velocity

    def observe(self, pixels: Tensor, input_ids: Tensor, attention_mask: Tensor, state: Tensor) -> tuple[Tensor, ...]:
        """As `read`: tokens, state, and the masks for text and for images (`compress.models.flow`)."""
        found = self.read(pixels, input_ids, attention_mask, state)
        return found.tokens, found.state, found.masks[TEXT], found.masks[IMAGES]

    def advance(self, chunk: Tensor, rows: tuple[Tensor, ...], context: tuple[Tensor, ...], share: float) -> Tensor:
        """One step of Euler's method towards time 1."""
        tokens, state, text, images = context
        seen = Context(tokens, {TEXT: text, IMAGES: images}, state)
        return chunk + self.velocity(seen, chunk, (rows[0], rows[1])).to(chunk.dtype) * share

    def tables(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """What differs between the sampler's steps: `time_features` of each, float32."""
        steps, buckets = self.config.steps, self.config.buckets
        return self.time_features(torch.tensor([int(n / steps * buckets) for n in range(steps)], device=device))

    def time_features(self, ticks: Tensor) -> tuple[Tensor, Tensor]:
        """Whole ticks (N,) -> what the blocks (N, 256) and what the action encoder (N, head width) see of them."""
        half, width = TIME_CHANNELS // 2, self.config.head.width // 2
        blocks, actions = waves(ticks, half, half - 1), waves(ticks, width, width)
        return torch.cat([blocks.cos(), blocks.sin()], dim=-1), torch.cat([actions.sin(), actions.cos()], dim=-1)
