# SPDX-License-Identifier: Apache-2.0
"""Published tensor names (timm's towers, Prismatic's projector, Hugging Face's Llama) -> names in our network.

The published towers carry one block more than is read, a final norm and, in SigLIP, an attention pool; the language
model carries its word head. They are taken out here and counted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from compress.models.base import ModelError, Surgery
from compress.models.openvla_oft_config import VitShape

LAYER = re.compile(r"language_model\.model\.layers\.(\d+)\.(.+)")
BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")
LM_HEAD, ROTARY = "language_model.lm_head", ".rotary_emb.inv_freq"  # the latter is recomputed
HEADS = ("mlp_resnet.", "model.")
PREFIX = ("cls_token", "reg_token")  # in this order in the published sequence


@dataclass(frozen=True)
class TowerNames:
    """One tower: its place in the published file and here, and the names inside a block, published -> ours."""

    published: str
    ours: str
    qkv: tuple[str, str, str]
    inner: Mapping[str, str]


DINO_NAMES = TowerNames(
    "vision_backbone.featurizer.",
    "dinov2.",
    ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
    {
        "attn.proj": "attention.o_proj",
        "ls1.scale_factor": "layer_scale1.lambda1",
        "ls2.scale_factor": "layer_scale2.lambda1",
    },
)
SIGLIP_NAMES = TowerNames(
    "vision_backbone.fused_featurizer.",
    "siglip.",
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    {"attn.proj": "self_attn.out_proj", "norm1": "layer_norm1", "norm2": "layer_norm2"},
)
TOWERS = (DINO_NAMES, SIGLIP_NAMES)


@dataclass
class Renamed:
    """Tensors by our names, and what was left out: published name -> elements."""

    weights: dict[str, Tensor] = field(default_factory=dict)
    dead: dict[str, int] = field(default_factory=dict)

    def drop(self, name: str, value: Tensor) -> None:
        """Count a tensor as dead under `name`."""
        self.dead[name] = self.dead.get(name, 0) + value.numel()


def vit_shape(weights: Mapping[str, Tensor], names: TowerNames, heads: int) -> tuple[VitShape, int]:
    """Sizes of a published tower, up to the tap, and its patch size [px].

    Raises:
        ModelError: the tower is not there, or its blocks are not numbered from 0 without gaps.
    """
    own = {k.removeprefix(names.published): v for k, v in weights.items() if k.startswith(names.published)}
    found = sorted({int(match[1]) for name in own if (match := BLOCK.match(name))})
    if len(found) < 2 or found != list(range(len(found))):
        raise ModelError(f"{names.published}blocks: found blocks {found}, expected 0 to n without gaps, at least two")
    fc1 = next((value for name, value in sorted(own.items()) if name.endswith("mlp.fc1.weight")), None)
    positions, patches = own.get("pos_embed"), own.get("patch_embed.proj.weight")
    if fc1 is None or positions is None or patches is None:
        raise ModelError(f"{names.published}: no pos_embed, patch_embed.proj or mlp.fc1; copy the checkpoint again")
    prefix = sum(own[name].shape[1] for name in PREFIX if name in own)
    return VitShape(len(found) - 1, positions.shape[-1], heads, fc1.shape[0], prefix), patches.shape[-1]


def rename_tower(weights: Mapping[str, Tensor], names: TowerNames, depth: int, into: Renamed) -> None:
    """One tower's tensors, published -> ours; the block behind the tap, the final norm and the pool are dead."""
    prefix: dict[str, Tensor] = {}
    for published, value in weights.items():
        if not published.startswith(names.published):
            continue
        rest = published.removeprefix(names.published)
        match = BLOCK.match(rest)
        if match and int(match[1]) < depth:
            into.weights |= _block(names, int(match[1]), match[2], value)
        elif match or rest.startswith(("norm.", "attn_pool.")):
            into.drop(published if match is None else f"{names.published}blocks.{match[1]}.", value)
        elif rest in PREFIX:
            prefix[rest] = value
        else:
            ours = rest.replace("patch_embed.proj.", "patches.").replace("pos_embed", "positions")
            into.weights[names.ours + ours] = value
    if prefix:
        into.weights[f"{names.ours}prefix"] = torch.cat([prefix[name] for name in PREFIX if name in prefix], dim=1)


def _block(names: TowerNames, index: int, rest: str, value: Tensor) -> dict[str, Tensor]:
    """One tensor of a block; the fused query, key and value become three."""
    place = f"{names.ours}blocks.{index}."
    if rest.startswith(("scale.", "shift.")):  # FiLM
        return {place + rest: value}
    if rest.startswith("block."):
        place, rest = f"{place}block.", rest.removeprefix("block.")
    rest = rest.replace(".gamma", ".scale_factor")  # timm's own name, before upstream renames it
    if rest.startswith("attn.qkv."):
        kind, thirds = rest.removeprefix("attn.qkv."), value.chunk(3, dim=0)
        return {f"{place}{name}.{kind}": part.clone() for name, part in zip(names.qkv, thirds, strict=True)}
    for published, ours in names.inner.items():
        if rest == published or rest.startswith(f"{published}."):
            return {place + ours + rest.removeprefix(published): value}
    return {place + rest: value}


def rename_language(weights: Mapping[str, Tensor], surgery: Surgery, into: Renamed) -> None:
    """The language model and the projector; kept layers are numbered anew, norms of removed ones are dead."""
    where = {original: position for position, original in enumerate(surgery.kept)}
    gone = set(range(surgery.depth)) - set(surgery.kept)
    for published, value in weights.items():
        layer = LAYER.match(published)
        if published.startswith(f"{LM_HEAD}."):
            into.drop(published, value)
        elif published.endswith(ROTARY):
            continue
        elif layer is not None and int(layer[1]) in where:
            into.weights[f"language.layers.{where[int(layer[1])]}.{layer[2]}"] = value
        elif layer is not None and int(layer[1]) in gone:
            into.drop(f"{published.removesuffix(layer[2])}", value)
        elif not published.startswith(tuple(tower.published for tower in TOWERS)):
            into.weights[published.replace("language_model.model.", "language.", 1)] = value


def grouped(dead: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    """Dead tensors under the module that held them: `...blocks.23`, `...norm`, `...attn_pool`, `...lm_head`."""
    found: dict[str, int] = {}
    for name, size in dead.items():
        module = re.sub(r"(\.attn_pool|\.norm|\.lm_head)\..*$|\.$", r"\1", name)
        found[module] = found.get(module, 0) + size
    return tuple(sorted(found.items()))


def head_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An action head's state dict, L1 or diffusion, under `head.`."""
    renamed = {}
    for published, value in weights.items():
        rest = published.removeprefix("noise_predictor.")
        start = next((start for start in HEADS if rest.startswith(start)), "")
        renamed[f"head.{rest.removeprefix(start)}"] = value
    return renamed
