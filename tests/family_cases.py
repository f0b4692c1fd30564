# SPDX-License-Identifier: Apache-2.0
"""Tiny policies of every model family, of the real classes with random weights, for the conformance suite.

A family is one file `tests/family_<name>.py` with a `CASE`; it is listed in `NAMES`.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from compress.data.samples import Sample
from compress.models.base import Batch, VlaModel
from compress.models.policy_io import PolicyIo
from compress.models.reference_config import ReferenceConfig
from compress.models.reference_specs import action_spec, observation_spec
from compress.reference import tokenizer
from runtime.contract.conventions import NormMethod
from runtime.contract.normalization import Normalization, Normalizers
from runtime.contract.spec import INSTRUCTION_FIELD, PromptSpec

NAMES = ("reference", "pi0", "pi05", "smolvla", "openvla_oft", "groot_n17")
INSTRUCTIONS = ("open the top drawer", "put the black bowl in the left tray", "turn on the stove")
VOCABULARY = 512


@dataclass(frozen=True)
class FamilyCase:
    """What the suite has to know of a family.

    Attributes:
        make: a tiny policy in evaluation mode, float32, weights drawn from a seed; several blocks per stack.
        load: its adapter's loader.
        library_loss: (model, batch, noise_seed) -> the library's own loss of each sample (B,), by the library's own
            class on the same weights, noise and time, without padding; None where no library has the class.
        library_chunk: the same for the *normalised* chunk (B, H, A).
        stock_chunk: (folder written by `model.save_stock`, batch) -> normalised chunk, by the library's own loader.
        why_no_library: said by the skipped tests.
        dead: (role, original index, part) of blocks that cannot affect the action.
        padding_is_seen: actions behind the end of an episode enter the network (noised), though they carry no loss.
    """

    make: Callable[[int], VlaModel]
    load: Callable[[Path], VlaModel]
    library_loss: Callable[[VlaModel, Batch, int], Tensor] | None = None
    library_chunk: Callable[[VlaModel, Batch, int], Tensor] | None = None
    stock_chunk: Callable[[Path, Batch], Tensor] | None = None
    why_no_library: str = ""
    dead: tuple[tuple[str, int, str], ...] = ()
    padding_is_seen: bool = False


@functools.cache
def case(name: str) -> FamilyCase:
    """The case of one family."""
    found: FamilyCase = importlib.import_module(f"family_{name}").CASE
    return found


def tokenizer_json() -> bytes:
    """A real tokenizer with `VOCABULARY` rows."""
    return tokenizer.trained(VOCABULARY)


def tiny_io(
    image_size: int = 28, horizon: int = 4, cameras: tuple[str, ...] = ("agentview", "wrist"), max_tokens: int = 16,
    template: str = INSTRUCTION_FIELD, method: NormMethod = NormMethod.Q01_Q99, pad_id: int = 0,
) -> PolicyIo:  # fmt: skip
    """LIBERO's 8-D state and 7-D OSC_POSE action at a small size."""
    shape = ReferenceConfig(
        image_size=image_size, patch_size=image_size // 2, horizon=horizon, cameras=cameras, max_tokens=max_tokens
    )
    low, high = -np.linspace(0.3, 1.0, 7), np.linspace(0.2, 0.9, 7)
    if method is NormMethod.MEAN_STD:
        norms = Normalizers(
            Normalization.of(method, np.zeros(8), np.ones(8)), Normalization.of(method, (low + high) / 2, high)
        )
    else:
        norms = Normalizers(Normalization.of(method, -np.ones(8), np.ones(8)), Normalization.of(method, low, high))
    prompt = PromptSpec(template=template, max_tokens=max_tokens, pad_id=pad_id, lowercase=True)
    return PolicyIo(observation_spec(shape), action_spec(shape), prompt, norms, tokenizer_json())


def samples_for(model: VlaModel, count: int = 4, seed: int = 3) -> list[Sample]:
    """Random observations and smooth actions that fit the model's specs; no step is padding."""
    specs, draw = model.specs(), np.random.default_rng(seed)
    image, action = specs["observation"].images[0], specs["action"]
    mix = draw.normal(0, 0.5, (specs["observation"].state.dim, action.dim))
    made = []
    for number in range(count):
        state = draw.normal(0, 0.5, specs["observation"].state.dim).astype(np.float32)
        made.append(
            Sample(
                images={
                    key: draw.integers(0, 256, (image.height, image.width, 3), dtype=np.uint8)
                    for key in specs["observation"].image_keys
                },
                state=state,
                actions=np.tile(0.3 * np.tanh(state @ mix), (action.horizon, 1)).astype(np.float32),
                pad=np.zeros(action.horizon, bool),
                instruction=INSTRUCTIONS[number % len(INSTRUCTIONS)],
                sample_id=f"task/demo/{number}",
            )
        )
    return made


def scramble(module: nn.Module, seed: int, scale: float = 0.2) -> None:
    """Random weights that make every tensor matter: many real classes start with zeros and ones."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draw) * scale * (parameter.shape[-1] ** -0.5))
