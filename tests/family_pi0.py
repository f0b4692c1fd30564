# SPDX-License-Identifier: Apache-2.0
"""pi0 as a conformance case: transformers' own class, tiny."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from family_cases import FamilyCase, scramble, tiny_io
from torch import Tensor
from transformers import PI0Config, PI0ForConditionalGeneration

from compress.models import pi0_config
from compress.models.base import Batch, VlaModel
from compress.models.flow import noise_and_time, start_noise
from compress.models.pi0 import PROMPT, Pi0Vla
from compress.models.policy_io import PolicyIo
from runtime.contract.conventions import NormMethod

VOCABULARY, HORIZON = 512, 4


def tiny_config(depth: int = 4, **changes: Any) -> PI0Config:
    """Four pairs, three vision blocks; head counts as published, so that published layouts can be read back."""
    heads = {"num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 8, "num_hidden_layers": depth}
    sizes: dict[str, Any] = {
        "vision": {
            "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 16,
            "patch_size": 14, "image_size": 28,
        },
        "language": {"hidden_size": 48, "intermediate_size": 96, "vocab_size": VOCABULARY, **heads},
        "expert": {"hidden_size": 32, "intermediate_size": 64, **heads},
        "chunk_size": HORIZON, "max_state_dim": 10, "max_action_dim": 9, "num_inference_steps": 3,
    }  # fmt: skip
    return pi0_config.architecture(**{**sizes, **changes})


def narrow_config() -> PI0Config:
    """All the depth of the published networks (18 pairs, 27 vision blocks) at a width of 64."""
    heads = {"num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 8, "num_hidden_layers": 18}
    vision = {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 27, "num_attention_heads": 16,
        "patch_size": 14, "image_size": 28,
    }  # fmt: skip
    stack = {"hidden_size": 64, "intermediate_size": 128, **heads}
    return tiny_config(vision=vision, language={**stack, "vocab_size": VOCABULARY}, expert=stack)


def narrow(seed: int) -> Pi0Vla:
    """A policy of full depth for end-to-end tests."""
    made = Pi0Vla(narrow_config(), io(), seed)
    scramble(made.module, seed)
    return made


def io() -> PolicyIo:
    return tiny_io(horizon=HORIZON, template=PROMPT, method=NormMethod.MEAN_STD)


def make(seed: int) -> Pi0Vla:
    made = Pi0Vla(tiny_config(), io(), seed)
    scramble(made.module, seed)
    return made


def stock_inputs(batch: Batch, config: PI0Config) -> dict[str, Tensor]:
    """The arguments of the stock class: image tokens in front of the prompt, state padded with zeros."""
    pixels, ids, mask = (batch.inputs[name] for name in ("pixels", "input_ids", "attention_mask"))
    size, cameras = len(batch), pixels.shape[1]
    tokens = cameras * config.vlm_config.text_config.num_image_tokens
    images = torch.full((size, tokens), config.vlm_config.image_token_id)
    state = batch.inputs["state"]
    return {
        "input_ids": torch.cat([images, ids], 1),
        "attention_mask": torch.cat([torch.ones_like(images), mask], 1),
        "pixel_values": pixels,
        "pixel_attention_mask": torch.ones(size, cameras, dtype=torch.bool),
        "state": torch.nn.functional.pad(state, (0, config.max_state_dim - state.shape[1])),
    }


def library_loss(model: VlaModel, batch: Batch, seed: int) -> Tensor:
    """The stock class' own loss, sample by sample."""
    stock = model.module
    assert isinstance(stock, PI0ForConditionalGeneration)
    inputs, config = stock_inputs(batch, stock.config), stock.config
    shape = (config.chunk_size, config.max_action_dim)
    noise, time = noise_and_time(batch.sample_ids, shape, seed, torch.device("cpu"), torch.float32)
    actions = torch.nn.functional.pad(batch.actions, (0, shape[1] - batch.actions.shape[2]))
    rows = [slice(i, i + 1) for i in range(len(batch))]
    losses = [
        stock(**{k: v[r] for k, v in inputs.items()}, noise=noise[r], timestep=time[r], actions=actions[r]).loss
        for r in rows
    ]
    return torch.stack(losses)


def sampled(stock: PI0ForConditionalGeneration, batch: Batch, seed: int) -> Tensor:
    """The stock class' own sampler, from our start noise."""
    shape = (stock.config.chunk_size, stock.config.max_action_dim)
    noise = start_noise(shape, seed)[None].expand(len(batch), -1, -1)
    actions: Tensor = stock.sample_actions(**stock_inputs(batch, stock.config), noise=noise)
    return actions[..., : batch.actions.shape[2]]


def library_chunk(model: VlaModel, batch: Batch, seed: int) -> Tensor:
    assert isinstance(model.module, PI0ForConditionalGeneration)
    return sampled(model.module, batch, seed)


def stock_chunk(folder: Path, batch: Batch) -> Tensor:
    return sampled(PI0ForConditionalGeneration.from_pretrained(folder).eval(), batch, 0)


CASE = FamilyCase(
    make,
    Pi0Vla.load,
    library_loss=library_loss,
    library_chunk=library_chunk,
    stock_chunk=stock_chunk,
    dead=(("language", 3, "attention"), ("language", 3, "mlp"), ("language", 3, "block")),
    padding_is_seen=True,
)
