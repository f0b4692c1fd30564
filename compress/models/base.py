# SPDX-License-Identifier: Apache-2.0
"""What the algorithms know of a model: its residual stacks, its action loss, its chunk, its export view.

GateProbe, the baselines, the planner, Drop-Then-Recovery and the exporter see a policy only through `VlaModel`.
All index rules of a family are data (`BlockGroup`), never code in an algorithm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from compress.data.samples import Sample


class ModelError(ValueError):
    """A checkpoint, configuration or batch that the model cannot accept; the message says what to do."""


@dataclass(frozen=True)
class BlockGroup:
    """One stack of pre-norm residual blocks, h_i = h_{i-1} + attention + MLP.

    The residual stream is read where it enters a norm: `input_norm` of block i sees h_{i-1}, `mid_norm` sees the stream
    between the attention and the MLP, and `input_norm` of block i+1 (or `after`, for the last block) sees h_i.

    Attributes:
        role: `language`, `action` or `vision.<tower>`.
        blocks: dotted path of the `nn.ModuleList` inside the model's module.
        attention, mlp: child names of the two modules that write to the residual stream.
        input_norm, mid_norm: child names of the two norms that read it.
        after: dotted path of the module that reads the stream behind the last block.
        unit: how many neighbouring blocks must leave the list together; a stub may take any block.
        pinned: block indices that must stay in the list.
        compact: whether removed blocks may leave the list (indices are renumbered); otherwise they are stubbed.
        shared_kv: another stack attends to this one's keys and values, so K, V and the input norm of a removed block
            stay (arXiv 2606.27755, appendix B): only `q_proj` and `o_proj` leave its attention.
        partner: the role of the stack whose block of the same index belongs to this one's; the two may leave both lists
            together, which a plan says with the role `ROLE+PARTNER`.
        pair_unit: how many neighbouring pairs must leave together.
    """

    role: str
    blocks: str
    attention: str
    mlp: str
    input_norm: str
    mid_norm: str
    after: str
    unit: int = 1
    pinned: frozenset[int] = frozenset()
    compact: bool = True
    shared_kv: bool = False
    partner: str = ""
    pair_unit: int = 1

    def stack(self, module: nn.Module) -> nn.ModuleList:
        """The block list of this group inside `module`."""
        found = module.get_submodule(self.blocks)
        if not isinstance(found, nn.ModuleList):
            raise ModelError(
                f"{self.role}: `{self.blocks}` is a {type(found).__name__}, expected a ModuleList of blocks"
            )
        return found


@dataclass(frozen=True)
class Batch:
    """A collated batch.

    Attributes:
        inputs: forward arguments by name, first axis B.
        actions: (B, H, A) normalised target chunk.
        pad: bool (B, H), true where the target is past the episode's end and carries no loss.
        sample_ids: B ids, in order.
    """

    inputs: Mapping[str, Tensor]
    actions: Tensor
    pad: Tensor
    sample_ids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.sample_ids)

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        moved = {name: value.to(device) for name, value in self.inputs.items()}
        return Batch(moved, self.actions.to(device), self.pad.to(device), self.sample_ids)


@dataclass(frozen=True)
class ExportStage:
    """One graph to export.

    Attributes:
        name: file stem of the graph.
        module: computes the outputs from the inputs, positionally. A `compress.models.flow.FlowSampler` describes
            itself in parts (prefix, step, number of steps), which the exporter may join by a loop.
        example_inputs: input name -> example tensor, in the order of the module's arguments.
        output_names: names of the outputs in order.
    """

    name: str
    module: nn.Module
    example_inputs: Mapping[str, Tensor]
    output_names: tuple[str, ...]


@dataclass(frozen=True)
class Surgery:
    """What was removed from one stack, in indices of the *original* stack.

    Attributes:
        depth: number of blocks before any removal.
        kept: original indices of the blocks that are still in the list, ascending.
        without_attention, without_mlp: original indices of kept blocks whose writer was replaced by zero.
    """

    depth: int
    kept: tuple[int, ...]
    without_attention: tuple[int, ...] = ()
    without_mlp: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if list(self.kept) != sorted(set(self.kept)) or any(not 0 <= i < self.depth for i in self.kept):
            raise ModelError(f"kept blocks {list(self.kept)} are not ascending indices below {self.depth}")
        for name in ("without_attention", "without_mlp"):
            stray = sorted(set(getattr(self, name)) - set(self.kept))
            if stray:
                raise ModelError(f"{name} names blocks {stray} that were not kept (kept: {list(self.kept)})")

    @classmethod
    def none(cls, depth: int) -> Surgery:
        """The identity: every block kept."""
        return cls(depth, tuple(range(depth)))


class VlaModel(Protocol):
    """A policy that can be probed, pruned, recovered and exported."""

    family: str

    @property
    def module(self) -> nn.Module:
        """The torch module that holds every parameter."""
        ...

    @property
    def head(self) -> str:
        """Dotted path of the submodule that is called once in `loss` and returns what the policy says, (B, H, A')."""
        ...

    @property
    def groups(self) -> tuple[BlockGroup, ...]:
        """The prunable stacks."""
        ...

    @property
    def surgery(self) -> Mapping[str, Surgery]:
        """What has been removed so far, by role; roles that are whole may be absent."""
        ...

    @property
    def unloaded(self) -> Mapping[str, int]:
        """Tensors of the published checkpoint that this network never needed, by published name: their elements."""
        ...

    def record_hollow(self, paths: Sequence[str]) -> None:
        """Write into the configuration what the lossless pass hollowed (`surgery.hollow`), so that save and load agree.

        Args:
            paths: dotted, in the whole network: block numbers before any removal.
        """
        ...

    def record_surgery(self, surgery: Mapping[str, Surgery]) -> None:
        """Write what was removed into the configuration, so that save and load carry it."""
        ...

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Samples -> batch with this policy's own image, prompt, state and action preprocessing."""
        ...

    def loss(self, batch: Batch, noise_seed: int = 0) -> Tensor:
        """The family's own action loss, (B,), differentiable, deterministic for a given `noise_seed`."""
        ...

    def chunk(self, batch: Batch, noise_seed: int = 0) -> Tensor:
        """Actions in physical units, (B, H, A), without gradients."""
        ...

    def stages(self) -> tuple[ExportStage, ...]:
        """The graphs to export, in the order in which they run."""
        ...

    def specs(self) -> dict[str, Any]:
        """The contract's `observation`, `action` and `prompt` specs (types of `runtime.contract`)."""
        ...

    def side_files(self) -> Mapping[str, bytes]:
        """What the robot needs beside the graph, by file name: `tokenizer.json`, `normalization.safetensors`."""
        ...

    def save(self, folder: Path) -> None:
        """Write a loadable checkpoint folder, atomically."""
        ...

    def stock_config(self) -> dict[str, Any] | None:
        """The configuration under which the family's stock class loads this very network; None: there is none."""
        ...

    def save_stock(self, folder: Path) -> None:
        """Write a folder that the stock class loads, atomically; a ModelError where `stock_config` is None."""
        ...

    def identity(self) -> str:
        """sha256 over configuration and weights: two models with the same identity give the same outputs."""
        ...
