# SPDX-License-Identifier: Apache-2.0
"""LoRA adapters merged into plain weights: W + alpha / r * B A, strictly; every other kind of adapter is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from compress.models.base import ModelError
from compress.models.checkpoint import read_json, read_safetensors, require_finite

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
PLAIN = ("use_rslora", "use_dora", "fan_in_fan_out", "lora_bias", "modules_to_save", "rank_pattern", "alpha_pattern")
STARTS = (True, False, "gaussian")  # other initialisations change the base weights
BASE, DOWN, UP = ".base_layer", ".lora_A.default", ".lora_B.default"
Pairs = dict[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class LoraShape:
    """Rank r and alpha of every pair."""

    rank: int
    alpha: float

    @property
    def scaling(self) -> float:
        """What B A is multiplied by."""
        return self.alpha / self.rank


def read_shape(folder: Path) -> tuple[LoraShape, str]:
    """Rank and alpha out of `adapter_config.json`, and the name of the base checkpoint.

    Raises:
        ModelError: not plain LoRA; the variant is named.
    """
    path = folder / CONFIG
    data = read_json(path)
    odd: dict[str, Any] = {name: data[name] for name in PLAIN if data.get(name)}
    if data.get("peft_type") != "LORA":
        odd["peft_type"] = data.get("peft_type")
    if data.get("bias", "none") != "none":
        odd["bias"] = data["bias"]
    if data.get("init_lora_weights", True) not in STARTS:
        odd["init_lora_weights"] = data["init_lora_weights"]
    if odd:
        raise ModelError(f"{path}: {odd} is not plain LoRA; merge the adapter with the tool that made it")
    try:
        shape = LoraShape(int(data["r"]), float(data["lora_alpha"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path} does not say rank and alpha ({error})") from error
    if shape.rank < 1:
        raise ModelError(f"{path}: rank {shape.rank}, expected at least 1")
    return shape, str(data.get("base_model_name_or_path") or "")


def read_pairs(folder: Path) -> Pairs:
    """(A, B) by the name of the linear layer, out of `adapter_model.safetensors`.

    Raises:
        ModelError: a half is missing, or a tensor is no part of a LoRA pair.
    """
    path = folder / WEIGHTS
    weights = {name.removeprefix(PREFIX): value for name, value in read_safetensors(path).items()}
    require_finite(weights, path)
    return _pairs(weights, ".lora_A.weight", ".lora_B.weight", path)


def merge(weights: Mapping[str, Tensor], pairs: Pairs, shape: LoraShape, where: Path) -> dict[str, Tensor]:
    """Weights by name -> the same with every pair added to `<layer>.weight`, in float32, kept in the weight's dtype.

    Raises:
        ModelError: a pair for a layer that is not there, or of other sizes than the rank and the layer say.
    """
    merged = dict(weights)
    for layer, (down, up) in pairs.items():
        name = f"{layer}.weight"
        if name not in merged:
            raise ModelError(f"{where}: the adapter changes {layer}, which the base does not have")
        weight = merged[name]
        if weight.shape != (up.shape[0], down.shape[-1]) or (down.shape[0], up.shape[-1]) != (shape.rank, shape.rank):
            raise ModelError(
                f"{where}: {layer} is {tuple(weight.shape)}, its adapter {tuple(up.shape)} x {tuple(down.shape)}, "
                f"expected rank {shape.rank}"
            )
        merged[name] = (weight.float() + shape.scaling * (up.float() @ down.float())).to(weight.dtype)
    return merged


def is_wrapped(weights: Mapping[str, Tensor]) -> bool:
    """Whether a state dict was taken from a module with its adapters still in place."""
    return any(BASE in name or ".lora_" in name for name in weights)


def unwrap(weights: Mapping[str, Tensor], shape: LoraShape, where: Path) -> dict[str, Tensor]:
    """The plain state dict of a module that was saved with its adapters in place. Raises ModelError."""
    halves = {name: value for name, value in weights.items() if ".lora_" in name}
    plain = {name.replace(BASE, ""): value for name, value in weights.items() if name not in halves}
    return merge(plain, _pairs(halves, f"{DOWN}.weight", f"{UP}.weight", where), shape, where)


def _pairs(weights: Mapping[str, Tensor], down: str, up: str, where: Path) -> Pairs:
    found: dict[str, dict[str, Tensor]] = {}
    for name, value in weights.items():
        ending = next((end for end in (down, up) if name.endswith(end)), None)
        if ending is None or value.ndim != 2:
            raise ModelError(f"{where}: {name} {tuple(value.shape)} is no half of a LoRA pair of a linear layer")
        found.setdefault(name.removesuffix(ending), {})[ending] = value
    torn = sorted(layer for layer, halves in found.items() if len(halves) != 2)
    if torn:
        raise ModelError(f"{where}: half a LoRA pair for {torn[:3]} ({len(torn)}); copy the adapter again")
    return {layer: (halves[down], halves[up]) for layer, halves in found.items()}
