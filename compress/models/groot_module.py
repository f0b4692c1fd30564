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
        for_blocks, for_actions = (part.to(noisy.dtype).expand(batch, -1) for part in time)
        actions = self.head.action_encoder(noisy, for_actions)
        if self.config.head.positions:
            actions = actions + self.head.position_embedding.weight[:horizon]
        tokens = torch.cat([context.state, actions], dim=1)
        found = self.head.model(tokens, for_blocks, context.tokens, context.masks)
        velocity: Tensor = self.head.action_decoder(found[:, -horizon:])
        return velocity

    def time_features(self, ticks: Tensor) -> tuple[Tensor, Tensor]:
        """Whole ticks (N,) -> what the blocks (N, 256) and what the action encoder (N, head width) see of them."""
        half, width = TIME_CHANNELS // 2, self.config.head.width // 2
        blocks, actions = waves(ticks, half, half - 1), waves(ticks, width, width)
        return torch.cat([blocks.cos(), blocks.sin()], dim=-1), torch.cat([actions.sin(), actions.cos()], dim=-1)


class GrootSampler(nn.Module):
    """The exported graph: observation -> normalised chunk, Euler steps unrolled, always from the same noise."""

    def __init__(self, network: GrootNetwork, noise: Tensor, horizon: int, action_dim: int) -> None:
        """`noise` (max_horizon, max_action_dim) is where sampling starts; the robot's part is cut out at the end."""
        super().__init__()
        self.network, self.horizon, self.action_dim = network, horizon, action_dim
        self.steps, buckets = network.config.steps, network.config.buckets
        ticks = torch.tensor([int(step / self.steps * buckets) for step in range(self.steps)], device=noise.device)
        self.noise: Tensor
        self.for_blocks: Tensor
        self.for_actions: Tensor
        self.register_buffer("noise", noise, persistent=False)
        for name, part in zip(("for_blocks", "for_actions"), network.time_features(ticks), strict=True):
            self.register_buffer(name, part, persistent=False)

    def forward(self, pixels: Tensor, input_ids: Tensor, attention_mask: Tensor, state: Tensor) -> Tensor:
        """Inputs as `GrootNetwork.read` -> (B, H, A)."""
        context = self.network.read(pixels, input_ids, attention_mask, state)
        chunk = self.noise.expand(pixels.shape[0], -1, -1)
        for step in range(self.steps):
            time = self.for_blocks[step : step + 1], self.for_actions[step : step + 1]
            chunk = chunk + self.network.velocity(context, chunk, time) / self.steps
        found = chunk[:, : self.horizon, : self.action_dim]
        return found.clamp(-1.0, 1.0) if self.network.config.clip else found
