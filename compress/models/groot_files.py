# SPDX-License-Identifier: Apache-2.0
"""NVIDIA's folder of a GR00T N1.7, read for one robot: `config.json`, shards, and what its processor does to data.

A folder serves several robots ("embodiments"). Which one is meant says `embodiment.json` beside the weights,
`{"embodiment": "libero_sim"}`; with statistics of a single robot it may be left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compress.models.base import ModelError
from compress.models.checkpoint import read_json, read_weights
from compress.models.groot_config import VLM_CONFIG, GrootConfig, from_nvidia
from compress.models.policy_io import FILE, PolicyIo
from runtime.contract.action import ActionSpec
from runtime.contract.codec import decode
from runtime.contract.conventions import NormMethod
from runtime.contract.normalization import MIN_SPREAD, STATISTICS, Normalization, Normalizers
from runtime.contract.spec import ObservationSpec, PromptSpec
from runtime.errors import ContractError

CONFIG, PROCESSOR, STATISTICS_FILE, IDS, CHOICE = (
    "config.json", "processor_config.json", "statistics.json", "embodiment_id.json", "embodiment.json"
)  # fmt: skip
BACKBONE = re.compile(r"^backbone\.model\.(?:model\.)?(visual|language_model)\.(.+)$")
LAYER = re.compile(r"^layers\.(\d+)\.(.+)$")
PER_ROBOT = re.compile(r"^(action_head\.(?:state_encoder|action_encoder|action_decoder)\.\w+)\.([Wb])$")
DEAD = re.compile(r"^backbone\.model\.(?:lm_head\.weight|(?:model\.)?language_model\.norm\.weight)$")


@dataclass(frozen=True)
class Published:
    """What an NVIDIA folder holds for one robot, in this code's terms.

    Attributes:
        config: the architecture.
        weights: by name in `GrootNetwork`, float32.
        io: the robot's conventions.
        unloaded: published name -> elements that reach none of this robot's actions.
    """

    config: GrootConfig
    weights: Mapping[str, Tensor]
    io: PolicyIo
    unloaded: Mapping[str, int]


def read(folder: Path) -> Published:
    """Read an NVIDIA folder with `policy_io.json` and `tokenizer.json` beside the weights.

    Raises:
        ModelError: a file is missing or damaged, an option is not supported, or the robot does not fit the policy.
    """
    processor = read_json(folder / PROCESSOR).get("processor_kwargs")
    if not isinstance(processor, dict):
        raise ModelError(f"{folder / PROCESSOR}: expected `processor_kwargs`, an object")
    statistics = read_json(folder / STATISTICS_FILE)
    robot = _robot(folder, statistics)
    modalities = (processor.get("modality_configs") or {}).get(robot)
    ids = read_json(folder / IDS)
    if not isinstance(modalities, dict) or robot not in ids:
        known = sorted(set(processor.get("modality_configs") or {}) & set(ids))
        raise ModelError(f"{folder}: robot {robot!r} is not described; the folder knows {known}")
    _refuse_options(processor, modalities, f"{folder / PROCESSOR}: {robot}")
    vlm = read_json(folder / VLM_CONFIG) if (folder / VLM_CONFIG).is_file() else None
    clip = bool(processor.get("clip_outliers", True))
    config = from_nvidia(read_json(folder / CONFIG), vlm, clip, str(folder / CONFIG))
    method = NormMethod.Q01_Q99 if processor.get("use_percentiles", False) else NormMethod.MIN_MAX
    normalizers = Normalizers(
        *(_normalization(statistics[robot], modalities, part, method, folder) for part in ("state", "action"))
    )
    io = _policy_io(folder, normalizers)
    _check(modalities, io, folder)
    weights = read_weights(folder)
    place = int(ids[robot])
    return Published(config, renamed(weights, place, len(config.vlm.taps), folder), io, unloaded(weights))


def unloaded(published: Mapping[str, Tensor]) -> dict[str, int]:
    """Elements by published name: the language-model head, its norm, and the encoders of all other robots."""
    head = {name: value.numel() for name, value in published.items() if DEAD.match(name)}
    others = {n: v.numel() - v[0].numel() for n, v in published.items() if PER_ROBOT.match(n) and v.shape[0] > 1}
    return head | others


def renamed(published: Mapping[str, Tensor], robot: int, early: int, where: Path) -> dict[str, Tensor]:
    """Published tensors -> those of `GrootNetwork`: one robot's encoders, and no weights that reach no action.

    Args:
        published: by NVIDIA's names.
        robot: its place in the per-robot tensors.
        early: language blocks that the taps feed.
        where: for errors.

    Raises:
        ModelError: there is no such robot in the tensors.
    """
    found: dict[str, Tensor] = {}
    for name, value in published.items():
        if DEAD.match(name):
            continue
        own, backbone = PER_ROBOT.match(name), BACKBONE.match(name)
        tensor = value.to(torch.float32, copy=True)  # out of the file's mapping: equal sums wherever it lay
        if own:
            if not 0 <= robot < tensor.shape[0]:
                raise ModelError(f"{where}: {name} is for {tensor.shape[0]} robots, this one is number {robot}")
            kind = {"W": "weight", "b": "bias"}[own[2]]
            found[f"head.{own[1].removeprefix('action_head.')}.{kind}"] = tensor[robot].t().contiguous()
        elif backbone:
            found["vlm." + _inside_vlm(backbone[1], backbone[2], early)] = tensor
        else:
            found[re.sub(r"^action_head\.", "head.", name)] = tensor  # `fill` names what it does not know
    return found


def _inside_vlm(part: str, rest: str, early: int) -> str:
    if part == "visual":
        return f"visual.{rest}"
    layer = LAYER.match(rest)
    if layer is None:
        return rest
    place = int(layer[1])
    return f"early.{place}.{layer[2]}" if place < early else f"layers.{place - early}.{layer[2]}"


def _robot(folder: Path, statistics: Mapping[str, Any]) -> str:
    if (folder / CHOICE).is_file():
        chosen = read_json(folder / CHOICE).get("embodiment")
        if chosen not in statistics:
            raise ModelError(f"{folder / CHOICE}: `embodiment` is {chosen!r}, expected one of {sorted(statistics)}")
        return str(chosen)
    if len(statistics) != 1:
        raise ModelError(f"{folder}: several robots, {sorted(statistics)}: say which one in {CHOICE}")
    return next(iter(statistics))


def _refuse_options(processor: Mapping[str, Any], modalities: Mapping[str, Any], where: str) -> None:
    """What the robot's runtime could not do to its data. Raises ModelError."""
    state, action, video = (modalities.get(part) or {} for part in ("state", "action", "video"))
    relative = [
        key
        for key, how in zip(action.get("modality_keys", ()), action.get("action_configs") or (), strict=False)
        if str(how.get("rep", "")).lower().endswith("relative") and processor.get("use_relative_action", False)
    ]
    faults = (
        (bool(relative), f"actions {relative} are relative to the current state, which the action contract cannot say"),
        (bool(processor.get("use_mean_std")), "use_mean_std"),
        (bool(processor.get("use_tactile")), "use_tactile"),
        (bool(processor.get("exclude_state") or state.get("exclude_state")), "exclude_state"),
        (
            bool(processor.get("apply_sincos_state_encoding") and state.get("sin_cos_embedding_keys")),
            "the state is encoded by sines and cosines",
        ),
        (
            bool(state.get("mean_std_embedding_keys") or action.get("mean_std_embedding_keys")),
            "some dimensions are normalised by mean and deviation, others by range",
        ),
        (len(video.get("delta_indices", (0,))) != 1, f"images of several times ({video.get('delta_indices')})"),
    )
    found = "; ".join(text for wrong, text in faults if wrong)
    if found:
        raise ModelError(f"{where}: not supported: {found}")


