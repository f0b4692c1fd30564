# SPDX-License-Identifier: Apache-2.0
"""OpenVLA-OFT (arXiv 2502.19645) as a `VlaModel`; its network is `openvla_oft_module`.

With FiLM only the language stack is offered for removal: the towers' scale and shift act on the stream between the
writers of a block, so that a silenced block would not be a removed block.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compress.models.base import Batch, BlockGroup, ExportStage, ModelError, Surgery
from compress.models.checkpoint import fill, is_own
from compress.models.flow import TIME_BETA, TIME_OFFSET, TIME_SCALE, FlowSampler, noise_and_time, start_noise
from compress.models.openvla_oft_config import SIGLIP_MEAN, SIGLIP_STD, DiffusionShape, OpenVlaOftConfig
from compress.models.openvla_oft_files import read_published
from compress.models.openvla_oft_heads import add_noise
from compress.models.openvla_oft_module import OpenVlaOftModule, Scene
from compress.models.policy_io import PolicyIo
from compress.models.saved_policy import SavedPolicy
from runtime.contract.conventions import NormMethod
from runtime.contract.graph import INPUT_NAMES
from runtime.contract.spec import STATE_FIELD
from runtime.inference.tokenizer import PromptTokenizer

BOUNDED = (NormMethod.Q01_Q99, NormMethod.MIN_MAX)  # upstream cuts what these give to -1..1
LANGUAGE = BlockGroup(
    role="language",
    blocks="language.layers",
    attention="self_attn",
    mlp="mlp",
    input_norm="input_layernorm",
    mid_norm="post_attention_layernorm",
    after="language.norm",
)
DINOV2 = BlockGroup(
    role="vision.dinov2",
    blocks="dinov2.blocks",
    attention="attention",
    mlp="mlp",
    input_norm="norm1",
    mid_norm="norm2",
    after="dinov2.tap",
)
SIGLIP = BlockGroup(
    role="vision.siglip",
    blocks="siglip.blocks",
    attention="self_attn",
    mlp="mlp",
    input_norm="layer_norm1",
    mid_norm="layer_norm2",
    after="siglip.tap",
)


class OpenVlaOft(SavedPolicy):
    """The `VlaModel` of the OpenVLA-OFT family, with the L1 or the diffusion head.

    Upstream's class is code that lies in the checkpoint folder and has a fixed depth: there is no stock form.
    """

    family = "openvla_oft"
    head = "head"

    def __init__(
        self, config: OpenVlaOftConfig, io: PolicyIo, *, seed: int = 0, module: OpenVlaOftModule | None = None
    ) -> None:
        """A whole policy around `module`, or with random weights drawn from `seed`.

        Raises:
            ModelError: `io` does not fit the architecture.
        """
        _require_fit(config, io)
        super().__init__(io)
        if module is None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                module = OpenVlaOftModule(config)
        self._module, self.config = module.eval(), config
        self.unloaded = dict(config.dead_weights)
        self._sync_depth()

    @property
    def module(self) -> nn.Module:
        """All parameters."""
        return self._module

    @property
    def groups(self) -> tuple[BlockGroup, ...]:
        """`language`; without FiLM also `vision.dinov2` and `vision.siglip`."""
        return groups_of(self.config)

    @property
    def surgery(self) -> Mapping[str, Surgery]:
        """What has been removed, by role."""
        whole = {group.role: Surgery.none(len(group.stack(self._module))) for group in self.groups}
        return {**whole, **self._surgery}

    @property
    def dead_weights(self) -> Mapping[str, int]:
        """The same: what is dead is never loaded."""
        return self.unloaded

    def record_surgery(self, surgery: Mapping[str, Surgery]) -> None:
        """Keep the record of what was removed; the network already is."""
        super().record_surgery(surgery)
        self._sync_depth()

    def _sync_depth(self) -> None:
        self._module.language.config.num_hidden_layers = len(self._module.language.layers)

    def predict(self, batch: Batch) -> Tensor:
        """Normalised chunk (B, H, A), differentiable."""
        return self._module(*(batch.inputs[name] for name in INPUT_NAMES))

    def loss(self, batch: Batch, noise_seed: int = 0) -> Tensor:
        """Mean error per sample over real steps, (B,): absolute, or squared of the noise with the diffusion head.

        Targets that were normalised by bounds are cut to -1..1, as upstream's training pipeline cuts them.
        """
        target = self._target(batch)
        if self.config.diffusion is None:
            error = (self.predict(batch) - target).abs()
        else:
            error = self._noise_error(batch, target, noise_seed, self.config.diffusion)
        real = (~batch.pad).to(error.dtype)
        return (error.mean(-1) * real).sum(1) / real.sum(1).clamp(min=1.0)

    def _noise_error(self, batch: Batch, target: Tensor, seed: int, shape: DiffusionShape) -> Tensor:
        noise, times = noise_and_time(batch.sample_ids, tuple(target.shape[1:]), seed, target.device, target.dtype)
        power = TIME_BETA[0]  # a draw of Beta(a, 1), raised to a, is uniform
        levels = (((times - TIME_OFFSET) / TIME_SCALE).clamp(0.0, 1.0) ** power * shape.levels).long()
        levels = levels.clamp(max=shape.levels - 1)
        noisy = add_noise(target, noise, levels, shape)
        return (self._module.predict_noise(self._scene(batch), noisy, levels) - noise).square()

    def _scene(self, batch: Batch) -> Scene:
        return self._module.observe(*(batch.inputs[name] for name in INPUT_NAMES))

    def _target(self, batch: Batch) -> Tensor:
        normalizer = self.io.normalizers.action
        if normalizer.method not in BOUNDED:
            return batch.actions
        cut = torch.from_numpy(normalizer.mask.copy()).to(batch.actions.device)
        return torch.where(cut, batch.actions.clamp(-1.0, 1.0), batch.actions)

    @torch.no_grad()
    def chunk(self, batch: Batch, noise_seed: int = 0) -> Tensor:
        """Actions in physical units, (B, H, A); the L1 head has no noise."""
        if self.config.diffusion is None:
            return self.io.physical(self.predict(batch))
        start = start_noise((self.config.horizon, self.config.action_dim), noise_seed).to(batch.actions.device)
        return self.io.physical(self._module.denoise(self._scene(batch), start))

    def stages(self) -> tuple[ExportStage, ...]:
        """One graph: parallel decoding in one pass, or with the diffusion head a loop over the sampler's steps."""
        module: nn.Module = self._module
        if self.config.diffusion is not None:
            module = FlowSampler(
                self._module, self._module.start, self._module.tables(), horizon=self.config.horizon,
                action_dim=self.config.action_dim, euler=False,
            ).train(module.training)  # fmt: skip
        return (ExportStage("policy", module, self.io.example_inputs(), ("actions",)),)

    def _architecture(self) -> dict[str, Any]:
        return self.config.to_dict()

    @classmethod
    def load(
        cls, folder: Path, *, statistics_key: str | None = None, base: Path | None = None,
        diffusion: DiffusionShape | None = None,
    ) -> OpenVlaOft:  # fmt: skip
        """Read DropGate's own folder or a published one, strictly; no code in the folder is run.

        Args:
            folder: the checkpoint.
            statistics_key: which data set's statistics of a published folder apply; not needed if there is one.
            base: where the base weights lie if a published folder holds a LoRA adapter alone.
            diffusion: noise levels and sampler steps of a published diffusion head, which its files do not say.

        Raises:
            ModelError: a file is missing or damaged, or something does not fit; it is named.
        """
        if is_own(folder):
            made = cls._own(folder, lambda x: cls._empty(OpenVlaOftConfig.from_dict(x.config, str(folder)), x.io))
        else:
            found = read_published(folder, statistics_key, base, diffusion or DiffusionShape())
            made = cls._empty(found.config, found.io)
            made._cut(found.surgery, (), found.side)
            fill(made.module, found.weights, folder)
        made._module.settle()
        return made

    @classmethod
    def _empty(cls, config: OpenVlaOftConfig, io: PolicyIo) -> OpenVlaOft:
        """A whole policy without memory for its weights."""
        with torch.device("meta"):
            module = OpenVlaOftModule(config)
        return cls(config, io, module=module)


