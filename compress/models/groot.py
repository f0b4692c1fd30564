# SPDX-License-Identifier: Apache-2.0
"""GR00T N1.7 as a `VlaModel` (its network is `groot_module`); reads NVIDIA's checkpoints, writes its own.

The prompt holds the images: `PromptSpec.template` is the chat's text with one image token per place, as many as the
cameras give: `<|im_start|>user`, a newline, per camera `<|vision_start|>`, `<|image_pad|>` (64 times for 256 px) and
`<|vision_end|>`, then `{instruction}`, `<|im_end|>` and a newline. Upstream strips punctuation from instructions first.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.models import groot_files
from compress.models.base import Batch, BlockGroup, ExportStage, ModelError
from compress.models.checkpoint import fill, is_own
from compress.models.flow import FlowSampler, noise_and_time, start_noise
from compress.models.groot_config import GrootConfig
from compress.models.groot_module import GrootNetwork
from compress.models.policy_io import PolicyIo
from compress.models.saved_policy import SavedPolicy
from runtime.contract.graph import ATTENTION_MASK, INPUT_IDS, PIXELS, STATE
from runtime.errors import ContractError, ObservationError
from runtime.inference.tokenizer import PromptTokenizer

INPUTS = (PIXELS, INPUT_IDS, ATTENTION_MASK, STATE)
LANGUAGE = BlockGroup(
    role="language",
    blocks="vlm.layers",
    attention="self_attn",
    mlp="mlp",
    input_norm="input_layernorm",
    mid_norm="post_attention_layernorm",
    after="head.vlln",
)


class GrootN17(SavedPolicy):
    """The `VlaModel` of GR00T N1.7; NVIDIA's class cannot be installed beside this torch: no stock form is promised."""

    family = "groot_n17"
    head = "head.action_decoder"

    def __init__(self, config: GrootConfig, io: PolicyIo, seed: int = 0) -> None:
        """A whole policy with random weights drawn from `seed`.

        Raises:
            ModelError: the robot's conventions do not fit the architecture.
        """
        check_fit(config, io)
        super().__init__(io)
        self.config = config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._network = GrootNetwork(config, io.observation.images[0].height)
        self._network.eval()

    @property
    def module(self) -> nn.Module:
        """All parameters."""
        return self._network

    @property
    def groups(self) -> tuple[BlockGroup, ...]:
        """`language` (counted from the first block that no tap feeds), `action` and `vision.qwen`."""
        action = BlockGroup(
            role="action",
            blocks="head.model.transformer_blocks",
            attention="attn1",
            mlp="ff",
            input_norm="norm1",
            mid_norm="norm3",
            after="head.model.norm_out",
            unit=self.config.head.period,
        )
        vision = BlockGroup(
            role="vision.qwen",
            blocks="vlm.visual.blocks",
            attention="attn",
            mlp="mlp",
            input_norm="norm1",
            mid_norm="norm2",
            after="vlm.visual.merger.norm",
            pinned=frozenset(self.config.vlm.taps),
        )
        return LANGUAGE, action, vision

    def loss(self, batch: Batch, noise_seed: int = 0) -> Tensor:
        """Flow matching, (B,): squared error of the velocity over real steps and the robot's own dimensions."""
        c, (_, horizon, dims) = self.config, batch.actions.shape
        target = batch.actions.clamp(-1.0, 1.0) if c.clip else batch.actions
        target = F.pad(target, (0, c.max_action_dim - dims, 0, c.max_horizon - horizon))
        noise, remaining = noise_and_time(
            batch.sample_ids, tuple(target.shape[1:]), noise_seed, target.device, target.dtype
        )
        time = 1.0 - remaining  # here the flow ends at 1
        share = time.to(target.dtype)[:, None, None]
        context = self._network.read(*(batch.inputs[name] for name in INPUTS))
        ticks = self._network.time_features((time * c.buckets).long())
        found = self._network.velocity(context, (1.0 - share) * noise + share * target, ticks)
        error = (found - (target - noise))[:, :horizon, :dims].square().mean(-1)  # (B, H)
        real = (~batch.pad).to(error.dtype)
        return (error * real).sum(1) / real.sum(1).clamp(min=1.0)

    @torch.no_grad()
    def chunk(self, batch: Batch, noise_seed: int = 0) -> Tensor:
        """Actions in physical units, (B, H, A)."""
        found: Tensor = self._sampler(noise_seed)(*(batch.inputs[name] for name in INPUTS))
        return self.io.physical(found)

    def _sampler(self, noise_seed: int) -> FlowSampler:
        noise = start_noise((self.config.max_horizon, self.config.max_action_dim), noise_seed)
        device = next(self._network.parameters()).device
        made = FlowSampler(
            self._network, noise.to(device), self._network.tables(device), horizon=self.io.action.horizon,
            action_dim=self.io.action.dim, clip=self.config.clip,
        )  # fmt: skip
        return made.train(self._network.training)

    def stages(self) -> tuple[ExportStage, ...]:
        """One graph: the prefix once, then a loop over the sampler's steps."""
        return (ExportStage("policy", self._sampler(0), self.io.example_inputs(), ("actions",)),)

    def _architecture(self) -> dict[str, Any]:
        return self.config.to_dict()

    @classmethod
    def load(cls, folder: Path) -> GrootN17:
        """Read DropGate's own folder, or NVIDIA's with `policy_io.json` and `tokenizer.json` beside it.

        Raises:
            ModelError: a file is missing or damaged, or a tensor is absent, unknown or of another shape.
        """
        if not is_own(folder):
            found = groot_files.read(folder)
            model = cls(found.config, found.io)
            fill(model._network, found.weights, folder)
            model.unloaded = found.unloaded
            return model
        return cls._own(folder, lambda found: cls(GrootConfig.from_dict(found.config, str(folder)), found.io))


def check_fit(config: GrootConfig, io: PolicyIo) -> None:
    """The network has room for the robot, and the prompt has a place for every image token. Raises ModelError."""
    image, v = io.observation.images[0], config.vlm
    grain = v.patch_size * v.merge
    faults = [
        (io.observation.state.dim > config.max_state_dim, f"state of {io.observation.state.dim}"),
        (io.action.dim > config.max_action_dim, f"action of {io.action.dim}"),
        (io.action.horizon > config.max_horizon, f"chunk of {io.action.horizon} steps"),
        (
            image.width != image.height or image.width % grain != 0,
            f"images of {image.width} x {image.height} px (expected squares of a multiple of {grain} px)",
        ),
    ]
    found = "; ".join(text for wrong, text in faults if wrong)
    if found:
        raise ModelError(f"this GR00T N1.7 has no room for: {found}; see its configuration {config.to_dict()}")
    wanted = (image.width // grain) ** 2 * len(io.cameras)
    try:
        ids, mask = PromptTokenizer(io.tokenizer_json, io.prompt).encode("go")
    except (ObservationError, ContractError) as error:
        raise ModelError(f"prompt: {error}") from error
    there = int(((ids == v.image_token) & (mask == 1)).sum())
    if there != wanted:
        raise ModelError(
            f"prompt: the template gives {there} image tokens (id {v.image_token}), the {len(io.cameras)} cameras need "
            f"{wanted}: repeat the image token in `prompt.template`"
        )
