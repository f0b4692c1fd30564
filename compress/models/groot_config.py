# SPDX-License-Identifier: Apache-2.0
"""The shape of a GR00T N1.7, as plain data, and how NVIDIA's `config.json` says the same.

Its folder does not hold the sizes of its VLM, only the VLM's name: the published one is known here, another one of
Qwen3-VL's kind needs its own `config.json` beside the weights as `vlm_config.json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from transformers import Qwen3VLConfig
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLTextConfig, Qwen3VLVisionConfig

from compress.models.base import ModelError
from runtime.contract.codec import conform, decode, encode
from runtime.errors import ContractError

VLM_CONFIG = "vlm_config.json"
PUBLISHED_VLM = "nvidia/Cosmos-Reason2-2B"
MODEL_TYPE = "Gr00tN1d7"
ONLY: Mapping[str, Any] = {  # fields that change the network, and the only value that this one has
    "use_alternate_vl_dit": True,
    "use_vlln": True,
    "state_history_length": 1,
    "exclude_state": False,
    "use_tactile": False,
    "apply_sincos_state_encoding": False,
    "use_mean_std": False,
}


@dataclass(frozen=True)
class QwenShape:
    """Qwen3-VL: a language stack of `heads` and `kv_heads` heads of `head_dim`, rotated in `rope_sections` of time,
    height and width, and a vision tower whose blocks `taps` are also read by the first language blocks.

    `vision_positions` rows of its position table make a square; `merge` by `merge` patches become one token.
    """

    width: int
    mlp_width: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    image_token: int
    rope_base: float
    rope_sections: tuple[int, ...]
    vision_width: int
    vision_mlp_width: int
    vision_depth: int
    vision_heads: int
    vision_positions: int
    patch_size: int
    taps: tuple[int, ...]
    merge: int = 2
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        conform(self)
        if list(self.taps) != sorted(set(self.taps)) or any(not 0 <= t < self.vision_depth for t in self.taps):
            raise ModelError(f"taps {self.taps} are not ascending blocks of a tower of {self.vision_depth}")


@dataclass(frozen=True)
class HeadShape:
    """The action head: `blocks` of `heads` heads of `head_dim`, and `context_blocks` before it on the VLM's tokens.

    Every other block attends to the chunk itself; of the rest, every `text_every`-th reads text and the others images.
    `hidden` is the width inside the state's and the action's MLPs and of what the blocks put out.
    """

    blocks: int
    heads: int
    head_dim: int
    hidden: int
    context_blocks: int
    context_heads: int
    text_every: int = 2
    positions: int = 1024

    def __post_init__(self) -> None:
        conform(self)

    @property
    def width(self) -> int:
        """Of the action head's stream."""
        return self.heads * self.head_dim

    @property
    def period(self) -> int:
        """After how many blocks the pattern of what they read comes again."""
        return 2 * self.text_every


@dataclass(frozen=True)
class GrootConfig:
    """Architecture of a GR00T N1.7 for one robot, before any removal.

    Attributes:
        vlm: the VLM.
        depth: language blocks that are used, the first ones of the VLM.
        head: the action head.
        max_state_dim, max_action_dim, max_horizon: the network's own sizes; smaller robots are filled up with zeros.
        steps: Euler steps of the sampler.
        buckets: the flow's time 0..1 is rounded down to a multiple of 1 / buckets.
        clip: the normalised state and action are limited to -1..1, as upstream does for ranges and quantiles.
    """

    vlm: QwenShape
    depth: int
    head: HeadShape
    max_state_dim: int = 132
    max_action_dim: int = 132
    max_horizon: int = 40
    steps: int = 4
    buckets: int = 1000
    clip: bool = True

    def __post_init__(self) -> None:
        conform(self)
        if self.depth <= len(self.vlm.taps):
            raise ModelError(f"{self.depth} language blocks, expected more than the {len(self.vlm.taps)} taps")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        data: dict[str, Any] = encode(self)
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str) -> GrootConfig:
        """Inverse of `to_dict`. Raises ModelError."""
        try:
            return decode(cls, dict(data), where)
        except ContractError as error:
            raise ModelError(f"{where} is not a GR00T N1.7 configuration ({error})") from error


def published_vlm() -> QwenShape:
    """The VLM that GR00T N1.7 was published with, of Qwen3-VL-2B's sizes."""
    return QwenShape(
        2048, 6144, 16, 8, 128, 151936, 151655, 5e6, (24, 20, 20), 1024, 4096, 24, 16, 2304, 16, (5, 11, 17)
    )


