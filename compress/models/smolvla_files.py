# SPDX-License-Identifier: Apache-2.0
"""LeRobot's folder of a SmolVLA, read and written: `config.json` and one `model.safetensors`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from compress.atomic import folder_atomic
from compress.models.base import ModelError
from compress.models.checkpoint import WEIGHTS, read_json, read_weights
from compress.models.policy_io import FILE, PolicyIo
from compress.models.smolvla_config import VLM_CONFIG, SmolVlaConfig, from_lerobot
from compress.models.smolvla_statistics import ACTION, BUFFER, STATE, policy_io

CONFIG = "config.json"
PLACES = {  # published prefix -> ours, the longer ones first
    "model.vlm_with_expert.vlm.model.": "vlm.",
    "model.vlm_with_expert.lm_expert.": "expert.",
    "model.": "",
}
LM_HEAD = "model.vlm_with_expert.vlm.lm_head.weight"
TEXT_NORM = "model.vlm_with_expert.vlm.model.text_model.norm.weight"
LAYER = re.compile(r"^model\.vlm_with_expert\.vlm\.model\.text_model\.layers\.(\d+)\.")
MAX_TOKENS = 48


@dataclass(frozen=True)
class Published:
    """What a LeRobot folder holds, in this code's terms.

    Attributes:
        config: the architecture.
        weights: by published name, float32; statistics are taken out.
        io: the robot's conventions.
    """

    config: SmolVlaConfig
    weights: Mapping[str, Tensor]
    io: PolicyIo


def rename(published: str) -> str | None:
    """Published name -> name in `SmolVlaNetwork`; None for the two tensors that no action depends on."""
    if published in (LM_HEAD, TEXT_NORM):
        return None
    for theirs, ours in PLACES.items():
        if published.startswith(theirs):
            return ours + published.removeprefix(theirs)
    return published  # `fill` names what it does not know


def published_name(name: str) -> str:
    """Name in `SmolVlaNetwork` -> published name."""
    theirs, ours = next((theirs, ours) for theirs, ours in PLACES.items() if name.startswith(ours))
    return theirs + name.removeprefix(ours)


def read(folder: Path) -> Published:
    """Read a LeRobot folder with the robot's conventions (`policy_io.json`, `tokenizer.json`) beside the weights.

    Weights become float32: upstream computes its VLM in bfloat16, which is not imitated.

    Raises:
        ModelError: a file is missing or damaged, an option is not supported, or the robot does not fit the policy.
    """
    data = read_json(folder / CONFIG)
    found = {name.replace("._orig_mod", ""): value for name, value in read_weights(folder).items()}
    # copied out of the file's mapping: equal sums wherever a tensor lay
    weights = {name: value.to(torch.float32, copy=True) for name, value in found.items() if not BUFFER.match(name)}
    layers = {int(match[1]) for match in map(LAYER.match, weights) if match}
    vlm = read_json(folder / VLM_CONFIG) if (folder / VLM_CONFIG).is_file() else None
    config = from_lerobot(data, vlm, len(layers), str(folder / CONFIG))
    io = policy_io(folder, data, found)
    check_fit(config, io, str(folder))
    _check_features(data, io, str(folder))
    return Published(config, weights, io)


def check_fit(config: SmolVlaConfig, io: PolicyIo, where: str) -> None:
    """The network has room for the robot. Raises ModelError."""
    state, action, image = io.observation.state.dim, io.action.dim, io.observation.images[0]
    grain = config.vision.patch_size * config.scale_factor
    _refuse(
        where,
        (state > config.max_state_dim, f"state of {state}, expected at most {config.max_state_dim}"),
        (action > config.max_action_dim, f"action of {action}, expected at most {config.max_action_dim}"),
        (io.action.horizon != config.horizon, f"chunk of {io.action.horizon} steps, expected {config.horizon}"),
        (
            image.width != image.height or image.width % grain != 0,
            f"images of {image.width} x {image.height} px, expected squares of a multiple of {grain} px",
        ),
        (not io.prompt.template.endswith("\n"), f"prompt {io.prompt.template!r}, expected a newline at its end"),
    )


def _check_features(data: Mapping[str, Any], io: PolicyIo, where: str) -> None:
    """The robot is the one that LeRobot's configuration describes. Raises ModelError."""
    features = {**(data.get("input_features") or {}), **(data.get("output_features") or {})}
    state, action = (features[name]["shape"][0] if name in features else None for name in (STATE, ACTION))
    cameras = [n for n, f in features.items() if f.get("type") == "VISUAL" and "empty_camera" not in n]
    image, tokens = io.observation.images[0], data.get("tokenizer_max_length", MAX_TOKENS)
    size = tuple(data.get("resize_imgs_with_padding", (512, 512)) or (image.width, image.height))
    _refuse(
        where,
        (state not in (None, io.observation.state.dim), f"state of {io.observation.state.dim}, expected {state}"),
        (action not in (None, io.action.dim), f"action of {io.action.dim}, expected {action}"),
        (0 < len(cameras) < len(io.cameras), f"cameras {list(io.cameras)}, expected at most those of {cameras}"),
        (
            size != (image.width, image.height),
            f"images of {image.width} x {image.height} px, expected {size[0]} x {size[1]} px, resized with padding",
        ),
        (io.prompt.max_tokens > tokens, f"prompts of {io.prompt.max_tokens} tokens, expected at most {tokens}"),
    )


def _refuse(where: str, *faults: tuple[bool, str]) -> None:
    found = "; ".join(text for wrong, text in faults if wrong)
    if found:
        raise ModelError(f"{where}: {FILE} does not fit this SmolVLA: {found}")


def lerobot_config(config: SmolVlaConfig, io: PolicyIo, pairs: int) -> dict[str, Any]:
    """LeRobot's `config.json` for a network of `pairs` pairs of blocks without stubs."""
    image = io.observation.images[0]
    visual = {f"observation.images.{name}": _feature("VISUAL", 3, image.height, image.width) for name in io.cameras}
    return {
        "type": "smolvla",
        "n_obs_steps": 1,
        "chunk_size": config.horizon,
        "n_action_steps": config.horizon,
        "input_features": {**visual, STATE: _feature("STATE", io.observation.state.dim)},
        "output_features": {ACTION: _feature("ACTION", io.action.dim)},
        "max_state_dim": config.max_state_dim,
        "max_action_dim": config.max_action_dim,
        "resize_imgs_with_padding": [image.width, image.height],
        "tokenizer_max_length": io.prompt.max_tokens,
        "num_steps": config.steps,
        "vlm_model_name": config.vlm,
        "load_vlm_weights": False,
        "attention_mode": "cross_attn",
        "num_vlm_layers": pairs,
        "num_expert_layers": -1,
        "self_attn_every_n_layers": config.self_attention_every,
        "expert_width_multiplier": config.expert_scale,
        "min_period": config.min_period,
        "max_period": config.max_period,
    }


def save_lerobot(folder: Path, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Write `config.json` and `model.safetensors`; `weights` by name in `SmolVlaNetwork`."""
    named = {published_name(name): value.detach().cpu().contiguous().clone() for name, value in weights.items()}
    with folder_atomic(folder) as work:
        (work / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
        save_file(named, work / WEIGHTS)


def _feature(kind: str, *shape: int) -> dict[str, Any]:
    return {"type": kind, "shape": list(shape)}
