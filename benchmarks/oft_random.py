# SPDX-License-Identifier: Apache-2.0
"""OpenVLA-OFT with random weights, built where it will run: no file is read, and the CPU never holds the weights.

The network is described on torch's meta device, cast, given memory on the target (`to_empty`) and filled there from one
seeded generator. The same seed on the same kind of device gives the same weights; CPU and GPU draw different ones.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

from compress.data.samples import Sample
from compress.models.openvla_oft import OpenVlaOft
from compress.models.openvla_oft_config import LlamaShape, OpenVlaOftConfig, VitShape, openvla_7b
from compress.models.openvla_oft_module import OpenVlaOftModule
from compress.models.policy_io import PolicyIo
from compress.models.reference_config import ReferenceConfig
from compress.models.reference_specs import action_spec, observation_spec
from compress.reference import tokenizer
from runtime.contract.conventions import NormMethod
from runtime.contract.normalization import Normalization, Normalizers
from runtime.contract.spec import INSTRUCTION_FIELD, PromptSpec

SPREAD = 0.02  # standard deviation of every matrix: about 1 / sqrt(width) at the published sizes
PROMPT_TOKENS = 34  # with two cameras the language stack sees 605 tokens, as in the roofline that it is compared with
SENTENCES = ("open the top drawer", "put the black bowl in the left tray", "turn on the stove")


def full_size() -> tuple[OpenVlaOftConfig, PolicyIo]:
    """The published network (7.5 B parameters that act), LIBERO's two cameras, state and action."""
    io = libero_io(224, PROMPT_TOKENS)
    return openvla_7b(state_dim=io.observation.state.dim, horizon=io.action.horizon), io


def tiny_size() -> tuple[OpenVlaOftConfig, PolicyIo]:
    """The same network, narrow and of eight language blocks: for the test of this code."""
    io = libero_io(28, 16)
    config = OpenVlaOftConfig(
        language=LlamaShape(depth=8, width=32, heads=4, kv_heads=4, mlp_width=64, vocabulary=512),
        dinov2=VitShape(depth=2, width=32, heads=4, mlp_width=64, prefix=3),
        siglip=VitShape(depth=2, width=32, heads=4, mlp_width=48),
        image_size=28,
        suffix_id=400,
    )
    return config, io


def libero_io(image_size: int, max_tokens: int) -> PolicyIo:
    """The robot's side, with a small real tokenizer and statistics of -1 to 1."""
    shape = ReferenceConfig(image_size=image_size, patch_size=14, horizon=8, max_tokens=max_tokens)
    unit = {n: Normalization.of(NormMethod.Q01_Q99, -np.ones(n), np.ones(n)) for n in (8, 7)}
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.build(Path(folder) / "tokenizer.json", 512)
        words = (Path(folder) / "tokenizer.json").read_bytes()
    prompt = PromptSpec(template=INSTRUCTION_FIELD, max_tokens=max_tokens, pad_id=0, lowercase=True)
    return PolicyIo(observation_spec(shape), action_spec(shape), prompt, Normalizers(unit[8], unit[7]), words)


def build(config: OpenVlaOftConfig, io: PolicyIo, device: torch.device, dtype: torch.dtype, seed: int) -> OpenVlaOft:
    """A policy on `device`.

    Raises:
        RuntimeError: the network holds a buffer that nothing would fill.
    """
    with torch.device("meta"):
        module = OpenVlaOftModule(config)
    module.to(dtype).to_empty(device=device)
    with torch.device(device):
        module.settle()
    strange = [name for name, _ in module.named_buffers() if not name.startswith("language.rotary_emb.")]
    if strange:
        raise RuntimeError(f"buffers {strange} have no value after a build on the meta device")
    fill(module, seed)
    return OpenVlaOft(config, io, module=module)


@torch.no_grad()
def fill(module: nn.Module, seed: int) -> None:
    """Norm weights and scales one, biases zero, everything else normal."""
    draw = torch.Generator(next(module.parameters()).device).manual_seed(seed)
    for name, parameter in module.named_parameters():
        if parameter.ndim > 1:
            parameter.normal_(0.0, SPREAD, generator=draw)
        else:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)


def samples(io: PolicyIo, count: int, seed: int) -> list[Sample]:
    """Random observations and actions; what they hold changes neither time nor memory."""
    draw, image, dims = np.random.default_rng(seed), io.observation.images[0], io.action.dim
    return [
        Sample(
            images={c: draw.integers(0, 256, (image.height, image.width, 3), dtype=np.uint8) for c in io.cameras},
            state=draw.uniform(-1, 1, io.observation.state.dim).astype(np.float32),
            actions=draw.uniform(-1, 1, (io.action.horizon, dims)).astype(np.float32),
            pad=np.zeros(io.action.horizon, bool),
            instruction=SENTENCES[number % len(SENTENCES)],
            sample_id=f"random/{number // 64}/{number % 64}",
        )
        for number in range(count)
    ]
