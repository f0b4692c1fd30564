# SPDX-License-Identifier: Apache-2.0
"""The reference VLA as a `VlaModel`: a small policy of OpenVLA-OFT's kind (its network is `reference_module`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compress.data.samples import Sample
from compress.models import reference_files, reference_specs
from compress.models.base import Batch, BlockGroup, ExportStage, ModelError, Surgery
from compress.models.reference_config import ReferenceConfig
from compress.models.reference_module import INPUTS, ReferenceModule
from compress.models.surgery import operate
from runtime.contract.normalization import Normalizers
from runtime.inference.tokenizer import PromptTokenizer


class ReferenceVla:
    """The `VlaModel` of the reference family."""

    family = "reference"
    head = "head"

    def __init__(self, config: ReferenceConfig, normalizers: Normalizers, tokenizer: bytes, seed: int = 0) -> None:
        """A model with random weights drawn from `seed`.

        Args:
            config: the architecture, already at the depth to build.
            normalizers: of the state (S,) and the action command (A,).
            tokenizer: the bytes of a `tokenizer.json`.
            seed: of the initial weights.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._module = ReferenceModule(config)
        self.normalizers = normalizers
        self.tokenizer_json = tokenizer
        self._tokenizer = PromptTokenizer(tokenizer, reference_specs.prompt_spec(config))
        self._restub()

    @property
    def config(self) -> ReferenceConfig:
        """The architecture as it is now."""
        return self._module.config

    @property
    def module(self) -> nn.Module:
        """All parameters."""
        return self._module

    @property
    def groups(self) -> tuple[BlockGroup, ...]:
        """`language` and `vision.siglip`."""
        llama = BlockGroup(
            role="language",
            blocks="language.layers",
            attention="self_attn",
            mlp="mlp",
            input_norm="input_layernorm",
            mid_norm="post_attention_layernorm",
            after="language.norm",
        )
        siglip = BlockGroup(
            role="vision.siglip",
            blocks="vision.encoder.layers",
            attention="self_attn",
            mlp="mlp",
            input_norm="layer_norm1",
            mid_norm="layer_norm2",
            after="vision.post_layernorm",
        )
        return (llama, siglip)

    @property
    def surgery(self) -> Mapping[str, Surgery]:
        """What has been removed, by role."""
        return {
            group.role: self.config.surgery.get(group.role, Surgery.none(len(group.stack(self._module))))
            for group in self.groups
        }

    def record_surgery(self, surgery: Mapping[str, Surgery]) -> None:
        """Put the new depths and the record of what was removed into the configuration."""
        self._module.config = self.config.after_surgery(surgery)
        self._module.language.config.num_hidden_layers = self.config.language.depth
        self._module.vision.config.num_hidden_layers = self.config.vision.depth

    unloaded: Mapping[str, int] = {}

    def record_hollow(self, paths: Sequence[str]) -> None:
        """Every weight of this network is used.

        Raises:
            ModelError: something is to be remembered.
        """
        if paths:
            raise ModelError(f"reference: {list(paths)} cannot be hollowed; this network has no weights to spare")

    def _restub(self) -> None:
        """After building at the compact depth: blocks whose writers were removed lose them again."""
        for group in self.groups:
            record = self.config.surgery.get(group.role)
            if record is not None:
                operate(self._module, group, record, record)

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Samples -> batch.

        Raises:
            ModelError: a sample lacks a camera or has another image size, state or action size.
        """
        for sample in samples:
            self._check(sample)
        images = np.stack([np.stack([s.images[c] for c in self.config.cameras]) for s in samples])
        states = np.stack([s.state for s in samples])
        actions = np.stack([s.actions for s in samples])
        ids, mask = zip(*(self._tokenizer.encode(s.instruction) for s in samples), strict=True)
        return self.assemble(
            images, states, actions, np.stack([s.pad for s in samples]), np.concatenate(ids), np.concatenate(mask),
            tuple(s.sample_id for s in samples),
        )  # fmt: skip

    def assemble(
        self, images: np.ndarray, states: np.ndarray, actions: np.ndarray, pad: np.ndarray, ids: np.ndarray,
        mask: np.ndarray, sample_ids: tuple[str, ...],
    ) -> Batch:  # fmt: skip
        """Arrays in physical units -> batch; the fast path that training uses.

        Args:
            images: uint8 (B, C, H, W, 3).
            states: (B, S).
            actions: (B, H, A).
            pad: bool (B, H).
            ids, mask: int64 (B, T).
            sample_ids: B ids.
        """
        pixels = torch.from_numpy(images).permute(0, 1, 4, 2, 3).float().div(255.0).sub(0.5).div(0.5)
        state = torch.from_numpy(self.normalizers.state.apply(states))
        target = torch.from_numpy(self.normalizers.action.apply(actions))
        inputs = {
            "pixels": pixels.contiguous(),
            "input_ids": torch.from_numpy(np.asarray(ids, np.int64)),
            "attention_mask": torch.from_numpy(np.asarray(mask, np.int64)),
            "state": state,
        }
        return Batch(inputs, target, torch.from_numpy(np.asarray(pad, bool)), sample_ids)

    def tokenize(self, instruction: str) -> tuple[np.ndarray, np.ndarray]:
        """ids and mask, int64 (1, T) each."""
        return self._tokenizer.encode(instruction)

    def _check(self, sample: Sample) -> None:
        c = self.config
        missing = [name for name in c.cameras if name not in sample.images]
        if missing:
            raise ModelError(f"{sample.sample_id}: camera {missing} is missing; the sample has {sorted(sample.images)}")
        for name in c.cameras:
            if sample.images[name].shape != (c.image_size, c.image_size, 3):
                raise ModelError(
                    f"{sample.sample_id}: {name} is {sample.images[name].shape}, expected {c.image_size} px RGB"
                )
        if sample.state.shape != (c.state_dim,) or sample.actions.shape != (c.horizon, c.action_dim):
            raise ModelError(
                f"{sample.sample_id}: state {sample.state.shape} and actions {sample.actions.shape}, expected "
                f"({c.state_dim},) and ({c.horizon}, {c.action_dim})"
            )

    def predict(self, batch: Batch) -> Tensor:
        """Normalised chunk (B, H, A), differentiable."""
        return self._module(*(batch.inputs[name] for name in INPUTS))

    def loss(self, batch: Batch, noise_seed: int = 0) -> Tensor:
        """Mean absolute error per sample over real steps, (B,); deterministic, `noise_seed` is not used."""
        del noise_seed
        error = (self.predict(batch) - batch.actions).abs().mean(-1)  # (B, H)
        real = (~batch.pad).to(error.dtype)
        return (error * real).sum(1) / real.sum(1).clamp(min=1.0)

    @torch.no_grad()
    def chunk(self, batch: Batch, noise_seed: int = 0) -> Tensor:
        """Actions in physical units, (B, H, A)."""
        del noise_seed
        actions = self.normalizers.action.invert(self.predict(batch).float().cpu().numpy())
        return torch.from_numpy(np.ascontiguousarray(actions))

    def stages(self) -> tuple[ExportStage, ...]:
        """One graph: parallel decoding needs no loop."""
        c = self.config
        example = {
            "pixels": torch.zeros(1, len(c.cameras), 3, c.image_size, c.image_size),
            "input_ids": torch.ones(1, c.max_tokens, dtype=torch.int64),
            "attention_mask": torch.ones(1, c.max_tokens, dtype=torch.int64),
            "state": torch.zeros(1, c.state_dim),
        }
        return (ExportStage("policy", self._module, example, ("actions",)),)

    def specs(self) -> dict[str, Any]:
        """Observation, action and prompt specs of the contract."""
        return reference_specs.specs(self.config)

    def side_files(self) -> Mapping[str, bytes]:
        """`tokenizer.json` and `normalization.safetensors`."""
        return {
            reference_files.TOKENIZER: self.tokenizer_json,
            reference_files.NORMALIZATION: self.normalizers.to_bytes(),
        }

    def save(self, folder: Path, half: bool = False) -> None:
        """Write `config.json`, `model.safetensors`, `normalization.safetensors`, `tokenizer.json`, atomically.

        Args:
            folder: replaced as a whole once everything is written.
            half: store float16 weights (for shipping).
        """
        reference_files.save(self, folder, half)

    def stock_config(self) -> dict[str, Any] | None:
        """None: this network is defined here."""
        return None

    def save_stock(self, folder: Path) -> None:
        """Refused: there is no stock class. Raises ModelError."""
        raise ModelError(f"{folder}: the reference policy has no stock class; use save()")

    @classmethod
    def load(cls, folder: Path) -> ReferenceVla:
        """Read a checkpoint folder; strict: every tensor must fit.

        Raises:
            ModelError: a file is missing or truncated, or a tensor is absent, extra or of another shape.
        """
        return reference_files.load(cls, folder)

    def identity(self) -> str:
        """sha256 over configuration, normalisation and float32 weights."""
        return reference_files.identity(self)
