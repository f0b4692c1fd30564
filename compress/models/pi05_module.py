# SPDX-License-Identifier: Apache-2.0
"""The network of pi0.5: transformers' PaliGemma, and a Gemma expert whose norms are steered by the flow's time.

transformers has no class for it. Attention, MLP and rotary angles are transformers' own; what is new here is the
adaptive norm: from the embedded time c, a linear layer gives scale s, shift t and gate g, and each half of a block is

    h + g * writer(norm(h) * (1 + s) + t)

so a writer reaches the stream through a factor per channel that does not depend on what it writes. The state has no
token: it is part of the prompt. (arXiv 2504.16054; openpi's `models_pytorch` and LeRobot's `pi_gemma` agree.)
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PaliGemmaModel, PI0Config
from transformers.models.gemma.modeling_gemma import GemmaAttention, GemmaMLP, GemmaRotaryEmbedding
from transformers.models.pi0.modeling_pi0 import PI0TimestepEmbeddings

from compress.models.pi0_graph import Prefix, PrefixCache


class AdaRmsNorm(nn.Module):
    """RMS norm in float32 whose scale, shift and gate follow a condition."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.dense = nn.Linear(width, 3 * width)
        nn.init.zeros_(self.dense.weight)  # a fresh block writes nothing, as published
        nn.init.zeros_(self.dense.bias)

    def forward(self, hidden: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Stream (B, L, D) and condition (B, D) -> normed stream (B, L, D) and gate (B, 1, D)."""
        scale, shift, gate = self.dense(condition.to(self.dense.weight.dtype))[:, None].float().chunk(3, dim=-1)
        wide = hidden.float()
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return (normed * (1.0 + scale) + shift).to(hidden.dtype), gate.to(hidden.dtype)


class AdaBlock(nn.Module):
    """One block of the expert."""

    def __init__(self, config: Any, index: int) -> None:
        super().__init__()
        self.self_attn = GemmaAttention(config, index)
        self.mlp = GemmaMLP(config)
        self.input_layernorm = AdaRmsNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = AdaRmsNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self, hidden: Tensor, condition: Tensor, mask: Tensor, angles: tuple[Tensor, Tensor], cache: PrefixCache | None
    ) -> Tensor:
        """Stream (B, L, D) -> stream; mask (B, 1, L, P + L), rotary cosine and sine, keys and values of the prefix."""
        normed, gate = self.input_layernorm(hidden, condition)
        attended, _ = self.self_attn(hidden_states=normed, position_embeddings=angles, attention_mask=mask, cache=cache)
        hidden = hidden + gate * attended
        normed, gate = self.post_attention_layernorm(hidden, condition)
        return hidden + gate * cast(Tensor, self.mlp(normed))


class AdaExpert(nn.Module):
    """The expert's stack."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        config._attn_implementation = config._attn_implementation or "sdpa"
        self.config = config
        self.layers = nn.ModuleList(AdaBlock(config, index) for index in range(config.num_hidden_layers))
        self.norm = AdaRmsNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary_emb = GemmaRotaryEmbedding(config)

    def forward(
        self, embeds: Tensor, condition: Tensor, mask: Tensor, positions: Tensor, cache: PrefixCache | None
    ) -> Tensor:
        """Embeddings (B, L, D) at positions (B, L) -> last hidden states (B, L, D), normed."""
        angles = self.rotary_emb(embeds, positions)
        hidden = embeds
        for block in self.layers:
            hidden = block(hidden, condition, mask, angles, cache)
        return cast(Tensor, self.norm(hidden, condition)[0])


class Pi05Module(nn.Module):
    """All weights of pi0.5."""

    def __init__(self, config: PI0Config) -> None:
        super().__init__()
        width = config.dit_config.hidden_size
        self.paligemma = PaliGemmaModel(config.vlm_config)
        self.expert = AdaExpert(config.dit_config)
        self.action_in_proj = nn.Linear(config.max_action_dim, width)
        self.action_out_proj = nn.Linear(width, config.max_action_dim)
        self.time_mlp_in = nn.Linear(width, width)
        self.time_mlp_out = nn.Linear(width, width)
        self.sinusoid_embeds = PI0TimestepEmbeddings(config)

    @property
    def vlm(self) -> Any:
        """PaliGemma."""
        return self.paligemma

    def condition(self, time: Tensor) -> Tensor:
        """Times (B,) -> what steers the norms, (B, D)."""
        embedded = self.sinusoid_embeds(time).to(self.time_mlp_in.weight.dtype)
        return F.silu(self.time_mlp_out(F.silu(self.time_mlp_in(embedded))))

    def velocity(self, prefix: Prefix, state: Tensor, noisy: Tensor, time: Tensor) -> Tensor:
        """Noisy actions (B, H, A), times (B,) -> velocity (B, H, A); the state is in the prefix already."""
        del state
        embeds = self.action_in_proj(noisy.to(self.action_in_proj.weight.dtype))
        embeds = embeds.to(self.paligemma.get_input_embeddings().weight.dtype)
        mask, positions = prefix.suffix(embeds.shape[1], alone=0, dtype=embeds.dtype)
        hidden = self.expert(embeds, self.condition(time), mask, positions, prefix.cache)
        return cast(Tensor, self.action_out_proj(hidden.to(self.action_out_proj.weight.dtype)))
