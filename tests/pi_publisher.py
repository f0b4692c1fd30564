# SPDX-License-Identifier: Apache-2.0
"""Folders as openpi, LeRobot and transformers publish pi0 and pi0.5, made of a live policy's weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from family_cases import samples_for
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from compress.models.pi0_policy import PiPolicy
from compress.models.policy_io import FILE
from runtime.contract.graph import NORMALIZATION_FILE

Affine = tuple[NDArray[np.float64], NDArray[np.float64]]
STATE, ACTION = "observation.state", "action"
UPSTREAM = {
    "model.vlm.": "paligemma_with_expert.paligemma.model.",
    "paligemma.": "paligemma_with_expert.paligemma.model.",
    "model.dit.": "paligemma_with_expert.gemma_expert.model.",
    "expert.": "paligemma_with_expert.gemma_expert.model.",
    "embed_action_time.": "",
}


def upstream(model: PiPolicy) -> dict[str, Tensor]:
    """openpi's names, as its converter writes them: tower with `vision_model`, an untrained expert head."""
    found = {}
    for name, value in model.module.state_dict().items():
        old, new = next(((o, n) for o, n in UPSTREAM.items() if name.startswith(o)), ("", ""))
        renamed = new + name.removeprefix(old)
        renamed = renamed.replace("vision_tower.", "vision_tower.vision_model.")
        found[renamed.replace("gemma_expert.model.embed_tokens", "gemma_expert.lm_head")] = value.clone()
    found.setdefault("paligemma_with_expert.gemma_expert.lm_head.weight", torch.zeros(512, 32))
    return found


def as_lerobot(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """LeRobot's policy holds the network as `model`; its PaliGemma head is no longer tied."""
    found = {f"model.{name}": value for name, value in weights.items()}
    table = found["model.paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight"]
    found["model.paligemma_with_expert.paligemma.lm_head.weight"] = torch.randn(table.shape)
    return found


def write_robot(model: PiPolicy, folder: Path) -> None:
    """What DropGate asks for beside published weights: conventions and tokenizer, no statistics."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in model.io.files().items():
        if name != NORMALIZATION_FILE:
            (folder / name).write_bytes(data)
    assert (folder / FILE).is_file()


def write_openpi(model: PiPolicy, folder: Path, statistics: Mapping[str, Mapping[str, list[float]]]) -> None:
    """`model.safetensors`, a note of sizes, and statistics by asset."""
    write_robot(model, folder)
    save_file(upstream(model), folder / "model.safetensors")
    note = {"action_dim": 9, "action_horizon": model.config.chunk_size, "paligemma_variant": "gemma_2b",
            "action_expert_variant": "gemma_300m", "precision": "float32"}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(note))
    assets = folder / "assets" / "physical-intelligence" / "libero"
    assets.mkdir(parents=True)
    (assets / "norm_stats.json").write_text(json.dumps({"norm_stats": statistics}))


def write_lerobot(
    model: PiPolicy, folder: Path, mode: str, statistics: Mapping[str, Mapping[str, list[float]]]
) -> None:
    """`config.json` of the policy, weights, and both pipelines with their statistics."""
    write_robot(model, folder)
    save_file(as_lerobot(upstream(model)), folder / "model.safetensors")
    config = model.config
    header: dict[str, Any] = {
        "type": model.family, "paligemma_variant": "gemma_2b", "action_expert_variant": "gemma_300m",
        "dtype": "float32", "chunk_size": config.chunk_size, "n_action_steps": config.chunk_size,
        "max_state_dim": config.max_state_dim, "max_action_dim": config.max_action_dim, "num_inference_steps": 3,
        "min_period": 4e-3, "max_period": 4.0, "image_resolution": [28, 28], "use_relative_actions": False,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(header))
    flat = {
        f"{feature}.{name}": torch.tensor(value)
        for feature, values in statistics.items()
        for name, value in values.items()
    }
    norm_map = {"VISUAL": "IDENTITY", "STATE": mode, "ACTION": mode}
    for name, step in (
        ("policy_preprocessor", "normalizer_processor"),
        ("policy_postprocessor", "unnormalizer_processor"),
    ):
        file = f"{name}_step_0_{step}.safetensors"
        entry = {"registry_name": step, "config": {"eps": 1e-8, "norm_map": norm_map}, "state_file": file}
        save_file(flat, folder / file)
        (folder / f"{name}.json").write_text(json.dumps({"name": name, "steps": [{"registry_name": "other"}, entry]}))


def mean_std(seed: int, state: int = 8, action: int = 7) -> dict[str, dict[str, list[float]]]:
    """Means and deviations that differ per dimension, under LeRobot's feature names."""
    draw = np.random.default_rng(seed)
    return {
        name: {"mean": draw.normal(0, 1, dim).tolist(), "std": draw.uniform(0.5, 2.0, dim).tolist()}
        for name, dim in ((STATE, state), (ACTION, action))
    }


def quantiles(seed: int, state: int = 8, action: int = 7) -> dict[str, dict[str, list[float]]]:
    """First and last percentiles, under LeRobot's feature names."""
    draw = np.random.default_rng(seed)
    return {
        name: {"q01": draw.uniform(-2, -0.5, dim).tolist(), "q99": draw.uniform(0.5, 2.0, dim).tolist()}
        for name, dim in ((STATE, state), (ACTION, action))
    }


def openpi_names(statistics: Mapping[str, Mapping[str, list[float]]]) -> dict[str, Mapping[str, list[float]]]:
    """The same statistics under openpi's names."""
    return {"state": statistics[STATE], "actions": statistics[ACTION]}


def check_published(model: PiPolicy, found: PiPolicy, state: Affine, action: Affine) -> None:
    """Same weights; the published statistics scale what goes in and what comes out.

    Args:
        model: what was published.
        found: what was read.
        state, action: offset and scale, physical = model * scale + offset, by the publisher's own formula.
    """
    read = found.module.state_dict()
    assert read.keys() == model.module.state_dict().keys()
    assert all(torch.equal(value, read[name]) for name, value in model.module.state_dict().items())
    sample = samples_for(model, 1)
    batch = found.collate(sample)
    wanted = (sample[0].state - state[0]) / state[1]
    np.testing.assert_allclose(batch.inputs["state"][0].numpy(), wanted, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        (normalised,) = (stage.module(*batch.inputs.values()) for stage in found.stages())
    commands = normalised.numpy() * action[1] + action[0]
    np.testing.assert_allclose(found.chunk(batch).numpy(), commands, rtol=1e-5, atol=1e-6)