def given_vlm(data: Mapping[str, Any], where: str) -> QwenShape:
    """Sizes out of a VLM's own configuration. Raises ModelError where it is not of Qwen3-VL's kind."""
    try:
        found = Qwen3VLConfig.from_dict(dict(data))
        t, v = found.text_config, found.vision_config
        kinds = (t.hidden_act, v.hidden_act, t.attention_bias, v.temporal_patch_size, v.out_hidden_size)
        wanted = ("silu", "gelu_pytorch_tanh", False, 2, t.hidden_size)
        if kinds != wanted:
            raise ModelError(f"{where}: activations, bias, frames, width are {kinds}, expected {wanted}")
        return QwenShape(
            t.hidden_size, t.intermediate_size, t.num_attention_heads, t.num_key_value_heads, t.head_dim, t.vocab_size,
            found.image_token_id, t.rope_parameters["rope_theta"], tuple(t.rope_parameters["mrope_section"]),
            v.hidden_size, v.intermediate_size, v.depth, v.num_heads, v.num_position_embeddings, v.patch_size,
            tuple(v.deepstack_visual_indexes), v.spatial_merge_size, t.rms_norm_eps,
        )  # fmt: skip
    except ModelError:
        raise
    except Exception as error:  # transformers raises many classes: all mean that it is no such configuration
        raise ModelError(f"{where} is not a Qwen3-VL configuration ({error})") from error


def from_nvidia(data: Mapping[str, Any], vlm: Mapping[str, Any] | None, clip: bool, where: str) -> GrootConfig:
    """What NVIDIA's `config.json` says; fields that are absent have its defaults.

    Args:
        data: its fields.
        vlm: the VLM's own configuration; None: the published VLM.
        clip: what the processor's configuration says of outliers.
        where: for errors.

    Raises:
        ModelError: another model, an option that this network lacks, or an unknown VLM.
    """
    if data.get("model_type") != MODEL_TYPE:
        raise ModelError(f"{where}: model_type is {data.get('model_type')!r}, expected {MODEL_TYPE!r} (GR00T N1.7)")
    odd = {name: data[name] for name, only in ONLY.items() if data.get(name, only) != only}
    if odd:
        raise ModelError(f"{where}: {odd} is not supported; expected { ({name: ONLY[name] for name in odd}) }")
    name = str(data.get("model_name", PUBLISHED_VLM))
    if vlm is None and PurePosixPath(name).name != PurePosixPath(PUBLISHED_VLM).name:
        raise ModelError(f"{where}: the sizes of {name!r} are not known: put its config.json here as {VLM_CONFIG}")
    dit, context = data.get("diffusion_model_cfg") or {}, data.get("vl_self_attention_cfg") or {}
    fixed = {"norm_type": "ada_norm", "interleave_self_attention": True, "positional_embeddings": None}
    strange = {key: dit[key] for key, only in fixed.items() if dit.get(key, only) != only}
    if strange or context.get("positional_embeddings") is not None:
        raise ModelError(f"{where}: diffusion_model_cfg has {strange}, expected {fixed}, and no positions in either")
    return GrootConfig(
        vlm=published_vlm() if vlm is None else given_vlm(vlm, VLM_CONFIG),
        depth=int(data.get("select_layer", 16)),
        head=HeadShape(
            blocks=int(dit.get("num_layers", 32)),
            heads=int(dit.get("num_attention_heads", 32)),
            head_dim=int(dit.get("attention_head_dim", 48)),
            hidden=int(data.get("hidden_size", 1024)),
            context_blocks=int(context.get("num_layers", 0)),
            context_heads=int(context.get("num_attention_heads", 32)),
            text_every=int(data.get("attend_text_every_n_blocks", 2)),
            positions=int(data.get("max_seq_len", 1024)) if data.get("add_pos_embed", True) else 0,
        ),
        max_state_dim=int(data.get("max_state_dim", 132)),
        max_action_dim=int(data.get("max_action_dim", 132)),
        max_horizon=int(data.get("action_horizon", 40)),
        steps=int(data.get("num_inference_timesteps", 4)),
        buckets=int(data.get("num_timestep_buckets", 1000)),
        clip=clip,
    )


def text_config(config: GrootConfig) -> Qwen3VLTextConfig:
    """For transformers' language blocks."""
    v = config.vlm
    return Qwen3VLTextConfig(
        vocab_size=v.vocabulary,
        hidden_size=v.width,
        intermediate_size=v.mlp_width,
        num_hidden_layers=config.depth,
        num_attention_heads=v.heads,
        num_key_value_heads=v.kv_heads,
        head_dim=v.head_dim,
        rms_norm_eps=v.norm_eps,
        use_cache=False,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": v.rope_base,
            "mrope_section": list(v.rope_sections),
            "mrope_interleaved": True,
        },
        attn_implementation="sdpa",
    )


def vision_config(config: GrootConfig) -> Qwen3VLVisionConfig:
    """For transformers' vision tower."""
    v = config.vlm
    return Qwen3VLVisionConfig(
        depth=v.vision_depth,
        hidden_size=v.vision_width,
        intermediate_size=v.vision_mlp_width,
        num_heads=v.vision_heads,
        patch_size=v.patch_size,
        spatial_merge_size=v.merge,
        out_hidden_size=v.width,
        num_position_embeddings=v.vision_positions,
        deepstack_visual_indexes=list(v.taps),
        attn_implementation="sdpa",
    )
