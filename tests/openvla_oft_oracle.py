# SPDX-License-Identifier: Apache-2.0
"""OpenVLA-OFT computed a second time, from its published description and tensor names alone: plain torch, one sample.

No part of `compress` is used. Towers are timm's (fused query, key and value; all blocks, tapped behind the last but
one), the prompt has no padding and no mask exists.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = Mapping[str, Tensor]
WIDTH, MLP, HEADS, DEPTH, VOCABULARY = 32, 64, 4, 4, 32064
TOWER_HEADS, PATCH, SIDE = 16, 14, 2
BOS, SUFFIX, STOP = 1, 29871, 2
FEATURIZER, FUSED = "vision_backbone.featurizer.", "vision_backbone.fused_featurizer."
TOWERS = {FEATURIZER: (32, 64, 4, 3), FUSED: (48, 80, 5, 0)}  # width, MLP width, blocks, tokens before the patches


def shapes(film: bool = False) -> dict[str, tuple[int, ...]]:
    """Every tensor of the published base network: name -> shape."""
    found: dict[str, tuple[int, ...]] = {}
    for root, (width, hidden, depth, prefix) in TOWERS.items():
        found |= {f"{root}pos_embed": (1, SIDE * SIDE, width), **_linear(f"{root}norm", width)}
        found |= _linear(f"{root}patch_embed.proj", width, 3, PATCH, PATCH)
        if prefix:
            found |= {f"{root}cls_token": (1, 1, width), f"{root}reg_token": (1, prefix - 1, width)}
        else:
            found |= {f"{root}attn_pool.latent": (1, 1, width), **_linear(f"{root}attn_pool.norm", width)}
            found |= {**_linear(f"{root}attn_pool.q", width, width), **_linear(f"{root}attn_pool.kv", 2 * width, width)}
            found |= {**_linear(f"{root}attn_pool.proj", width, width), **_mlp(f"{root}attn_pool.mlp", width, hidden)}
        for index in range(depth):
            place = f"{root}blocks.{index}."
            if film:
                found |= {**_linear(f"{place}scale", width, WIDTH), **_linear(f"{place}shift", width, WIDTH)}
                place += "block."
            found |= {**_linear(f"{place}norm1", width), **_linear(f"{place}norm2", width)}
            found |= {**_linear(f"{place}attn.qkv", 3 * width, width), **_linear(f"{place}attn.proj", width, width)}
            found |= _mlp(f"{place}mlp", width, hidden)
            if prefix:
                found |= {f"{place}ls1.scale_factor": (width,), f"{place}ls2.scale_factor": (width,)}
    seen = sum(width for width, _, _, _ in TOWERS.values())
    for number, (out, size) in enumerate([(4 * seen, seen), (WIDTH, 4 * seen), (WIDTH, WIDTH)], 1):
        found |= _linear(f"projector.fc{number}", out, size)
    root = "language_model.model."
    found |= {f"{root}embed_tokens.weight": (VOCABULARY, WIDTH), f"{root}norm.weight": (WIDTH,)}
    found["language_model.lm_head.weight"] = (VOCABULARY, WIDTH)
    for index in range(DEPTH):
        place = f"{root}layers.{index}."
        found |= {f"{place}{name}.weight": (WIDTH,) for name in ("input_layernorm", "post_attention_layernorm")}
        found |= {f"{place}self_attn.{name}_proj.weight": (WIDTH, WIDTH) for name in "qkvo"}
        found |= {f"{place}mlp.{name}_proj.weight": (MLP, WIDTH) for name in ("gate", "up")}
        found[f"{place}mlp.down_proj.weight"] = (WIDTH, MLP)
    return found


def head_shapes(actions: int, start: str) -> dict[str, tuple[int, ...]]:
    """An action head; `start` is `model.` (L1) or `noise_predictor.mlp_resnet.` (diffusion)."""
    found = {**_linear(f"{start}layer_norm1", WIDTH * actions), **_linear(f"{start}fc1", WIDTH, WIDTH * actions)}
    for index in range(2):
        place = f"{start}mlp_resnet_blocks.{index}.ffn."
        found |= {**_linear(f"{place}0", WIDTH), **_linear(f"{place}1", WIDTH, WIDTH)}
    return found | _linear(f"{start}layer_norm2", WIDTH) | _linear(f"{start}fc2", actions, WIDTH)


def projector_shapes(size: int) -> dict[str, tuple[int, ...]]:
    """The projector of the state, or of noisy actions."""
    return {**_linear("fc1", WIDTH, size), **_linear("fc2", WIDTH, WIDTH)}


def draw(sizes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
    """Random tensors; vectors around one (norms, scales) or zero (biases)."""
    source = torch.Generator().manual_seed(seed)
    made = {}
    for name, size in sizes.items():
        value = torch.randn(size, generator=source)
        scales = len(size) == 1 and not name.endswith("bias")
        made[name] = 1 + 0.2 * value if scales else value * (0.1 if len(size) == 1 else 1.2 * size[-1] ** -0.5)
    return made


def _linear(name: str, out: int, *sizes: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, *sizes), f"{name}.bias": (out,)}


def _mlp(name: str, width: int, hidden: int) -> dict[str, tuple[int, ...]]:
    return {**_linear(f"{name}.fc1", hidden, width), **_linear(f"{name}.fc2", width, hidden)}


def _apply(w: Weights, name: str, x: Tensor) -> Tensor:
    return F.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))


def _norm(w: Weights, name: str, x: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps)


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(B, heads, L, size) each -> (B, L, heads * size); everything sees everything."""
    share = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
    return (share @ v).transpose(1, 2).flatten(2)


