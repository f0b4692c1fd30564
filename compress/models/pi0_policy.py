# SPDX-License-Identifier: Apache-2.0
"""What the adapters of pi0 and pi0.5 share: groups, loss, chunk, surgery, and their checkpoint folders."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PI0Config

from compress.models import pi0_config
from compress.models.base import Batch, BlockGroup, ExportStage, Surgery
from compress.models.checkpoint import fill, is_own, sizes_of_others
from compress.models.flow import FlowSampler, noise_and_time
from compress.models.pi0_dead import dead_weights
from compress.models.pi0_files import open_published, require_fit
from compress.models.pi0_graph import PiNetwork, read_prefix, sampler
from compress.models.pi0_groups import groups, require_pairs
from compress.models.policy_io import PolicyIo
from compress.models.saved_policy import SavedPolicy
from runtime.contract.graph import ACTIONS, INPUT_NAMES

Policy = TypeVar("Policy", bound="PiPolicy")


class PiPolicy(SavedPolicy):
    """A flow-matching `VlaModel` on PaliGemma with an action expert."""

    head: ClassVar[str]
    vlm: ClassVar[str]
    expert: ClassVar[str]
    unused: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: PI0Config, io: PolicyIo, seed: int = 0) -> None:
        """A whole policy with random weights drawn from `seed`.

        Raises:
            ModelError: the robot's side does not fit the network.
        """
        require_fit(config, io, self.family)
        super().__init__(io)
        self.config = config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network: PiNetwork = self._build(copy.deepcopy(config))
        self._surgery = {g.role: Surgery.none(pi0_config.depth(config, g.role)) for g in self.groups}
        self.module.eval()

    @abstractmethod
    def _build(self, config: PI0Config) -> PiNetwork:
        """The whole network; `config` is its own."""

    @abstractmethod
    def _place(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Canonical names -> names in `module`, without what is known to be dead."""

    @property
    def groups(self) -> tuple[BlockGroup, ...]:
        """`language`, `action` and `vision.siglip`; see `pi0_groups`."""
        return groups(self.vlm, self.expert)

    def record_surgery(self, surgery: Mapping[str, Surgery]) -> None:
        """Keep the record and the depths of the live stacks.

        Raises:
            ModelError: the language stack and the expert kept different blocks.
        """
        require_pairs(surgery)
        super().record_surgery(surgery)
        for group in self.groups:
            owner: Any = self.module.get_submodule(group.blocks.rpartition(".")[0])
            owner.config.num_hidden_layers = len(self.surgery[group.role].kept)

    @property
    def dead_weights(self) -> Mapping[str, int]:
        """State-dict name -> elements of the tensors that cannot reach the actions; see `pi0_dead`."""
        return dead_weights(self.module, {group.role: group for group in self.groups}, self.unused)

    def loss(self, batch: Batch, noise_seed: int = 0) -> Tensor:
        """Squared velocity error per sample, over real steps and all (also padded) action dimensions, (B,)."""
        shape = (self.config.chunk_size, self.config.max_action_dim)
        noise, time = noise_and_time(batch.sample_ids, shape, noise_seed, batch.actions.device, torch.float32)
        actions = F.pad(batch.actions, (0, shape[1] - batch.actions.shape[2]))
        noisy = time[:, None, None] * noise + (1 - time[:, None, None]) * actions
        pixels, ids, mask, state = (batch.inputs[name] for name in INPUT_NAMES)
        prefix, features = read_prefix(self.network.vlm, pixels, ids, mask), self.network.time_features(time)
        velocity = self.network.velocity(prefix, state, noisy, features)
        error = (noise - actions - velocity.to(noise.dtype)).square().mean(-1)  # (B, H)
        real = (~batch.pad).to(error.dtype)
        return (error * real).sum(1) / real.sum(1).clamp(min=1.0)

    @torch.no_grad()
    def chunk(self, batch: Batch, noise_seed: int = 0) -> Tensor:
        """Actions in physical units, (B, H, A)."""
        return self.io.physical(self._sampler(noise_seed)(*(batch.inputs[name] for name in INPUT_NAMES)))

    def _sampler(self, seed: int) -> FlowSampler:
        shape = (self.config.chunk_size, self.config.max_action_dim)
        return sampler(self.network, shape, self.config.num_inference_steps, self.io.action.dim, seed)

    def stages(self) -> tuple[ExportStage, ...]:
        """One graph: the prefix once, then a loop over Euler's steps."""
        return (ExportStage("policy", self._sampler(0).eval(), self.io.example_inputs(), (ACTIONS,)),)

    def _architecture(self) -> dict[str, Any]:
        return pi0_config.plain(self.config)

    @classmethod
    def load(cls: type[Policy], folder: Path) -> Policy:
        """Read DropGate's own folder, or one as transformers, LeRobot or openpi publish it; strictly.

        Raises:
            ModelError: a file is missing or damaged, or a tensor is absent, extra, misshapen or not finite.
        """
        if not is_own(folder):
            model, placed = cls.published(folder)
            fill(model.module, placed, folder)
            return model
        return cls._own(folder, lambda found: cls._empty(pi0_config.read(found.config, str(folder)), found.io))

    @classmethod
    def published(
        cls: type[Policy], folder: Path, depths: pi0_config.Depths = pi0_config.counted
    ) -> tuple[Policy, dict[str, Tensor]]:
        """A whole network without weights, and a published folder's tensors by the names that they have in it.

        Args:
            folder: as transformers, LeRobot or openpi publish it; tensors of removed blocks may be absent.
            depths: see `pi0_files.open_published`.

        Raises:
            ModelError: a file is missing or damaged, or tensors are of no known layout.
        """
        found = open_published(folder, cls.family, depths)
        model = cls._empty(found.config, found.io)
        placed = model._place(found.weights)
        model.unloaded = {**found.unloaded, **sizes_of_others(found.weights, placed)}
        return model, placed

    @classmethod
    def _empty(cls: type[Policy], config: PI0Config, io: PolicyIo) -> Policy:
        with pi0_config.without_weights():
            return cls(config, io)
