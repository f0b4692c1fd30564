# SPDX-License-Identifier: Apache-2.0
"""GR00T N1.7's action head: a diffusion transformer on the VLM's tokens, for one robot.

Written from NVIDIA's published description under its tensor names. Upstream keeps one set of encoders and decoders per
robot (`max_num_embodiments`); here there is the one that this robot uses. Dropout is for training upstream and absent
here: a loss is a function of its batch and seed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.models.groot_config import GrootConfig, HeadShape

TIME_CHANNELS = 256
WAVELENGTH = 10_000.0
TEXT, IMAGES = "text", "images"


class Attention(nn.Module):
    """Attention of `width` on itself or on a context of `context_width`."""

    def __init__(self, width: int, heads: int, head_dim: int, context_width: int | None = None) -> None:
        super().__init__()
        inner = heads * head_dim
        self.heads = heads
        self.to_q = nn.Linear(width, inner)
        self.to_k = nn.Linear(context_width or width, inner)
        self.to_v = nn.Linear(context_width or width, inner)
        self.to_out = nn.Sequential(nn.Linear(inner, width))

    def forward(
        self, hidden_states: Tensor, context: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, None]:
        """(B, L, width), context (B, S, context width), additive mask (B, 1, 1, S) -> (B, L, width)."""
        read = hidden_states if context is None else context
        query, key, value = (
            projected.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projected in (self.to_q(hidden_states), self.to_k(read), self.to_v(read))
        )
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.to_out(mixed.transpose(1, 2).flatten(2)), None


class Gelu(nn.Module):
    """A projection and the tanh form of GELU."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, inner)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(..., width) -> (..., inner)."""
        return F.gelu(self.proj(hidden_states), approximate="tanh")


class FeedForward(nn.Module):
    """Four times the width inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.ModuleList([Gelu(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width)])

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(..., width) -> the same."""
        found: Tensor = self.net[2](self.net[0](hidden_states))
        return found