def tower(w: Weights, root: str, pixels: Tensor, language: Tensor | None = None) -> Tensor:
    """One tower's features, (C, N, width) of pixels (C, 3, H, W) in its own normalisation."""
    x = F.conv2d(pixels, w[f"{root}patch_embed.proj.weight"], w[f"{root}patch_embed.proj.bias"], stride=PATCH)
    x = x.flatten(2).transpose(1, 2) + w[f"{root}pos_embed"]
    depth, prefix = TOWERS[root][2:]
    if prefix:
        x = torch.cat([w[f"{root}{n}"].expand(len(x), -1, -1) for n in ("cls_token", "reg_token")] + [x], dim=1)
    tapped = x
    for index in range(depth):
        place = outer = f"{root}blocks.{index}."
        if language is not None:
            place += "block."
        qkv = _apply(w, f"{place}attn.qkv", _norm(w, f"{place}norm1", x, 1e-6))
        q, k, v = qkv.unflatten(-1, (3, TOWER_HEADS, -1)).permute(2, 0, 3, 1, 4)
        x = x + w.get(f"{place}ls1.scale_factor", torch.ones(())) * _apply(w, f"{place}attn.proj", _attend(q, k, v))
        if language is not None:
            x = x * (1 + _apply(w, f"{outer}scale", language)) + _apply(w, f"{outer}shift", language)
        inner = F.gelu(_apply(w, f"{place}mlp.fc1", _norm(w, f"{place}norm2", x, 1e-6)))
        x = x + w.get(f"{place}ls2.scale_factor", torch.ones(())) * _apply(w, f"{place}mlp.fc2", inner)
        if index == depth - 2:
            tapped = x
    return tapped[:, prefix:]


def _rms(x: Tensor, weight: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * weight


def _turn(x: Tensor) -> Tensor:
    """Rotary positions 0, 1, 2, ... of (B, heads, L, size)."""
    half = x.shape[-1] // 2
    angle = torch.arange(x.shape[2])[:, None] * 10_000.0 ** (-torch.arange(half) / half)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], dim=-1)


