# SPDX-License-Identifier: Apache-2.0
"""The shape of a SmolVLA (arXiv 2506.01844), as plain data, and how LeRobot's `config.json` says the same.

LeRobot's folder does not hold the sizes of its VLM, only the VLM's name: the published one is known here, another one
needs its own `config.json` beside the weights as `vlm_config.json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from transformers import LlamaConfig, SmolVLMConfig

from compress.models.base import ModelError
from runtime.contract.codec import conform, decode, encode
from runtime.errors import ContractError

VLM_CONFIG = "vlm_config.json"
PUBLISHED_VLM = "HuggingFaceTB/SmolVLM2-500M-Video-Instruct"
ROPE_BASE = 10_000.0  # SmolVLA rotates by this, whatever its VLM was trained with
EXPERT_MLP_MULTIPLE = 256
UNSUPPORTED: Mapping[str, Any] = {  # fields that change the network, and the only value that this one has
    "n_obs_steps": 1,
    "add_image_special_tokens": False,
    "adapt_to_pi_aloha": False,
    "use_delta_joint_actions_aloha": False,
}


@dataclass(frozen=True)
class TextShape:
    """The language stack: `heads` query heads and `kv_heads` key/value heads of `head_dim`."""

    width: int
    mlp_width: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        conform(self)


@dataclass(frozen=True)
class VisionShape:
    """The SigLIP tower; `image_size` and `patch_size` [px] fix its table of positions."""

    width: int
    mlp_width: int
    depth: int
    heads: int
    image_size: int
    patch_size: int
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        conform(self)


@dataclass(frozen=True)
class SmolVlaConfig:
    """Architecture of a SmolVLA before any removal.

    Attributes:
        vlm: name of the VLM, for LeRobot.
        text, vision, scale_factor: its sizes; patches are merged `scale_factor` by `scale_factor`.
        depth: blocks of the language stack that are used, and of the action expert.
        self_attention_every: expert block i attends to itself and the VLM where i is a multiple, and only to the VLM
            elsewhere; 0: never to itself.
        expert_scale: width of the expert relative to the language stack.
        max_state_dim, max_action_dim: the network's own sizes; smaller robots are filled up with zeros.
        horizon: steps of a chunk.
        steps: Euler steps of the sampler.
        min_period, max_period: of the time features, in units of the flow's time.
    """

    vlm: str
    text: TextShape
    vision: VisionShape
    scale_factor: int
    depth: int
    self_attention_every: int = 2
    expert_scale: float = 0.75
    max_state_dim: int = 32
    max_action_dim: int = 32
    horizon: int = 50
    steps: int = 10
    min_period: float = 4e-3
    max_period: float = 4.0

    def __post_init__(self) -> None:
        conform(self)

    @property
    def expert_width(self) -> int:
        """Width of the action expert."""
        return int(self.text.width * self.expert_scale)

    @property
    def expert_mlp_width(self) -> int:
        """8/3 of the expert's width, rounded up to a multiple of 256, as upstream rounds."""
        wanted = 4 * int(2 * self.expert_width / 3)
        return EXPERT_MLP_MULTIPLE * -(-wanted // EXPERT_MLP_MULTIPLE)

    def crosses(self, block: int) -> bool:
        """Whether expert block `block` (original index) attends to the VLM alone."""
        return self.self_attention_every <= 0 or block % self.self_attention_every != 0

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        data: dict[str, Any] = encode(self)
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str) -> SmolVlaConfig:
        """Inverse of `to_dict`. Raises ModelError."""
        try:
            return decode(cls, dict(data), where)
        except ContractError as error:
            raise ModelError(f"{where} is not a SmolVLA configuration ({error})") from error


def published_vlm() -> tuple[TextShape, VisionShape, int]:
    """Sizes of the VLM that SmolVLA was published with, SmolVLM2-500M."""
    return TextShape(960, 2560, 15, 5, 64, 49280), VisionShape(768, 3072, 12, 12, 512, 16), 4


def _given_vlm(data: Mapping[str, Any], where: str) -> tuple[TextShape, VisionShape, int]:
    """Sizes out of a VLM's own configuration. Raises ModelError where it is not of SmolVLM's kind."""
    try:
        found = SmolVLMConfig.from_dict(dict(data))
    except Exception as error:  # transformers raises many classes: all mean that it is no such configuration
        raise ModelError(f"{where} is not a SmolVLM configuration ({error})") from error
    t, v = found.text_config, found.vision_config
    kinds = (t.model_type, t.hidden_act, v.hidden_act, getattr(t, "attention_bias", False))
    if kinds != ("llama", "silu", "gelu_pytorch_tanh", False):
        raise ModelError(
            f"{where}: text model {kinds[0]!r} with {kinds[1]!r}, vision with {kinds[2]!r}, attention bias {kinds[3]}; "
            "expected SmolVLM's: llama, silu, gelu_pytorch_tanh, no bias"
        )
    head_dim = getattr(t, "head_dim", None) or t.hidden_size // t.num_attention_heads
    text = TextShape(
        t.hidden_size, t.intermediate_size, t.num_attention_heads, t.num_key_value_heads, head_dim, t.vocab_size,
        t.rms_norm_eps,
    )  # fmt: skip
    vision = VisionShape(
        v.hidden_size, v.intermediate_size, v.num_hidden_layers, v.num_attention_heads, v.image_size, v.patch_size,
        v.layer_norm_eps,
    )  # fmt: skip
    return text, vision, found.scale_factor


