# SPDX-License-Identifier: Apache-2.0
"""Tiny real policies and batches for the tests of GateProbe, the baselines, Drop-Then-Recovery and the trainer."""

from __future__ import annotations

import functools
import hashlib

import numpy as np
import torch
from torch import nn

from compress.calibration import CalibrationSet
from compress.data.frames import FrameArrays
from compress.data.samples import Sample
from compress.models.base import Batch
from compress.models.reference import ReferenceVla
from compress.models.reference_config import ReferenceConfig, StackConfig
from compress.reference import tokenizer
from runtime.contract.conventions import NormMethod
from runtime.contract.normalization import Normalization, Normalizers

INSTRUCTIONS = ("open the top drawer", "put the black bowl in the left tray", "turn on the stove")


def config(depth: int = 6, vision_depth: int = 3) -> ReferenceConfig:
    shape = {"width": 32, "heads": 2, "mlp_width": 64}
    return ReferenceConfig(
        vision=StackConfig(depth=vision_depth, **shape),
        language=StackConfig(depth=depth, **shape),
        image_size=32,
        patch_size=8,
        horizon=4,
    )


def tokenizer_json() -> bytes:
    """A real tokenizer with 512 rows."""
    return tokenizer.trained(512)


def policy(depth: int = 6, seed: int = 0, double: bool = False, vision_depth: int = 3) -> ReferenceVla:
    """Random weights, evaluation mode; float64 on request."""
    spread = Normalizers(
        Normalization.of(NormMethod.Q01_Q99, -np.ones(8), np.ones(8)),
        Normalization.of(NormMethod.Q01_Q99, -np.linspace(0.3, 1.0, 7), np.linspace(0.2, 0.9, 7)),
    )
    made = ReferenceVla(config(depth, vision_depth), spread, tokenizer_json(), seed=seed)
    made.module.eval()
    if double:
        made.module.double()
        for holder in list(made.module.language.modules()):
            for name, child in holder.named_children():
                if type(child).__name__ == "LlamaRMSNorm":  # computes in float32 whatever it is given
                    norm = nn.RMSNorm(child.weight.shape[0], eps=child.variance_epsilon, dtype=torch.float64)
                    norm.weight = child.weight
                    setattr(holder, name, norm)
    return made


@functools.cache
def demos(episodes: int = 6, length: int = 20) -> FrameArrays:
    """Demonstrations that can be learned: actions are a smooth function of the state."""
    shape, draw = config(), np.random.default_rng(7)
    count = episodes * length
    states = draw.normal(0, 0.6, (count, shape.state_dim)).astype(np.float32)
    mix = draw.normal(0, 0.5, (shape.state_dim, shape.action_dim))
    actions = np.tanh(states @ mix).astype(np.float32) * 0.5
    images = {c: draw.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8) for c in shape.cameras}
    episode = np.repeat(np.arange(episodes), length)
    names = tuple(f"task_{i % 2}/demo_{i}" for i in range(episodes))
    digest = hashlib.sha256(states.tobytes()).hexdigest()
    return FrameArrays(images, states, actions, episode, episode % len(INSTRUCTIONS), INSTRUCTIONS, names, digest)


def fitted(seed: int = 0) -> tuple[ReferenceVla, list[Batch]]:
    """A policy whose last linear layer is fitted to the batches in closed form, and whose blocks matter unequally."""
    made = policy(depth=8, seed=seed, vision_depth=1)
    made_for = batches(made, 24, 8)
    features: list[torch.Tensor] = []
    handle = made.module.head[2].register_forward_hook(lambda _module, _args, output: features.append(output))
    with torch.no_grad():
        for block, gain in zip(made.module.language.layers, (4.0, 0.2, 2.4, 0.4, 3.2, 0.8, 1.6, 1.2), strict=True):
            block.self_attn.o_proj.weight *= gain
            block.mlp.down_proj.weight *= gain
        for batch in made_for:
            made.loss(batch)
        handle.remove()
        x = torch.cat(features).flatten(0, 1).double()
        x = torch.cat([x, torch.ones(len(x), 1)], dim=1)
        y = torch.cat([batch.actions for batch in made_for]).flatten(0, 1).double()
        weights = torch.linalg.solve(x.T @ x + 1e-3 * torch.eye(x.shape[1]), x.T @ y).float()
        made.module.head[3].weight.copy_(weights[:-1].T)
        made.module.head[3].bias.copy_(weights[-1])
    return made, made_for


def samples(count: int = 8) -> list[Sample]:
    arrays = demos()
    return [arrays.sample(int(i), config().horizon) for i in np.linspace(0, len(arrays) - 1, count).astype(int)]


def batches(model: ReferenceVla, count: int = 8, batch_size: int = 4, double: bool = False) -> list[Batch]:
    made = list(CalibrationSet(model, samples(count), batch_size))
    return [as_double(batch) for batch in made] if double else made


def as_double(batch: Batch) -> Batch:
    inputs = {k: v.double() if v.is_floating_point() else v for k, v in batch.inputs.items()}
    return Batch(inputs, batch.actions.double(), batch.pad, batch.sample_ids)
