# SPDX-License-Identifier: Apache-2.0
"""A published OpenVLA-OFT folder, file by file as upstream's `finetune.py` leaves it, with random weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import openvla_oft_oracle as oracle
import torch
from family_cases import tiny_io
from safetensors.torch import save_file
from torch import Tensor

from compress.data.samples import Sample
from runtime.inference.tokenizer import PromptTokenizer

IO = tiny_io(horizon=4)
H, A, S = 4, 7, 8
HEED = 0.1
MEAN, STD = (0.484375, 0.455078125, 0.40625), (0.228515625, 0.2236328125, 0.224609375)
STATISTICS: dict[str, Any] = {
    "action": {
        "q01": np.linspace(-0.9, -0.3, A).tolist(),
        "q99": np.linspace(0.2, 0.8, A).tolist(),
        "min": [-1.0] * A,
        "max": [1.5] * A,
        "mean": [0.0] * A,
        "std": [1.0] * A,
        "mask": [True] * (A - 1) + [False],
    },
    "proprio": {
        "q01": np.linspace(-0.8, -0.2, S).tolist(),
        "q99": np.linspace(0.3, 0.7, S).tolist(),
        "min": [-1.0] * S,
        "max": [1.0] * S,
        "mean": [0.0] * S,
        "std": [1.0] * S,
    },
    "num_transitions": 10,
}
TEXT = {
    "model_type": "llama",
    "vocab_size": oracle.VOCABULARY,
    "hidden_size": oracle.WIDTH,
    "intermediate_size": oracle.MLP,
    "num_hidden_layers": oracle.DEPTH,
    "num_attention_heads": oracle.HEADS,
}


@dataclass
class Published:
    """What lies in the folder; `network` has the published names."""

    network: dict[str, Tensor]
    parts: dict[str, dict[str, Tensor]]
    film: bool = False
    text: dict[str, Any] = field(default_factory=lambda: dict(TEXT))
    statistics: dict[str, Any] = field(default_factory=lambda: {"libero_goal_no_noops": STATISTICS})
    conventions: dict[str, Any] = field(default_factory=dict)

    def header(self) -> dict[str, Any]:
        """`config.json`; its `auto_map` names code that must never run."""
        return {
            "model_type": "openvla",
            "auto_map": {"AutoModelForVision2Seq": "modeling_prismatic.OpenVLAForActionPrediction"},
            "timm_model_ids": ["vit_large_patch14_reg4_dinov2.lvd142m", "vit_so400m_patch14_siglip_224"],
            "image_sizes": [28, 28],
            "text_config": self.text,
        }

    def write(self, folder: Path, weights: bool = True) -> Path:
        """Write the files; without `weights` the base network and its configuration are left out."""
        folder.mkdir(parents=True, exist_ok=True)
        if weights:
            shards(folder, {k: v for k, v in self.network.items() if not (self.film and k.startswith("vision_"))})
            (folder / "config.json").write_text(json.dumps(self.header()))
            (folder / "modeling_prismatic.py").write_text("raise SystemExit('code out of a checkpoint was run')\n")
        if self.film:
            towers = {k: v for k, v in self.network.items() if k.startswith("vision_")}
            torch.save(towers, folder / "vision_backbone--50000_checkpoint.pt")
        pixels = [{"mean": list(MEAN), "std": list(STD)}, {"mean": [0.5] * 3, "std": [0.5] * 3}]
        (folder / "preprocessor_config.json").write_text(json.dumps({"tvf_normalize_params": pixels}))
        for name, part in self.parts.items():
            torch.save({f"module.{k}": v for k, v in part.items()}, folder / f"{name}--50000_checkpoint.pt")
        (folder / "dataset_statistics.json").write_text(json.dumps(self.statistics))
        specs = json.loads(IO.files()["policy_io.json"])
        del specs["normalization"]
        (folder / "policy_io.json").write_text(json.dumps({**specs, **self.conventions}))
        (folder / "tokenizer.json").write_bytes(IO.tokenizer_json)
        return folder

    def answer(self, sample: Sample, start: Tensor | None = None, steps: tuple[int, int] = (50, 50)) -> Tensor:
        """The oracle's normalised chunk, (H, A); with `start`, by the diffusion head."""
        images = torch.stack([torch.from_numpy(sample.images[c]) for c in IO.cameras]).permute(0, 3, 1, 2) / 255
        mean, std = (torch.tensor(value)[:, None, None] for value in (MEAN, STD))
        ids, mask = PromptTokenizer(IO.tokenizer_json, IO.prompt).encode(sample.instruction)
        table = STATISTICS["proprio"]
        state = torch.from_numpy(_bounded(sample.state, table)).float()
        prompt = ids[0, : int(mask.sum())].tolist()
        dino, siglip = (images - mean) / std, (images - 0.5) / 0.5
        read = oracle.sequence(self.network, self.parts, dino, siglip, prompt, state, self.film)
        if start is not None:
            return oracle.denoise(read, self.parts, start, *steps)
        return oracle.head(self.parts["action_head"], "model.", read(torch.zeros(1, H * A, oracle.WIDTH), []), A)

    def commands(self, normalised: Tensor) -> Tensor:
        """Upstream's un-normalisation, (..., A)."""
        table = STATISTICS["action"]
        low, high, mask = (torch.tensor(table[name]) for name in ("q01", "q99", "mask"))
        return torch.where(mask, 0.5 * (normalised + 1) * (high - low) + low, normalised)

    def target(self, sample: Sample) -> Tensor:
        """What upstream's training pipeline makes of the actions."""
        table = STATISTICS["action"]
        bounded = _bounded(sample.actions, table)
        return torch.from_numpy(np.where(table["mask"], bounded, sample.actions)).float()