def _normalization(
    statistics: Mapping[str, Any], modalities: Mapping[str, Any], part: str, method: NormMethod, folder: Path
) -> Normalization:
    """Ranges of all groups of one part, side by side in the processor's order."""
    names = STATISTICS[method]
    try:
        groups = [statistics[part][key] for key in modalities[part]["modality_keys"]]
        low, high = (np.concatenate([np.ravel(group[name]) for group in groups]) for name in names)
        made = Normalization.of(method, low, high)
    except (KeyError, TypeError, ValueError, ContractError) as error:
        raise ModelError(f"{folder / STATISTICS_FILE}: {part} has no usable {list(names)} ({error!r})") from error
    still = np.flatnonzero(made.second - made.first < MIN_SPREAD).tolist()
    if part == "action" and still:
        raise ModelError(
            f"{folder / STATISTICS_FILE}: action dimensions {still} never move (spread below {MIN_SPREAD}); upstream "
            "then commands a constant, which the contract cannot say: give them a real spread"
        )
    return made


def _policy_io(folder: Path, normalizers: Normalizers) -> PolicyIo:
    path = folder / FILE
    data = read_json(path)
    try:
        prompt = decode(PromptSpec, data["prompt"], f"{path}: prompt")
        return PolicyIo(
            decode(ObservationSpec, data["observation"], f"{path}: observation"),
            decode(ActionSpec, data["action"], f"{path}: action"),
            prompt,
            normalizers,
            (folder / prompt.tokenizer_file).read_bytes(),
        )
    except (OSError, KeyError, TypeError, ContractError) as error:
        raise ModelError(f"{path} cannot be read ({error}): say what the policy sees and commands") from error


def _check(modalities: Mapping[str, Any], io: PolicyIo, folder: Path) -> None:
    """Cameras and chunk are those of the processor. Raises ModelError."""
    views = list((modalities.get("video") or {}).get("modality_keys", ()))
    steps = len((modalities.get("action") or {}).get("delta_indices", ()))
    if len(views) != len(io.cameras) or steps != io.action.horizon:
        raise ModelError(
            f"{folder / FILE}: cameras {list(io.cameras)} and {io.action.horizon} steps; the policy was trained on "
            f"{views} (in this order) and {steps} steps"
        )