def llama(w: Weights, x: Tensor) -> Tensor:
    """Embeddings (1, L, W) -> hidden states behind the final norm; sublayers without tensors are not there."""
    root = "language_model.model."
    for index in range(DEPTH):
        place = f"{root}layers.{index}."
        if f"{place}self_attn.q_proj.weight" in w:
            h = _rms(x, w[f"{place}input_layernorm.weight"])
            q, k, v = (
                _apply(w, f"{place}self_attn.{n}_proj", h).unflatten(-1, (HEADS, -1)).transpose(1, 2) for n in "qkv"
            )
            x = x + _apply(w, f"{place}self_attn.o_proj", _attend(_turn(q), _turn(k), v))
        if f"{place}mlp.up_proj.weight" in w:
            h = _rms(x, w[f"{place}post_attention_layernorm.weight"])
            gate = F.silu(_apply(w, f"{place}mlp.gate_proj", h))
            x = x + _apply(w, f"{place}mlp.down_proj", gate * _apply(w, f"{place}mlp.up_proj", h))
    return _rms(x, w[f"{root}norm.weight"])


def head(w: Weights, start: str, hidden: Tensor, actions: int) -> Tensor:
    """(1, H * A, W) -> (H, A)."""
    x = hidden.reshape(-1, actions * WIDTH)
    x = F.relu(_apply(w, f"{start}fc1", _norm(w, f"{start}layer_norm1", x, 1e-5)))
    for index in range(2):
        place = f"{start}mlp_resnet_blocks.{index}.ffn."
        x = x + F.relu(_apply(w, f"{place}1", _norm(w, f"{place}0", x, 1e-5)))
    return _apply(w, f"{start}fc2", _norm(w, f"{start}layer_norm2", x, 1e-5))


def project(w: Weights, x: Tensor) -> Tensor:
    """State or noisy actions -> language width."""
    return _apply(w, "fc2", F.gelu(_apply(w, "fc1", x)))


def sequence(w: Weights, parts: Mapping[str, Weights], dino: Tensor, siglip: Tensor, prompt: list[int], state: Tensor,
             film: bool) -> Callable[[Tensor, list[Tensor]], Tensor]:  # fmt: skip
    """An observation -> what turns slots (1, H * A, W), and tokens behind the state, into the states the head reads."""
    table = w["language_model.model.embed_tokens.weight"]
    words = [*prompt, SUFFIX]
    language = table[[*words, STOP]].mean(0) if film else None
    features = torch.cat([tower(w, FEATURIZER, dino, language), tower(w, FUSED, siglip, language)], dim=-1)
    patches = F.gelu(_apply(w, "projector.fc2", F.gelu(_apply(w, "projector.fc1", features))))
    patches = _apply(w, "projector.fc3", patches).flatten(0, 1)
    proprio = project(parts["proprio_projector"], state)[None]

    def read(slots: Tensor, more: list[Tensor]) -> Tensor:
        front = torch.cat([table[[BOS]], patches, proprio, *more])
        tokens = torch.cat([front, table[words[1:]], slots[0], table[[STOP]]])[None]
        first = len(front) + len(words) - 2  # one before the first slot
        return llama(w, tokens)[:, first : first + slots.shape[1]]

    return read


def denoise(
    read: Callable[[Tensor, list[Tensor]], Tensor], parts: Mapping[str, Weights], start: Tensor, levels: int, steps: int
) -> Tensor:
    """DDIM with eta 0 over the squared-cosine schedule, from `start` (H, A)."""
    noise_left = [math.cos((i / levels + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(levels + 1)]
    share, kept = 1.0, []
    for i in range(levels):
        share *= 1 - min(1 - noise_left[i + 1] / noise_left[i], 0.999)
        kept.append(share)
    x, stride = start, levels // steps
    for level in reversed(range(0, stride * steps, stride)):
        rates = torch.exp(-math.log(10_000.0) * torch.arange(WIDTH // 2) / (WIDTH // 2 - 1))
        moment = torch.cat([(level * rates).sin(), (level * rates).cos()])[None]
        slots = project(parts["noisy_action_projector"], x.reshape(1, -1, 1))
        noise = head(parts["action_head"], "noise_predictor.mlp_resnet.", read(slots, [moment]), start.shape[1])
        clean = ((x - math.sqrt(1 - kept[level]) * noise) / math.sqrt(kept[level])).clamp(-1, 1)
        later = kept[level - stride] if level >= stride else 1.0
        x = math.sqrt(later) * clean + math.sqrt(1 - later) * noise
    return x
