# SPDX-License-Identifier: Apache-2.0
"""The reference VLA on disk: a folder of JSON and safetensors, written atomically, read strictly."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from compress.atomic import folder_atomic
from compress.models.base import ModelError
from compress.models.checkpoint import digest_of, require_saved
from compress.models.reference_config import ReferenceConfig
from runtime.contract.conventions import NormMethod
from runtime.contract.normalization import Normalizers
from runtime.errors import ContractError

if TYPE_CHECKING:
    from compress.models.reference import ReferenceVla

CONFIG, WEIGHTS, NORMALIZATION, TOKENIZER = (
    "config.json",
    "model.safetensors",
    "normalization.safetensors",
    "tokenizer.json",
)
METHOD = NormMethod.Q01_Q99


def save(model: ReferenceVla, folder: Path, half: bool) -> None:
    """Write the checkpoint; `half` stores float16 weights."""
    kind = torch.float16 if half else torch.float32
    weights = {name: value.detach().to("cpu", kind).contiguous() for name, value in model.module.state_dict().items()}
    bad = [name for name, value in weights.items() if not torch.isfinite(value).all()]
    if bad:
        raise ModelError(f"not saved: {bad[0]} (and {len(bad) - 1} more) holds NaN or infinity as {kind}")
    with folder_atomic(folder) as work:
        header = {"family": model.family, **model.config.to_dict(), "weights": digest_of(weights)}
        (work / CONFIG).write_text(json.dumps(header, indent=2, sort_keys=True) + "\n")
        (work / NORMALIZATION).write_bytes(model.normalizers.to_bytes())
        (work / TOKENIZER).write_bytes(model.tokenizer_json)
        save_file(weights, work / WEIGHTS)


def load(kind: type[ReferenceVla], folder: Path) -> ReferenceVla:
    """Read the checkpoint written by `save`; weights become float32."""
    missing = [name for name in (CONFIG, WEIGHTS, NORMALIZATION, TOKENIZER) if not (folder / name).is_file()]
    if missing:
        raise ModelError(
            f"{folder}: {', '.join(missing)} missing; a reference checkpoint has {CONFIG}, {WEIGHTS}, "
            f"{NORMALIZATION}, {TOKENIZER}"
        )
    header = _header(folder / CONFIG, kind.family)
    promised = str(header.pop("weights", ""))
    config = ReferenceConfig.from_dict(header)
    try:
        normalizers = Normalizers.from_bytes(
            (folder / NORMALIZATION).read_bytes(), METHOD, METHOD, str(folder / NORMALIZATION)
        )
    except ContractError as error:
        raise ModelError(str(error)) from error
    model = kind(config, normalizers, (folder / TOKENIZER).read_bytes())
    weights = _weights(folder / WEIGHTS)
    _fill(model.module, weights, folder / WEIGHTS)
    require_saved(weights, promised, folder)
    model.module.eval()
    return model


def identity(model: ReferenceVla) -> str:
    """sha256 over configuration, normalisation, tokenizer and float32 weights."""
    digest = hashlib.sha256(json.dumps(model.config.to_dict(), sort_keys=True).encode())
    digest.update(model.normalizers.to_bytes())
    digest.update(model.tokenizer_json)
    for name, value in sorted(model.module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()


def _header(path: Path, family: str) -> dict[str, Any]:
    try:
        header: dict[str, Any] = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{path} is not JSON ({error}): copy the checkpoint again") from error
    found = header.pop("family", None)
    if found != family:
        raise ModelError(f"{path}: family is {found!r}, expected {family!r}")
    return header


def _weights(path: Path) -> dict[str, torch.Tensor]:
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{path} cannot be read ({error}): it is truncated or damaged, copy the checkpoint again"
        ) from error
    for name, value in weights.items():
        if not torch.isfinite(value).all():
            raise ModelError(f"{path}: tensor {name} holds NaN or infinity")
    return weights


def _fill(module: nn.Module, weights: dict[str, torch.Tensor], path: Path) -> None:
    expected = module.state_dict()
    missing, extra = sorted(set(expected) - set(weights)), sorted(set(weights) - set(expected))
    if missing or extra:
        raise ModelError(
            f"{path}: missing tensors {missing[:3]} ({len(missing)}), unknown tensors {extra[:3]} ({len(extra)})"
        )
    for name, value in weights.items():
        if value.shape != expected[name].shape:
            raise ModelError(
                f"{path}: {name} is {tuple(value.shape)}, the configuration expects {tuple(expected[name].shape)}"
            )
    module.load_state_dict({name: value.float() for name, value in weights.items()}, strict=True)