def groups_of(config: OpenVlaOftConfig) -> tuple[BlockGroup, ...]:
    """The stacks whose blocks can be removed."""
    return (LANGUAGE,) if config.film else (LANGUAGE, DINOV2, SIGLIP)


def _require_fit(config: OpenVlaOftConfig, io: PolicyIo) -> None:
    """ModelError where the robot's conventions are not those that the network was built for."""
    sizes = (io.observation.state.dim, io.action.horizon, io.action.dim)
    wanted = (config.state_dim, config.horizon, config.action_dim)
    if sizes != wanted:
        raise ModelError(f"specs of (state, horizon, action) {sizes}, the network has {wanted}")
    for image in io.observation.images:
        found = (image.height, image.width, image.mean, image.std)
        expected = (config.image_size, config.image_size, SIGLIP_MEAN, SIGLIP_STD)
        if found != expected:
            raise ModelError(f"camera {image.key}: (height, width, mean, std) is {found}, expected {expected}")
    if config.clip_state and io.normalizers.state.method not in BOUNDED:
        raise ModelError(
            f"the network cuts its state to -1..1, but the state is normalised by {io.normalizers.state.method.value}: "
            "normalise by bounds, or build the network with clip_state = False"
        )
    if STATE_FIELD.search(io.prompt.template):
        raise ModelError(f"the prompt {io.prompt.template!r} carries the state; this network has a token for it")
    ids, mask = PromptTokenizer(io.tokenizer_json, io.prompt).encode("go")
    first, last = int(ids[0, 0]), int(ids[0, int(mask.sum()) - 1])
    if first != config.bos_id or last == config.suffix_id:
        raise ModelError(
            f"the prompt {io.prompt.template!r} starts with token {first} and ends with {last}; expected BOS "
            f"{config.bos_id} first and no {config.suffix_id} last, which the network itself puts behind the prompt"
        )
