# SPDX-License-Identifier: Apache-2.0
"""The network of SmolVLA: transformers' SmolVLM, and an action expert that reads its keys and values block by block.

    cameras -> SigLIP -> pixel shuffle + projection (x sqrt D) --+
    prompt -> token embeddings (x sqrt D) -----------------------+-> language block i: keys, values i --+
    state -> projection -----------------------------------------+                                      |
    noisy chunk + time -> MLP -> expert block i: even: queries, keys, values of its own beside the VLM's <-+
                                                 odd: queries of its own on the VLM's keys, values re-projected

The prefix is computed once, the expert once per Euler step. Images and words attend to each other and not to the
state; the state attends to all of them; step k of the chunk attends to the prefix and to steps up to k. Upstream runs
prefix and chunk through one joint pass for its loss; the masks make both the same (`tests/test_smolvla.py`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig, SmolVLMModel, SmolVLMVisionConfig
from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaDecoderLayer,
    LlamaRMSNorm,
    apply_rotary_pos_emb,
    repeat_kv,
)
from transformers.models.smolvlm.modeling_smolvlm import SmolVLMVisionEmbeddings

from compress.models.smolvla_config import SmolVlaConfig, expert_config, vlm_config

Rotation = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Prefix:
    """What the expert reads of one observation.

    Attributes:
        seen: bool (B, L), false where a token is padding.
        layers: per language block, keys (rotated) and values, (B, KV heads, L, head size) each.
    """

    seen: Tensor
    layers: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """As transformers' caches: language block `layer` leaves its keys and values here."""
        if layer != len(self.layers):
            raise IndexError(f"language block {layer} ran after {len(self.layers)} others")
        self.layers.append((keys, values))
        return keys, values


@dataclass(frozen=True)
class ExpertView:
    """The prefix as a cache that the expert's blocks read and never write."""

    prefix: Prefix

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Keys and values of language block `layer`, followed by the expert's own."""
        k, v = self.prefix.layers[layer]
        return torch.cat([k, keys], dim=2), torch.cat([v, values], dim=2)


class CrossAttention(LlamaAttention):
    """Queries of the expert on one language block's keys and values, which are projected once more."""

    def __init__(self, config: LlamaConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        size = config.num_key_value_heads * self.head_dim
        self.k_proj = nn.Linear(size, size, bias=False)
        self.v_proj = nn.Linear(size, size, bias=False)

    def forward(
        self, hidden_states: Tensor, position_embeddings: Rotation, attention_mask: Tensor,
        cache: ExpertView, **_: Any,
    ) -> tuple[Tensor, None]:  # fmt: skip
        """(B, H, expert width) -> the same; the mask is (B, 1, H, L) and the cache the expert's view."""
        shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        query = self.q_proj(hidden_states).view(shape).transpose(1, 2)
        query, _same = apply_rotary_pos_emb(query, query, *position_embeddings)
        found = cache.prefix.layers[self.layer_idx]
        key, value = (self._again(p, x) for p, x in zip((self.k_proj, self.v_proj), found, strict=True))
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask, scale=self.scaling)
        return self.o_proj(mixed.transpose(1, 2).reshape(*hidden_states.shape[:-1], -1)), None

    def _again(self, projection: nn.Module, states: Tensor) -> Tensor:
        """(B, KV heads, L, head size) -> projected, one copy per query head."""
        flat: Tensor = projection(states.transpose(1, 2).flatten(2))
        split = flat.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        return repeat_kv(split, self.num_key_value_groups)


class Expert(nn.Module):
    """The blocks of the action expert and its last norm."""

    def __init__(self, config: SmolVlaConfig) -> None:
        super().__init__()
        shape = expert_config(config)
        self.layers = nn.ModuleList(LlamaDecoderLayer(shape, i) for i in range(config.depth))
        for i, layer in enumerate(self.layers):
            if config.crosses(i):
                layer.self_attn = CrossAttention(shape, i)
        self.norm = LlamaRMSNorm(shape.hidden_size, eps=shape.rms_norm_eps)