def from_lerobot(data: Mapping[str, Any], vlm: Mapping[str, Any] | None, depth: int, where: str) -> SmolVlaConfig:
    """What LeRobot's `config.json` says.

    Args:
        data: its fields; those that are absent have LeRobot's defaults.
        vlm: the VLM's own configuration; None: the published VLM.
        depth: language blocks in the weights.
        where: for errors.

    Raises:
        ModelError: another policy type, an option that this network lacks, or an unknown VLM.
    """
    if data.get("type") != "smolvla":
        raise ModelError(f"{where}: policy type is {data.get('type')!r}, expected 'smolvla'")
    odd = {name: data[name] for name, only in UNSUPPORTED.items() if data.get(name, only) != only}
    if odd:
        raise ModelError(f"{where}: {odd} is not supported; expected { ({name: UNSUPPORTED[name] for name in odd}) }")
    layers, experts = data.get("num_vlm_layers", 16), data.get("num_expert_layers", -1)
    if layers > 0 and layers != depth:
        raise ModelError(f"{where}: num_vlm_layers is {layers}, the weights hold {depth} language blocks")
    if experts > 0 and experts != depth:
        raise ModelError(f"{where}: num_expert_layers is {experts}; expected -1, or one per language block ({depth})")
    name = str(data.get("vlm_model_name", PUBLISHED_VLM))
    if vlm is not None:
        text, vision, scale_factor = _given_vlm(vlm, f"{where}: {VLM_CONFIG}")
    elif PurePosixPath(name).name == PurePosixPath(PUBLISHED_VLM).name:
        text, vision, scale_factor = published_vlm()
    else:
        raise ModelError(f"{where}: the sizes of {name!r} are not known: put its config.json here as {VLM_CONFIG}")
    crossing = "cross" in str(data.get("attention_mode", "cross_attn"))
    return SmolVlaConfig(
        vlm=name,
        text=text,
        vision=vision,
        scale_factor=scale_factor,
        depth=depth,
        self_attention_every=max(int(data.get("self_attn_every_n_layers", 2)), 0) if crossing else 1,
        expert_scale=float(data.get("expert_width_multiplier", 0.75)),
        max_state_dim=int(data.get("max_state_dim", 32)),
        max_action_dim=int(data.get("max_action_dim", 32)),
        horizon=int(data.get("chunk_size", 50)),
        steps=int(data.get("num_steps", 10)),
        min_period=float(data.get("min_period", 4e-3)),
        max_period=float(data.get("max_period", 4.0)),
    )


def vlm_config(config: SmolVlaConfig) -> SmolVLMConfig:
    """For transformers' `SmolVLMModel`, its language stack cut to `depth` blocks."""
    v = config.vision
    return SmolVLMConfig(
        text_config=_llama(config, config.text.width, config.text.mlp_width).to_dict(),
        vision_config={
            "hidden_size": v.width, "intermediate_size": v.mlp_width, "num_hidden_layers": v.depth,
            "num_attention_heads": v.heads, "image_size": v.image_size, "patch_size": v.patch_size,
            "layer_norm_eps": v.norm_eps,
        },
        scale_factor=config.scale_factor,
        image_token_id=0,  # images enter as embeddings
        attn_implementation="sdpa",
    )  # fmt: skip


def expert_config(config: SmolVlaConfig) -> LlamaConfig:
    """For the blocks of the action expert."""
    return _llama(config, config.expert_width, config.expert_mlp_width)


def _llama(config: SmolVlaConfig, width: int, mlp_width: int) -> LlamaConfig:
    t = config.text
    return LlamaConfig(
        vocab_size=t.vocabulary,
        hidden_size=width,
        intermediate_size=mlp_width,
        num_hidden_layers=config.depth,
        num_attention_heads=t.heads,
        num_key_value_heads=t.kv_heads,
        head_dim=t.head_dim,
        rms_norm_eps=t.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_BASE},
        pad_token_id=None,
        use_cache=False,
        attn_implementation="sdpa",
    )
