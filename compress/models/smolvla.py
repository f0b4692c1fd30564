# SPDX-License-Identifier: Apache-2.0
"""SmolVLA as a `VlaModel` (its network is `smolvla_module`); reads LeRobot's checkpoints, writes its own.

A language block and the expert block of the same index belong together: the expert reads that block's keys and values.
Each stack takes stubs in any block; blocks leave the lists only as pairs (a plan for `language+action`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compress.models import smolvla_files
from compress.models.base import Batch, BlockGroup, ExportStage, ModelError, Surgery
from compress.models.checkpoint import fill, is_own
from compress.models.flow import FlowSampler, noise_and_time, start_noise
from compress.models.policy_io import PolicyIo
from compress.models.saved_policy import SavedPolicy
from compress.models.smolvla_config import SmolVlaConfig
from compress.models.smolvla_module import SmolVlaNetwork
from runtime.contract.graph import ATTENTION_MASK, INPUT_IDS, PIXELS, STATE

INPUTS = (PIXELS, INPUT_IDS, ATTENTION_MASK, STATE)
LANGUAGE = BlockGroup(
    role="language",
    blocks="vlm.text_model.layers",
    attention="self_attn",
    mlp="mlp",
    input_norm="input_layernorm",
    mid_norm="post_attention_layernorm",
    after="vlm.text_model.norm",
    compact=False,
    shared_kv=True,
    partner="action",
)
EXPERT = replace(
    LANGUAGE, role="action", blocks="expert.layers", after="expert.norm", shared_kv=False, partner="language"
)
VISION = BlockGroup(
    role="vision.siglip",
    blocks="vlm.vision_model.encoder.layers",
    attention="self_attn",
    mlp="mlp",
    input_norm="layer_norm1",
    mid_norm="layer_norm2",
    after="vlm.vision_model.post_layernorm",
)


class SmolVla(SavedPolicy):
    """The `VlaModel` of SmolVLA; LeRobot's class does not run beside this torch: no stock form is promised."""

    family = "smolvla"
    head = "action_out_proj"

    def __init__(self, config: SmolVlaConfig, io: PolicyIo, seed: int = 0) -> None:
        """A whole policy with random weights drawn from `seed`.

        Raises:
            ModelError: the robot's conventions do not fit the architecture.
        """
        smolvla_files.check_fit(config, io, "configuration")
        super().__init__(io)
        self.config = config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._network = SmolVlaNetwork(config, io.observation.images[0].height)
        self._network.eval()

    @property
    def module(self) -> nn.Module:
        """All parameters."""
        return self._network

    @property
    def groups(self) -> tuple[BlockGroup, ...]:
        """`language`, `action` and `vision.siglip`; pairs leave in runs that keep even and odd places apart."""
        every = max(self.config.self_attention_every, 1)
        return (replace(LANGUAGE, pair_unit=every), replace(EXPERT, pair_unit=every), VISION)

    def _record(self, group: BlockGroup) -> Surgery:
        return self._surgery.get(group.role, Surgery.none(len(group.stack(self._network))))

    @property
    def dead_weights(self) -> Mapping[str, int]:
        """State-dict name -> elements of tensors that no action depends on.

        The last language block is read for its keys and values only. Two more tensors of the published checkpoint are
        not built at all (`unloaded`): the language-model head and the last language norm.
        """
        last = len(LANGUAGE.stack(self._network)) - 1
        read = ("input_layernorm", "self_attn.k_proj", "self_attn.v_proj")
        return {
            f"{LANGUAGE.blocks}.{last}.{name}": value.numel()
            for name, value in LANGUAGE.stack(self._network)[last].named_parameters()
            if not name.startswith(read)
        }

    def loss(self, batch: Batch, noise_seed: int = 0) -> Tensor:
        """Flow matching, (B,): squared error of the velocity over real steps and the robot's own dimensions."""
        actions = F.pad(batch.actions, (0, self.config.max_action_dim - batch.actions.shape[-1]))
        noise, time = noise_and_time(
            batch.sample_ids, tuple(actions.shape[1:]), noise_seed, actions.device, actions.dtype
        )
        share = time.to(actions.dtype)[:, None, None]
        prefix = self._network.read(*(batch.inputs[name] for name in INPUTS))
        noisy = share * noise + (1.0 - share) * actions
        found = self._network.velocity(prefix, noisy, self._network.time_features(time))
        error = (found - (noise - actions))[..., : batch.actions.shape[-1]].square().mean(-1)  # (B, H)
        real = (~batch.pad).to(error.dtype)
        return (error * real).sum(1) / real.sum(1).clamp(min=1.0)

    @torch.no_grad()
    def chunk(self, batch: Batch, noise_seed: int = 0) -> Tensor:
        """Actions in physical units, (B, H, A)."""
        found: Tensor = self._sampler(noise_seed)(*(batch.inputs[name] for name in INPUTS))
        return self.io.physical(found)

    def _sampler(self, noise_seed: int) -> FlowSampler:
        noise = start_noise((self.config.horizon, self.config.max_action_dim), noise_seed)
        device = next(self._network.parameters()).device
        made = FlowSampler(
            self._network, noise.to(device), self._network.tables(), horizon=len(noise), action_dim=self.io.action.dim
        )
        return made.train(self._network.training)

    def stages(self) -> tuple[ExportStage, ...]:
        """One graph: the prefix once, then a loop over the sampler's steps."""
        return (ExportStage("policy", self._sampler(0), self.io.example_inputs(), ("actions",)),)

    def _architecture(self) -> dict[str, Any]:
        return self.config.to_dict()

    @classmethod
    def load(cls, folder: Path) -> SmolVla:
        """Read DropGate's own folder, or LeRobot's with `policy_io.json` and `tokenizer.json` beside it.

        Raises:
            ModelError: a file is missing or damaged, or a tensor is absent, unknown or of another shape.
        """
        if not is_own(folder):
            found = smolvla_files.read(folder)
            model = cls(found.config, found.io)
            fill(model._network, found.weights, folder, smolvla_files.rename)
            model.unloaded = {n: w.numel() for n, w in found.weights.items() if smolvla_files.rename(n) is None}
            return model
        return cls._own(folder, lambda found: cls(SmolVlaConfig.from_dict(found.config, str(folder)), found.io))

    def lerobot_config(self) -> dict[str, Any] | None:
        """LeRobot's `config.json` for this network, not seen running there; None where it has no words for it.

        It has a field for the number of pairs, none for stubs, and takes the vision depth from the VLM's own folder.
        """
        whole = tuple(range(self.config.vision.depth))
        kept = self._record(EXPERT).kept
        stubs = any(record.without_attention or record.without_mlp for record in self._surgery.values())
        if stubs or self.hollow or self._record(LANGUAGE).kept != kept or self._record(VISION).kept != whole:
            return None
        return smolvla_files.lerobot_config(self.config, self.io, len(kept))

    def save_lerobot(self, folder: Path) -> None:
        """Write `config.json` and `model.safetensors` under LeRobot's names; not seen loading there.

        Two dead tensors that its class also lists are left out (`smolvla_files.LM_HEAD`, `TEXT_NORM`); its loader for
        SmolVLA does not insist on them. The statistics are those of the source's `policy_preprocessor.json`.

        Raises:
            ModelError: LeRobot's configuration cannot say what was removed.
        """
        config = self.lerobot_config()
        if config is None:
            raise ModelError("LeRobot's configuration has no words for stubs or a shorter vision tower; use save()")
        smolvla_files.save_lerobot(folder, config, self._network.state_dict())