def _bounded(values: Any, table: Mapping[str, Any]) -> Any:
    low, high = np.array(table["q01"]), np.array(table["q99"])
    return np.clip(2 * (values - low) / (high - low) - 1, -1, 1)


def l1(seed: int = 0, film: bool = False) -> Published:
    """A policy with the L1 head."""
    parts = {
        "action_head": oracle.draw(oracle.head_shapes(A, "model."), seed + 1),
        "proprio_projector": oracle.draw(oracle.projector_shapes(S), seed + 2),
    }
    return Published(oracle.draw(oracle.shapes(film), seed), parts, film)


def diffusion(seed: int = 0) -> Published:
    """A policy with the diffusion head; it heeds the noisy actions little, or fifty steps would magnify rounding."""
    made = l1(seed)
    head = oracle.draw(oracle.head_shapes(A, "noise_predictor.mlp_resnet."), seed + 3)
    noisy = oracle.draw(oracle.projector_shapes(1), seed + 4)
    noisy["fc2.weight"] *= HEED
    return replace(made, parts={**made.parts, "action_head": head, "noisy_action_projector": noisy})


def shards(folder: Path, weights: Mapping[str, Tensor], count: int = 2) -> None:
    """Sharded safetensors with their index."""
    names = sorted(weights)
    places = {name: f"model-{i % count + 1:05d}-of-{count:05d}.safetensors" for i, name in enumerate(names)}
    for place in set(places.values()):
        save_file({n: weights[n].contiguous() for n in names if places[n] == place}, folder / place)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


def adapter(
    folder: Path, layers: Mapping[str, Sequence[int]], base: str, rank: int = 2, **changes: Any
) -> dict[str, Tensor]:
    """Write `lora_adapter/` for linear layers (name -> shape); gives what each adds to its weight."""
    place, source = folder / "lora_adapter", torch.Generator().manual_seed(9)
    place.mkdir(parents=True, exist_ok=True)
    halves, added = {}, {}
    for layer, (out, size) in layers.items():
        down, up = (torch.randn(s, generator=source) * 0.3 for s in ((rank, size), (out, rank)))
        halves |= {f"base_model.model.{layer}.lora_A.weight": down, f"base_model.model.{layer}.lora_B.weight": up}
        added[layer] = 3.0 / rank * up @ down
    save_file(halves, place / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": 3, "bias": "none", "init_lora_weights": "gaussian"}
    settings |= {"base_model_name_or_path": base, "target_modules": "all-linear", **changes}
    (place / "adapter_config.json").write_text(json.dumps(settings))
    return added