class SmolVlaNetwork(nn.Module):
    """All parameters that an action can depend on: no language-model head and no last language norm."""

    def __init__(self, config: SmolVlaConfig, image_size: int) -> None:
        """Random weights; `image_size` [px] is the side of every camera image."""
        super().__init__()
        self.config = config
        width, expert = config.text.width, config.expert_width
        self.vlm = SmolVLMModel(vlm_config(config))
        self.vlm.text_model.norm = nn.Identity()
        self.expert = Expert(config)
        self.state_proj = nn.Linear(config.max_state_dim, width)
        self.action_in_proj = nn.Linear(config.max_action_dim, expert)
        self.action_time_mlp_in = nn.Linear(2 * expert, expert)
        self.action_time_mlp_out = nn.Linear(expert, expert)
        self.action_out_proj = nn.Linear(expert, config.max_action_dim)
        self.register_buffer("places", patch_places(config, image_size), persistent=False)

    def see(self, pixels: Tensor) -> Tensor:
        """(B, C, 3, H, W) in -1..1 -> image tokens (B, C * N, D)."""
        tower = self.vlm.vision_model
        patches = tower.embeddings.patch_embedding(pixels.flatten(0, 1)).flatten(2).transpose(1, 2)
        hidden = patches + tower.embeddings.position_embedding(self.places)
        for block in tower.encoder.layers:
            hidden = block(hidden, None)
        tokens: Tensor = self.vlm.connector(tower.post_layernorm(hidden))
        return tokens.reshape(pixels.shape[0], -1, tokens.shape[-1])

    def read(self, pixels: Tensor, input_ids: Tensor, attention_mask: Tensor, state: Tensor) -> Prefix:
        """Run the VLM once.

        Args:
            pixels: (B, C, 3, H, W), normalised.
            input_ids, attention_mask: int64 (B, T), right-padded.
            state: (B, S), normalised.
        """
        text = self.vlm.text_model
        images, words = self.see(pixels), text.embed_tokens(input_ids)
        filled = F.pad(state, (0, self.config.max_state_dim - state.shape[-1]))
        scale = math.sqrt(self.config.text.width)
        hidden = torch.cat([images * scale, words * scale, self.state_proj(filled).unsqueeze(1)], dim=1)
        real = attention_mask.new_ones(images.shape[0], images.shape[1])
        seen = torch.cat([real, attention_mask, real[:, :1]], dim=1)  # (B, L)
        rotation = text.rotary_emb(hidden, seen.cumsum(1) - 1)
        length = hidden.shape[1]
        early = torch.ones(length, length, dtype=torch.bool, device=hidden.device)
        early[:-1, -1] = False  # only the state sees the state
        mask = blocked(seen.bool()[:, None, None, :] & early, hidden.dtype)
        prefix = Prefix(seen.bool())
        for block in text.layers:
            hidden = block(hidden, attention_mask=mask, position_embeddings=rotation, cache=prefix)
        text.norm(hidden)  # nobody reads it; the probe looks here
        return prefix

    def velocity(self, prefix: Prefix, noisy: Tensor, time: Tensor) -> Tensor:
        """The flow's velocity at a noisy chunk.

        Args:
            prefix: of the observation.
            noisy: (B, H, max_action_dim).
            time: features of the flow's time, (B, expert width) or (1, expert width).
        """
        embedded = self.action_in_proj(noisy)
        both = torch.cat([embedded, time.to(embedded.dtype).unsqueeze(1).expand_as(embedded)], dim=2)
        hidden = self.action_time_mlp_out(F.silu(self.action_time_mlp_in(both)))
        batch, horizon = hidden.shape[:2]
        rows = torch.arange(horizon, device=hidden.device)
        behind = prefix.seen.sum(1, keepdim=True) + rows
        rotary = self.vlm.text_model.rotary_emb
        past = prefix.seen[:, None, None, :].expand(batch, 1, horizon, -1)
        causal = (rows[:, None] >= rows).expand(batch, 1, horizon, horizon)
        joint = rotary(hidden, behind), blocked(torch.cat([past, causal], dim=3), hidden.dtype)
        alone = rotary(hidden, rows.expand(batch, -1)), blocked(past, hidden.dtype)
        view = ExpertView(prefix)
        for block in self.expert.layers:
            rotation, mask = alone if isinstance(block.self_attn, CrossAttention) else joint
            hidden = block(hidden, attention_mask=mask, position_embeddings=rotation, cache=view)
        found: Tensor = self.action_out_proj(self.expert.norm(hidden))
        return found

    def time_features(self, times: Tensor) -> Tensor:
        """Sines and cosines of the flow's time, (N,) -> (N, expert width) float64 on the same device."""
        c = self.config
        places = torch.linspace(0.0, 1.0, c.expert_width // 2, dtype=torch.float64, device=times.device)
        periods = c.min_period * (c.max_period / c.min_period) ** places
        angles = times.double()[:, None] * (2.0 * math.pi / periods)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


class SmolVlaSampler(nn.Module):
    """The exported graph: observation -> normalised chunk, Euler steps unrolled, always from the same noise."""

    def __init__(self, network: SmolVlaNetwork, noise: Tensor, action_dim: int) -> None:
        """`noise` (H, max_action_dim) is where sampling starts; `action_dim` of its columns are the robot's."""
        super().__init__()
        self.network = network
        self.action_dim = action_dim
        self.steps = network.config.steps
        times = torch.tensor([1.0 - step / self.steps for step in range(self.steps)], dtype=torch.float32)
        self.noise: Tensor
        self.times: Tensor
        self.register_buffer("noise", noise, persistent=False)
        self.register_buffer("times", network.time_features(times).float().to(noise.device), persistent=False)

    def forward(self, pixels: Tensor, input_ids: Tensor, attention_mask: Tensor, state: Tensor) -> Tensor:
        """Inputs as `SmolVlaNetwork.read` -> (B, H, A)."""
        prefix = self.network.read(pixels, input_ids, attention_mask, state)
        chunk = self.noise.expand(pixels.shape[0], -1, -1)
        for step in range(self.steps):
            chunk = chunk - self.network.velocity(prefix, chunk, self.times[step : step + 1]) / self.steps
        return chunk[..., : self.action_dim]


def blocked(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive mask: 0 where `visible`, the lowest number elsewhere."""
    return torch.zeros_like(visible, dtype=dtype).masked_fill(~visible, torch.finfo(dtype).min)


def patch_places(config: SmolVlaConfig, image_size: int) -> Tensor:
    """Rows of the position table for the patches of a full image, int64 (1, patches).

    SmolVLM's own embedding decides, rounding included: one of width 1 whose table counts and whose patches are zero.
    """
    v = config.vision
    with torch.device("cpu"), torch.no_grad():
        counter = SmolVLMVisionEmbeddings(
            SmolVLMVisionConfig(hidden_size=1, num_channels=1, image_size=v.image_size, patch_size=v.patch_size)
        )
        for parameter in counter.patch_embedding.parameters():
            parameter.zero_()
        counter.position_embedding.weight.copy_(torch.arange(counter.num_positions)[:, None])
        side = image_size // v.patch_size
        full = torch.ones(1, side, side, dtype=torch.bool)
        found: Tensor = counter(torch.zeros(1, 1, image_size, image_size), full)
    return found[..., 0].round().long()
