# SPDX-License-Identifier: Apache-2.0
"""A published OpenVLA-OFT folder, read strictly; the Python files in it and `auto_map` are never looked at.

    config.json, preprocessor_config.json       sizes, drop lists, image normalisation
    model-*.safetensors (or lora_adapter/)      base network; merged already, or an adapter over `base`
    action_head--N_checkpoint.pt                L1 or diffusion head; then also noisy_action_projector--N
    proprio_projector--N_checkpoint.pt          state token
    vision_backbone--N_checkpoint.pt            FiLMed towers, which replace those of the shards
    dataset_statistics.json, tokenizer.json     normalisation, prompt
    policy_io.json                              ours: what no published file says (cameras, units, chunk, template)

Upstream leaves `lora_adapter/` beside weights that are merged already: it is read only where there are no weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from compress.models import openvla_oft_lora as lora
from compress.models.base import ModelError, Surgery
from compress.models.checkpoint import INDEX, WEIGHTS, read_bytes, read_json, read_state_dict, read_weights
from compress.models.openvla_oft_config import SIGLIP_MEAN, SIGLIP_STD, DiffusionShape, LlamaShape, OpenVlaOftConfig
from compress.models.openvla_oft_io import STATISTICS, read_io
from compress.models.openvla_oft_lists import read_surgery, without_dead_norms
from compress.models.openvla_oft_names import (
    DINO_NAMES,
    SIGLIP_NAMES,
    TOWERS,
    Renamed,
    grouped,
    head_names,
    rename_language,
    rename_tower,
    vit_shape,
)
from compress.models.policy_io import PolicyIo
from runtime.errors import ContractError

CONFIG, PREPROCESSOR, ADAPTER = "config.json", "preprocessor_config.json", "lora_adapter"
HEADS = {  # timm name -> attention heads, the one size that no tensor shows
    "vit_large_patch14_reg4_dinov2.lvd142m": 16,
    "vit_so400m_patch14_siglip_224": 16,
    "vit_so400m_patch14_siglip_384": 16,
}
TEXT_FIELDS = {  # Hugging Face's name -> ours; absent fields have transformers' defaults, as upstream builds it
    "num_hidden_layers": "depth",
    "hidden_size": "width",
    "num_attention_heads": "heads",
    "num_key_value_heads": "kv_heads",
    "intermediate_size": "mlp_width",
    "vocab_size": "vocabulary",
    "rms_norm_eps": "norm_eps",
    "rope_theta": "rope_base",
}
TEXT_ONLY: Mapping[str, Any] = {  # fields that change the network, and the only value that this one has
    "model_type": "llama",
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "rope_scaling": None,
}


@dataclass(frozen=True)
class Published:
    """A published folder in our terms; `weights` have our names and one dtype."""

    config: OpenVlaOftConfig
    surgery: Mapping[str, Surgery]
    io: PolicyIo
    side: Mapping[str, bytes]
    weights: Mapping[str, Tensor]


def read_published(folder: Path, key: str | None, base: Path | None, diffusion: DiffusionShape) -> Published:
    """Read a published folder.

    Args:
        folder: as laid out above.
        key: data set whose statistics apply; None: the only one, or the one that `policy_io.json` names.
        base: folder of the base weights, where this one holds an adapter alone.
        diffusion: of a diffusion head.

    Raises:
        ModelError: something is missing, damaged, unknown or contradictory; it is named, with the next step.
    """
    io = read_io(folder, key)
    home, weights = _network(folder, base)
    film = part(folder, "vision_backbone", needed=False)
    if film is not None:
        weights = {k: v for k, v in weights.items() if not k.startswith("vision_backbone.")} | _filmed(folder, film)
    header = read_json(home / CONFIG)
    text = _text(header, home / CONFIG)
    surgery = read_surgery(header.get("text_config") or {}, text.depth, weights, home / CONFIG)
    extras = _extras(folder)
    renamed, shapes = Renamed(), []
    for names, heads in zip(TOWERS, _heads(header, home / CONFIG), strict=True):
        shape, patch = vit_shape(weights, names, heads)
        rename_tower(weights, names, shape.depth, renamed)
        shapes.append((shape, patch))
    rename_language(weights, surgery, renamed)
    without_dead_norms(renamed.weights, surgery, text.width)
    renamed.weights |= extras
    mean, std = _dino_pixels(folder if (folder / PREPROCESSOR).is_file() else home)
    try:
        config = OpenVlaOftConfig(
            language=text,
            dinov2=shapes[0][0],
            siglip=shapes[1][0],
            image_size=_image_size(header, home / CONFIG),
            patch_size=shapes[0][1],
            state_dim=io.observation.state.dim,
            action_dim=io.action.dim,
            horizon=io.action.horizon,
            film=film is not None,
            diffusion=diffusion if any(name.startswith("noisy_action_projector.") for name in extras) else None,
            dino_mean=mean,
            dino_std=std,
            dead_weights=grouped(renamed.dead),
        )
    except ContractError as error:
        raise ModelError(f"{home / CONFIG}: {error}") from error
    whole = surgery == Surgery.none(text.depth)
    kind = _kind(renamed.weights, folder)
    return Published(
        config,
        {} if whole else {"language": surgery},
        io,
        {STATISTICS: read_bytes(folder / STATISTICS)},
        {name: value.to(kind) for name, value in renamed.weights.items()},
    )


def part(folder: Path, name: str, needed: bool = True) -> Path | None:
    """The one file `<name>--N_checkpoint.pt`. Raises ModelError if there are several, or none of a needed one."""
    found = sorted(folder.glob(f"{name}--*.pt"))
    if len(found) > 1 or (needed and not found):
        raise ModelError(
            f"{folder}: found {[path.name for path in found]}, expected one {name}--N_checkpoint.pt: "
            f"{'keep the step to load' if found else 'copy it from where the policy was trained'}"
        )
    return found[0] if found else None


def _network(folder: Path, base: Path | None) -> tuple[Path, dict[str, Tensor]]:
    """Where the base's configuration lies, and its weights by published name, adapters merged."""
    if (folder / WEIGHTS).is_file() or (folder / INDEX).is_file():
        return folder, read_weights(folder)
    adapter = folder / ADAPTER
    if not adapter.is_dir():
        raise ModelError(f"{folder}: neither {WEIGHTS}, {INDEX} nor {ADAPTER}/ is there: copy the checkpoint again")
    shape, name = lora.read_shape(adapter)
    home = base or Path(name)
    if (not name and base is None) or not home.is_dir():
        raise ModelError(
            f"{folder} holds a LoRA adapter over {name or 'an unnamed base'} and no weights: give the folder of that "
            "base (`base`), or merge the adapter first"
        )
    pairs = lora.read_pairs(adapter)
    if part(folder, "vision_backbone", needed=False) is not None:  # FiLMed towers carry their adapters themselves
        pairs = {layer: pair for layer, pair in pairs.items() if not layer.startswith("vision_backbone.")}
    return home, lora.merge(read_weights(home), pairs, shape, adapter)


