# SPDX-License-Identifier: Apache-2.0
"""The architecture of a pi0 or pi0.5 network, as transformers' `PI0Config`: written down, read back, told from weights.

pi0.5 has no class in transformers; its sizes fit the same configuration, so both families use it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from transformers import PI0Config
from transformers.initialization import no_init_weights

from compress.models.base import ModelError

VOLATILE = frozenset({
    "transformers_version", "architectures", "_name_or_path", "dtype", "torch_dtype", "id2label", "label2id",
    "problem_type", "output_attentions", "output_hidden_states", "return_dict", "chunk_size_feed_forward",
    "is_encoder_decoder",
})  # fmt: skip
VISION = "vlm.vision_tower.encoder.layers."
GEMMA_HEADS, SIGLIP_HEADS = 8, 16  # literal in openpi and LeRobot: no weight's shape shows them
DEPTHS = {
    "language": ("vlm_config", "text_config", "num_hidden_layers"),
    "action": ("dit_config", "num_hidden_layers"),
    "vision.siglip": ("vlm_config", "vision_config", "num_hidden_layers"),
}
Depths = Callable[[str, "set[int]"], int]  # role and the block numbers that tensors carry -> blocks of the whole stack


def architecture(
    *, vision: Mapping[str, Any], language: Mapping[str, Any], expert: Mapping[str, Any], **rest: Any
) -> PI0Config:
    """A configuration from the sizes of its three stacks.

    Args:
        vision: fields of `SiglipVisionConfig`.
        language, expert: fields of `GemmaConfig`.
        rest: fields of `PI0Config` (`chunk_size`, `max_action_dim`...).

    Raises:
        ModelError: sizes that transformers refuses, or stacks that cannot share keys and values.
    """
    width, vocabulary = language["hidden_size"], language["vocab_size"]
    vlm = {
        "model_type": "paligemma",
        "image_token_index": vocabulary,  # past the table: images are placed by position
        "projection_dim": width,
        "hidden_size": width,
        "text_config": {"model_type": "gemma", **language},
        "vision_config": {"model_type": "siglip_vision_model", "vision_use_head": False, **vision},
    }
    return read({"vlm_config": vlm, "dit_config": {"model_type": "gemma", **expert}, **rest}, "architecture")


def read(data: Mapping[str, Any], where: str) -> PI0Config:
    """Plain data, as `plain` or a published `config.json` has it -> configuration.

    Raises:
        ModelError: a field is unknown or wrong, or the stacks do not pair.
    """
    try:
        config = PI0Config(**{key: value for key, value in data.items() if key not in VOLATILE | {"model_type"}})
        text, dit = config.vlm_config.text_config, config.dit_config
    except Exception as error:  # huggingface_hub raises its own classes
        raise ModelError(f"{where} is no pi0 configuration ({str(error).strip().splitlines()[-1]})") from error
    shared = ("num_hidden_layers", "head_dim", "num_key_value_heads", "num_attention_heads")
    odd = [name for name in shared if getattr(text, name) != getattr(dit, name)]
    if odd:
        found = {name: (getattr(text, name), getattr(dit, name)) for name in odd}
        raise ModelError(f"{where}: the expert attends to the language stack block by block, but they differ: {found}")
    return config


def plain(config: PI0Config) -> dict[str, Any]:
    """The configuration as JSON data, without what does not change the network."""
    found = _without_volatile(config.to_dict())
    assert isinstance(found, dict)
    return found


def _without_volatile(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {key: _without_volatile(inner) for key, inner in sorted(value.items()) if key not in VOLATILE}


def depth(config: PI0Config, role: str) -> int:
    """Blocks of a stack."""
    value: Any = config
    for name in DEPTHS[role]:
        value = getattr(value, name)
    return int(value)


def counted(role: str, numbers: set[int]) -> int:
    """The depth of a stack that is there as a whole."""
    del role
    return len(numbers)


def told_by(
    weights: Mapping[str, Tensor], fields: Mapping[str, Any], where: str, depths: Depths = counted
) -> PI0Config:
    """The configuration of published weights that come without one; LeRobot and openpi hard-code the sizes.

    Args:
        weights: by canonical name (`pi0_names.canonical`).
        fields: of `PI0Config`, as far as the publisher states them.
        where: for the error.
        depths: what the block numbers say about the depth.

    Raises:
        ModelError: a tensor that tells a size is missing.
    """
    try:
        patch = weights["vlm.vision_tower.embeddings.patch_embedding.weight"].shape
        places = weights["vlm.vision_tower.embeddings.position_embedding.weight"].shape[0]
        vision = {
            "hidden_size": patch[0],
            "patch_size": patch[-1],
            "image_size": round(places**0.5) * patch[-1],
            "intermediate_size": _first(weights, VISION, "mlp.fc1.weight").shape[0],
            "num_hidden_layers": depths("vision.siglip", _blocks(weights, VISION)),
            "num_attention_heads": SIGLIP_HEADS,
        }
        language = _gemma(weights, "vlm.language_model.layers.", "language", depths)
        vocabulary = weights["vlm.language_model.embed_tokens.weight"].shape[0]
        actions = weights["action_in_proj.weight"].shape[1]
        state = weights["state_proj.weight"].shape[1] if "state_proj.weight" in weights else actions
        expert = _gemma(weights, "expert.layers.", "action", depths)
    except KeyError as error:
        raise ModelError(f"{where}: tensor {error} is missing, so the sizes of the network cannot be told") from error
    sizes = {"max_action_dim": actions, "max_state_dim": state, **fields}
    return architecture(vision=vision, language={**language, "vocab_size": vocabulary}, expert=expert, **sizes)


def _gemma(weights: Mapping[str, Tensor], prefix: str, role: str, depths: Depths) -> dict[str, Any]:
    queries, width = _first(weights, prefix, "self_attn.q_proj.weight").shape
    head = queries // GEMMA_HEADS
    return {
        "hidden_size": width,
        "intermediate_size": _first(weights, prefix, "mlp.up_proj.weight").shape[0],
        "num_hidden_layers": depths(role, _blocks(weights, prefix)),
        "num_attention_heads": GEMMA_HEADS,
        "num_key_value_heads": _first(weights, prefix, "self_attn.k_proj.weight").shape[0] // head,
        "head_dim": head,
    }


def _first(weights: Mapping[str, Tensor], prefix: str, tensor: str) -> Tensor:
    """A tensor of the first block that has it: a pruned one may not."""
    numbers = sorted(number for number in _blocks(weights, prefix) if f"{prefix}{number}.{tensor}" in weights)
    return weights[f"{prefix}{next(iter(numbers), 0)}.{tensor}"]


def _blocks(weights: Mapping[str, Tensor], prefix: str) -> set[int]:
    """The block numbers that tensors carry."""
    found = (name.removeprefix(prefix).partition(".")[0] for name in weights if name.startswith(prefix))
    return {int(number) for number in found if number.isdecimal()}


@contextmanager
def without_weights() -> Iterator[None]:
    """Inside, networks are built with memory for their weights but without drawing any."""
    with no_init_weights():
        yield