class AdaptiveNorm(nn.Module):
    """A norm whose scale and shift come from the flow's time."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 2 * width)
        self.norm = nn.LayerNorm(width, 1e-5, elementwise_affine=False)

    def forward(self, hidden_states: Tensor, time: Tensor) -> Tensor:
        """(B, L, width), time (B, width) -> (B, L, width)."""
        scale, shift = self.linear(F.silu(time)).unsqueeze(1).chunk(2, dim=-1)
        found: Tensor = self.norm(hidden_states) * (1 + scale) + shift
        return found


class FlowBlock(nn.Module):
    """One block of the diffusion transformer; `reads` says what it attends to: itself (None), text or images."""

    def __init__(self, shape: HeadShape, context_width: int, place: int) -> None:
        super().__init__()
        self.reads = None if place % 2 else TEXT if place % shape.period == 0 else IMAGES
        self.norm1 = AdaptiveNorm(shape.width)
        self.attn1 = Attention(shape.width, shape.heads, shape.head_dim, context_width if self.reads else None)
        self.norm3 = nn.LayerNorm(shape.width, 1e-5, elementwise_affine=False)
        self.ff = FeedForward(shape.width)

    def forward(self, hidden_states: Tensor, time: Tensor, context: Tensor, masks: dict[str, Tensor]) -> Tensor:
        """(B, 1 + H, width) -> the same; masks by what a block reads."""
        normed = self.norm1(hidden_states, time)
        read = (normed,) if self.reads is None else (normed, context, masks[self.reads])
        hidden_states = hidden_states + self.attn1(*read)[0]
        found: Tensor = hidden_states + self.ff(self.norm3(hidden_states))
        return found


class ContextBlock(nn.Module):
    """One block on the VLM's tokens."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, 1e-5)
        self.attn1 = Attention(width, heads, width // heads)
        self.norm3 = nn.LayerNorm(width, 1e-5)
        self.ff = FeedForward(width)

    def forward(self, hidden_states: Tensor, mask: Tensor) -> Tensor:
        """(B, T, width), additive mask (B, 1, 1, T) -> (B, T, width)."""
        hidden_states = hidden_states + self.attn1(self.norm1(hidden_states), None, mask)[0]
        found: Tensor = hidden_states + self.ff(self.norm3(hidden_states))
        return found


class ContextStack(nn.Module):
    """The blocks on the VLM's tokens."""

    def __init__(self, config: GrootConfig) -> None:
        super().__init__()
        shape = config.head
        self.transformer_blocks = nn.ModuleList(
            ContextBlock(config.vlm.width, shape.context_heads) for _ in range(shape.context_blocks)
        )

    def forward(self, hidden_states: Tensor, mask: Tensor) -> Tensor:
        """(B, T, width) -> the same."""
        for block in self.transformer_blocks:
            hidden_states = block(hidden_states, mask)
        return hidden_states


class TimeEncoder(nn.Module):
    """Time features -> the vector that the blocks' norms are adapted by."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.timestep_embedder = nn.ModuleDict(
            {"linear_1": nn.Linear(TIME_CHANNELS, width), "linear_2": nn.Linear(width, width)}
        )

    def forward(self, features: Tensor) -> Tensor:
        """(B, 256) -> (B, width)."""
        embed = self.timestep_embedder
        found: Tensor = embed["linear_2"](F.silu(embed["linear_1"](features)))
        return found


class FlowTransformer(nn.Module):
    """The diffusion transformer."""

    def __init__(self, config: GrootConfig) -> None:
        super().__init__()
        shape = config.head
        self.timestep_encoder = TimeEncoder(shape.width)
        self.transformer_blocks = nn.ModuleList(FlowBlock(shape, config.vlm.width, i) for i in range(shape.blocks))
        self.norm_out = nn.LayerNorm(shape.width, 1e-6, elementwise_affine=False)
        self.proj_out_1 = nn.Linear(shape.width, 2 * shape.width)
        self.proj_out_2 = nn.Linear(shape.width, shape.hidden)

    def forward(self, tokens: Tensor, features: Tensor, context: Tensor, masks: dict[str, Tensor]) -> Tensor:
        """(B, 1 + H, width), time features (B, 256) -> (B, 1 + H, hidden)."""
        time = self.timestep_encoder(features)
        for block in self.transformer_blocks:
            tokens = block(tokens, time, context, masks)
        shift, scale = self.proj_out_1(F.silu(time)).unsqueeze(1).chunk(2, dim=-1)
        found: Tensor = self.proj_out_2(self.norm_out(tokens) * (1 + scale) + shift)
        return found


class TwoLayers(nn.Module):
    """A robot's own state encoder or action decoder."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.layer1, self.layer2 = nn.Linear(inputs, hidden), nn.Linear(hidden, outputs)

    def forward(self, values: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        found: Tensor = self.layer2(F.relu(self.layer1(values)))
        return found


class ActionEncoder(nn.Module):
    """A robot's own encoder of noisy actions and time."""

    def __init__(self, actions: int, width: int) -> None:
        super().__init__()
        self.W1, self.W2, self.W3 = (
            nn.Linear(actions, width), nn.Linear(2 * width, width), nn.Linear(width, width)
        )  # fmt: skip

    def forward(self, noisy: Tensor, features: Tensor) -> Tensor:
        """(B, H, actions), time features (B, width) -> (B, H, width)."""
        seen = self.W1(noisy)
        found: Tensor = self.W3(F.silu(self.W2(torch.cat([seen, features.unsqueeze(1).expand_as(seen)], dim=-1))))
        return found


class ActionHead(nn.Module):
    """State, noisy chunk and the VLM's tokens -> velocity."""

    def __init__(self, config: GrootConfig) -> None:
        super().__init__()
        shape = config.head
        self.vlln = nn.LayerNorm(config.vlm.width)
        self.vl_self_attention = ContextStack(config)
        self.model = FlowTransformer(config)
        self.state_encoder = TwoLayers(config.max_state_dim, shape.hidden, shape.width)
        self.action_encoder = ActionEncoder(config.max_action_dim, shape.width)
        self.action_decoder = TwoLayers(shape.hidden, shape.hidden, config.max_action_dim)
        if shape.positions:
            self.position_embedding = nn.Embedding(shape.positions, shape.width)


def waves(ticks: Tensor, channels: int, last: int) -> Tensor:
    """Angles of `channels` wavelengths from 1 up to 10000 (at index `last`), (N,) -> (N, channels) float32."""
    exponents = torch.arange(channels, dtype=torch.float32, device=ticks.device) * (-math.log(WAVELENGTH) / last)
    return ticks.float()[:, None] * exponents.exp()
