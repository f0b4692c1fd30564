# SPDX-License-Identifier: Apache-2.0
"""A folder as transformers, LeRobot or openpi publish pi0 and pi0.5 -> configuration, weights, the robot's side.

layout        config.json                   weights                       statistics
transformers  `model_type: pi0`             one file or shards            processor_config.json, if given
LeRobot       `type: pi0` or `pi05`         model.safetensors             policy_preprocessor.json and its safetensors
openpi        none, or a note of sizes      model.safetensors             assets/<id>/norm_stats.json
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PI0Config

from compress.models import pi0_config
from compress.models.base import ModelError
from compress.models.checkpoint import read_json, read_weights, sizes_of_others
from compress.models.pi0_names import canonical, require_kind
from compress.models.pi0_stats import robot
from compress.models.policy_io import PolicyIo
from runtime.contract.conventions import NormMethod

CONFIG = "config.json"
FIELDS = ("chunk_size", "max_state_dim", "max_action_dim", "num_inference_steps", "min_period", "max_period")
UNKNOWN = ("use_visual_memory", "use_proprioceptive_memory", "use_relative_actions")  # LeRobot options
METHODS = {"pi0": NormMethod.MEAN_STD, "pi05": NormMethod.Q01_Q99}


@dataclass(frozen=True)
class Published:
    """What a published folder holds; `weights` by canonical name, `unloaded` the sizes of what has none."""

    config: PI0Config
    weights: Mapping[str, Tensor]
    io: PolicyIo
    unloaded: Mapping[str, int]


def open_published(folder: Path, family: str, depths: pi0_config.Depths = pi0_config.counted) -> Published:
    """Read a published folder.

    Args:
        folder: of the checkpoint.
        family: `pi0` or `pi05`.
        depths: of the stacks before any removal, by the block numbers of the tensors, where no configuration tells.

    Raises:
        ModelError: a file is missing or damaged, another family, or an option that this network does not have.
    """
    header = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    kind = header.get("type", header.get("model_type", family))
    if kind != family:
        raise ModelError(f"{folder / CONFIG}: found a {kind!r} checkpoint, expected {family!r}; set model.family")
    published = read_weights(folder)
    weights = canonical(published, folder)
    unloaded = sizes_of_others(published, weights)
    require_kind(weights, family, folder)
    _one_dtype_per_tower(weights)
    io = robot(folder, METHODS[family])
    config = _config(folder, header, weights, io, depths)
    require_fit(config, io, folder)
    return Published(config, weights, io, unloaded)


def _config(
    folder: Path, header: Mapping[str, Any], weights: Mapping[str, Tensor], io: PolicyIo, depths: pi0_config.Depths
) -> PI0Config:
    if header.get("model_type") == "pi0":
        return pi0_config.read(header, str(folder / CONFIG))
    refused = [name for name in UNKNOWN if header.get(name)]
    if refused:
        raise ModelError(f"{folder / CONFIG}: {refused} change what the network sees, which is not supported")
    fields = {name: header[name] for name in FIELDS if name in header}
    horizon = header.get("action_horizon", io.action.horizon)  # openpi
    return pi0_config.told_by(weights, {"chunk_size": horizon, **fields}, str(folder), depths)


def require_fit(config: PI0Config, io: PolicyIo, where: Path | str) -> None:
    """The robot's side must fit the network.

    Raises:
        ModelError: too many dimensions, another horizon, image size or pixel range.
    """
    sizes: dict[str, tuple[Any, bool]] = {
        "state dimensions": (io.observation.state.dim, io.observation.state.dim <= config.max_state_dim),
        "action dimensions": (io.action.dim, io.action.dim <= config.max_action_dim),
        "horizon": (io.action.horizon, io.action.horizon == config.chunk_size),
    }
    size = config.vlm_config.vision_config.image_size
    for image in io.observation.images:
        sizes[f"{image.key} [px]"] = ((image.height, image.width), (image.height, image.width) == (size, size))
        scale = (image.mean, image.std)
        sizes[f"{image.key} mean and std"] = (scale, scale == ((0.5,) * 3, (0.5,) * 3))
    wrong = {name: value for name, (value, fits) in sizes.items() if not fits}
    if wrong:
        raise ModelError(
            f"{where}: policy_io.json says {wrong}; the network has at most {config.max_state_dim} state and "
            f"{config.max_action_dim} action dimensions, a horizon of {config.chunk_size}, images of {size} px, pixels "
            "in -1..1 (mean and std 0.5)"
        )


def _one_dtype_per_tower(weights: dict[str, Tensor]) -> None:
    """openpi keeps only the patch embedding of a bfloat16 tower in float32; transformers' tower runs in one dtype."""
    tower = [name for name in weights if name.startswith(("vlm.vision_tower.", "vlm.multi_modal_projector."))]
    widest = torch.float32 if len({weights[name].dtype for name in tower}) > 1 else None
    for name in tower if widest else ():
        weights[name] = weights[name].to(torch.float32)
