# SPDX-License-Identifier: Apache-2.0
"""The shape of an OpenVLA-OFT policy (arXiv 2502.19645) before any removal, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from compress.models.base import ModelError
from runtime.contract.codec import conform, decode, encode
from runtime.errors import ContractError

TEMPLATE = "In: What action should the robot take to {instruction}?\nOut:"  # with a lower-case instruction
SIGLIP_MEAN, SIGLIP_STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)  # what the graph's pixels are normalised with
DINO_MEAN, DINO_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class LlamaShape:
    """The language stack; the defaults are Llama-2 7B as OpenVLA builds it.

    `norm_eps` is that of transformers' default, which OpenVLA inherits, and not Llama-2's own 1e-5.
    """

    depth: int = 32
    width: int = 4096
    heads: int = 32
    kv_heads: int = 32
    mlp_width: int = 11008
    vocabulary: int = 32064
    norm_eps: float = 1e-6
    rope_base: float = 10_000.0

    def __post_init__(self) -> None:
        conform(self)


@dataclass(frozen=True)
class VitShape:
    """A vision tower; `depth` counts the blocks up to the tap, one fewer than the published tower has.

    `prefix` is the number of tokens before the patches: the class token and the registers.
    """

    depth: int
    width: int
    heads: int
    mlp_width: int
    prefix: int = 0

    def __post_init__(self) -> None:
        conform(self)


@dataclass(frozen=True)
class DiffusionShape:
    """DDIM: noise levels that the network was trained with, and how many of them the sampler visits."""

    levels: int = 50
    steps: int = 50

    def __post_init__(self) -> None:
        conform(self)
        if not 0 < self.steps <= self.levels:
            raise ContractError(f"DiffusionShape.steps: found {self.steps}, expected 1 to {self.levels} (levels)")


@dataclass(frozen=True)
class OpenVlaOftConfig:
    """Architecture of an OpenVLA-OFT policy before any removal.

    Attributes:
        language, dinov2, siglip: the stacks.
        image_size, patch_size: [px], of both towers.
        state_dim, action_dim, horizon: S, A and H.
        film: both towers are modulated by the mean language embedding.
        diffusion: None: the L1 head.
        bos_id: must be the first token of every prompt.
        suffix_id: the network puts it behind the prompt (Llama's empty token); the first action is read there.
        stop_id: the network puts it behind the action slots.
        clip_state: a normalised state is cut to -1..1, as published.
        dino_mean, dino_std: normalisation of DINOv2's pixels on the scale 0..1; SigLIP's is 0.5 and 0.5.
        dead_weights: (published name, elements) of what the checkpoint held and the network never reads.
    """

    language: LlamaShape
    dinov2: VitShape
    siglip: VitShape
    image_size: int = 224
    patch_size: int = 14
    state_dim: int = 8
    action_dim: int = 7
    horizon: int = 8
    film: bool = False
    diffusion: DiffusionShape | None = None
    bos_id: int = 1
    suffix_id: int = 29871
    stop_id: int = 2
    clip_state: bool = True
    dino_mean: tuple[float, float, float] = DINO_MEAN
    dino_std: tuple[float, float, float] = DINO_STD
    dead_weights: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        conform(self)
        last = max(self.bos_id, self.suffix_id, self.stop_id)
        if last >= self.language.vocabulary:
            raise ContractError(
                f"OpenVlaOftConfig: token {last} is beyond the vocabulary of {self.language.vocabulary}"
            )

    @property
    def patches(self) -> int:
        """Patches of one image."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def slots(self) -> int:
        """Action positions: one per step and dimension."""
        return self.horizon * self.action_dim

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        data: dict[str, Any] = encode(self)
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str) -> OpenVlaOftConfig:
        """Inverse of `to_dict`. Raises ModelError."""
        try:
            return decode(cls, dict(data), where)
        except ContractError as error:
            raise ModelError(f"{where} is not an OpenVLA-OFT configuration ({error})") from error


def openvla_7b(**changes: Any) -> OpenVlaOftConfig:
    """The published sizes: Llama-2 7B, DINOv2-L with registers, SigLIP-so400m, 224 px; `changes` by field name."""
    config = OpenVlaOftConfig(
        language=LlamaShape(),
        dinov2=VitShape(depth=23, width=1024, heads=16, mlp_width=4096, prefix=5),
        siglip=VitShape(depth=26, width=1152, heads=16, mlp_width=4304),
        **changes,
    )
    return replace(config, dead_weights=tuple(published_dead(config).items()))


def published_dead(config: OpenVlaOftConfig) -> dict[str, int]:
    """What a published checkpoint of this shape holds and the action never depends on: published name -> elements.

    The towers are tapped behind their last block but one, before the final norm; nothing is pooled; no word is read.
    """
    dino, siglip, text = config.dinov2, config.siglip, config.language
    film = (lambda shape: 2 * (text.width + 1) * shape.width) if config.film else (lambda _: 0)
    pool = siglip.width * (4 * siglip.width + 4) + _mlp(siglip) + 3 * siglip.width
    return {
        f"vision_backbone.featurizer.blocks.{dino.depth}": _block(dino) + 2 * dino.width + film(dino),
        "vision_backbone.featurizer.norm": 2 * dino.width,
        f"vision_backbone.fused_featurizer.blocks.{siglip.depth}": _block(siglip) + film(siglip),
        "vision_backbone.fused_featurizer.norm": 2 * siglip.width,
        "vision_backbone.fused_featurizer.attn_pool": pool,
        "language_model.lm_head": text.vocabulary * text.width,
    }


def _mlp(shape: VitShape) -> int:
    return shape.mlp_width * (2 * shape.width + 1) + shape.width


def _block(shape: VitShape) -> int:
    """Two norms, attention, MLP; DINOv2's two scales come on top."""
    return 4 * shape.width + shape.width * (4 * shape.width + 4) + _mlp(shape)
