# SPDX-License-Identifier: Apache-2.0
"""What goes into a policy and what comes out, on one robot: the conventions that no published checkpoint spells out."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compress.data.samples import Sample
from compress.models.base import Batch, ModelError
from runtime.contract.action import ActionSpec
from runtime.contract.codec import decode, encode
from runtime.contract.conventions import NormMethod, TensorDtype
from runtime.contract.graph import ATTENTION_MASK, INPUT_IDS, NORMALIZATION_FILE, PIXELS, STATE, graph_for
from runtime.contract.normalization import Normalizers
from runtime.contract.spec import ObservationSpec, PromptSpec
from runtime.errors import ContractError, ObservationError
from runtime.inference.tokenizer import PromptTokenizer

FILE = "policy_io.json"


@dataclass(frozen=True, eq=False)
class PolicyIo:
    """One robot's side of a policy.

    Attributes:
        observation, action, prompt: specs of the contract; camera keys are in the model's order.
        normalizers: of the state (S,) and the command (A,).
        tokenizer_json: bytes of `tokenizer.json`.
    """

    observation: ObservationSpec
    action: ActionSpec
    prompt: PromptSpec
    normalizers: Normalizers
    tokenizer_json: bytes

    def __post_init__(self) -> None:
        sizes = (self.normalizers.state.dim, self.normalizers.action.dim)
        wanted = (self.observation.state.dim, self.action.dim)
        if sizes != wanted:
            raise ModelError(f"normalisation of {sizes} (state, action) dimensions, the specs have {wanted}")

    @property
    def cameras(self) -> tuple[str, ...]:
        """Camera keys in the model's order."""
        return self.observation.image_keys

    def specs(self) -> dict[str, Any]:
        """As `VlaModel.specs` gives them."""
        return {"observation": self.observation, "action": self.action, "prompt": self.prompt}

    def with_horizon(self, horizon: int) -> PolicyIo:
        """The same for chunks of another length."""
        return replace(self, action=replace(self.action, horizon=horizon))

    def check(self, samples: Sequence[Sample]) -> None:
        """Every sample has the cameras, image size, state and chunk that the specs say.

        Raises:
            ModelError: names the sample and what it has instead.
        """
        height, width = self.observation.images[0].height, self.observation.images[0].width
        chunk = (self.action.horizon, self.action.dim)
        for sample in samples:
            missing = [name for name in self.cameras if name not in sample.images]
            if missing:
                raise ModelError(
                    f"{sample.sample_id}: camera {missing} is missing; the sample has {sorted(sample.images)}. "
                    "Map them in the recipe: data.cameras"
                )
            for name in self.cameras:
                if sample.images[name].shape != (height, width, 3):
                    found = sample.images[name].shape
                    raise ModelError(f"{sample.sample_id}: {name} is {found}, expected {height} x {width} px RGB")
            if sample.state.shape != (self.observation.state.dim,) or sample.actions.shape != chunk:
                raise ModelError(
                    f"{sample.sample_id}: state {sample.state.shape} and actions {sample.actions.shape}, expected "
                    f"({self.observation.state.dim},) and {chunk}"
                )

    def pixels(self, samples: Sequence[Sample]) -> NDArray[np.float32]:
        """Images as the graph takes them, (B, C, 3, H, W): `(x / 255 - mean) / std`, cameras in order."""
        mean = np.array([image.mean for image in self.observation.images], np.float32)[:, :, None, None]
        std = np.array([image.std for image in self.observation.images], np.float32)[:, :, None, None]
        stacked = np.stack([np.stack([s.images[c].transpose(2, 0, 1) for c in self.cameras]) for s in samples])
        return np.ascontiguousarray((stacked.astype(np.float32) / np.float32(255.0) - mean) / std)

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Samples -> the graph's inputs (`runtime.contract.graph`), B at a time, and normalised actions (B, H, A).

        Raises:
            ModelError: a sample does not fit the specs, or its prompt is too long.
        """
        self.check(samples)
        states = self.normalizers.state.apply(np.stack([s.state for s in samples]))
        actions = self.normalizers.action.apply(np.stack([s.actions for s in samples]))
        try:
            pairs = [self._tokenizer.encode(s.instruction, x) for s, x in zip(samples, states, strict=True)]
        except ObservationError as error:
            raise ModelError(str(error)) from error
        inputs = {
            PIXELS: torch.from_numpy(self.pixels(samples)),
            INPUT_IDS: torch.from_numpy(np.concatenate([ids for ids, _ in pairs])),
            ATTENTION_MASK: torch.from_numpy(np.concatenate([mask for _, mask in pairs])),
            STATE: torch.from_numpy(states),
        }
        pad = torch.from_numpy(np.stack([s.pad for s in samples]).astype(bool))
        return Batch(inputs, torch.from_numpy(actions), pad, tuple(s.sample_id for s in samples))

    def example_inputs(self) -> dict[str, Tensor]:
        """One observation of zeros, as `ExportStage.example_inputs`, in the graph's order."""
        graph = graph_for(self.observation, self.action, self.prompt)
        kinds = {TensorDtype.INT64: torch.int64, TensorDtype.FLOAT32: torch.float32}
        make = {TensorDtype.INT64: torch.ones, TensorDtype.FLOAT32: torch.zeros}
        return {t.name: make[t.dtype](t.shape, dtype=kinds[t.dtype]) for t in graph.inputs}

    def physical(self, actions: Tensor) -> Tensor:
        """Normalised (B, H, A) -> commands in physical units, on the CPU."""
        return torch.from_numpy(self.normalizers.action.invert(actions.detach().float().cpu().numpy()))

    @functools.cached_property
    def _tokenizer(self) -> PromptTokenizer:
        return PromptTokenizer(self.tokenizer_json, self.prompt)

    def side_files(self) -> dict[str, bytes]:
        """As `VlaModel.side_files` gives them."""
        return {self.prompt.tokenizer_file: self.tokenizer_json, NORMALIZATION_FILE: self.normalizers.to_bytes()}

    def files(self) -> dict[str, bytes]:
        """`policy_io.json`, `normalization.safetensors` and `tokenizer.json`."""
        methods = {"state": self.normalizers.state.method.value, "action": self.normalizers.action.method.value}
        data = {name: encode(spec) for name, spec in self.specs().items()} | {"normalization": methods}
        text = json.dumps(data, indent=2, sort_keys=True) + "\n"
        return {FILE: text.encode(), **self.side_files()}

    @classmethod
    def load(cls, folder: Path) -> PolicyIo:
        """Read what `files` holds.

        Raises:
            ModelError: a file is missing, damaged, or they disagree.
        """
        path = folder / FILE
        try:
            data = json.loads(path.read_text())
            methods, prompt = data["normalization"], decode(PromptSpec, data["prompt"], f"{path}: prompt")
            return cls(
                decode(ObservationSpec, data["observation"], f"{path}: observation"),
                decode(ActionSpec, data["action"], f"{path}: action"),
                prompt,
                Normalizers.from_bytes(
                    (folder / NORMALIZATION_FILE).read_bytes(), NormMethod(methods["state"]),
                    NormMethod(methods["action"]), str(folder / NORMALIZATION_FILE),
                ),
                (folder / prompt.tokenizer_file).read_bytes(),
            )  # fmt: skip
        except (OSError, ValueError, KeyError, TypeError, ContractError) as error:
            raise ModelError(f"{path} cannot be read ({error}): say what the policy sees and commands") from error