def _filmed(folder: Path, path: Path) -> dict[str, Tensor]:
    """The FiLMed towers by published name; saved from inside training, so with their adapters in place."""
    weights = read_state_dict(path)
    if not lora.is_wrapped(weights):
        return weights
    shape, _ = lora.read_shape(folder / ADAPTER)
    return lora.unwrap(weights, shape, path)


def _extras(folder: Path) -> dict[str, Tensor]:
    """Head and projectors, by our names."""
    files = {name: part(folder, name) for name in ("action_head", "proprio_projector")}
    noisy = part(folder, "noisy_action_projector", needed=False)
    head = read_state_dict(files["action_head"] or folder)
    diffuses = any(name.startswith("noise_predictor.") for name in head)
    if diffuses != (noisy is not None):
        raise ModelError(
            f"{folder}: the action head is of the {'diffusion' if diffuses else 'L1'} kind, but noisy_action_projector "
            f"{'is missing' if diffuses else 'is there as well'}: keep the files of one training run"
        )
    found = head_names(head)
    for name, path in (("proprio_projector", files["proprio_projector"]), ("noisy_action_projector", noisy)):
        if path is not None:
            found |= {f"{name}.{key}": value for key, value in read_state_dict(path).items()}
    return found


def _text(header: Mapping[str, Any], where: Path) -> LlamaShape:
    data = header.get("text_config")
    if not isinstance(data, dict):
        raise ModelError(f"{where}: found no text_config, expected the configuration of an OpenVLA policy")
    odd = {name: data[name] for name, only in TEXT_ONLY.items() if data.get(name, only) != only}
    if odd:
        raise ModelError(f"{where}: text_config says {odd}; expected { ({name: TEXT_ONLY[name] for name in odd}) }")
    sizes = {ours: data[name] for name, ours in TEXT_FIELDS.items() if data.get(name) is not None}
    sizes.setdefault("kv_heads", sizes.get("heads", LlamaShape.heads))
    sizes.setdefault("vocabulary", 32_000)
    try:
        return LlamaShape(**sizes)
    except ContractError as error:
        raise ModelError(f"{where}: text_config has odd sizes ({error})") from error


def _heads(header: Mapping[str, Any], where: Path) -> list[int]:
    ids = header.get("timm_model_ids") or []
    unknown = [name for name in ids if name not in HEADS]
    wanted = (DINO_NAMES.published, SIGLIP_NAMES.published)
    if len(ids) != len(wanted) or unknown or "siglip" in ids[0] or "siglip" not in ids[1]:
        raise ModelError(f"{where}: timm_model_ids is {ids}, expected DINOv2 and SigLIP out of {sorted(HEADS)}")
    return [HEADS[name] for name in ids]


def _image_size(header: Mapping[str, Any], where: Path) -> int:
    sizes = header.get("image_sizes") or []
    if len(sizes) != len(TOWERS) or len(set(sizes)) != 1:
        raise ModelError(f"{where}: image_sizes is {sizes}, expected one size for both towers")
    return int(sizes[0])


def _dino_pixels(folder: Path) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and std of DINOv2's pixels; SigLIP's must be what the graph's pixels are normalised with."""
    path = folder / PREPROCESSOR
    data = read_json(path)
    try:
        means, stds = ([tuple(row[what]) for row in data["tvf_normalize_params"]] for what in ("mean", "std"))
        if (means[1], stds[1]) != (SIGLIP_MEAN, SIGLIP_STD):
            raise ModelError(f"{path}: SigLIP's pixels have mean {means[1]} and std {stds[1]}, expected 0.5 and 0.5")
    except (KeyError, IndexError, TypeError) as error:
        raise ModelError(
            f"{path}: no tvf_normalize_params of two towers ({error}): copy the checkpoint again"
        ) from error
    return means[0], stds[0]


def _kind(weights: Mapping[str, Tensor], folder: Path) -> Any:
    """The dtype of the base, which upstream gives to head and projectors as well."""
    try:
        return weights["language.embed_tokens.weight"].dtype
    except KeyError as error:
        raise ModelError(f"{folder}: language_model.model.embed_tokens.weight is missing: copy it again") from error
