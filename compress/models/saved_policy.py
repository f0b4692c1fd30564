# SPDX-License-Identifier: Apache-2.0
"""What the adapters of published families share: a robot's side, the record of what left, DropGate's own folder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from torch import nn

from compress.data.samples import Sample
from compress.models.base import Batch, BlockGroup, ModelError, Surgery
from compress.models.checkpoint import Checkpoint, fill, read_weights, require_saved, restore
from compress.models.policy_io import PolicyIo

Policy = TypeVar("Policy", bound="SavedPolicy")


class SavedPolicy(ABC):
    """The part of a `VlaModel` that does not depend on its network.

    Attributes:
        family: name of the adapter.
        io: what goes in and comes out.
        hollow: dotted paths, in the whole network, of submodules whose weights no action depended on.
        unloaded: published name -> elements that were left out at loading because no action depends on them.
    """

    family: ClassVar[str]

    def __init__(self, io: PolicyIo) -> None:
        self.io = io
        self.hollow: tuple[str, ...] = ()
        self.unloaded: Mapping[str, int] = {}
        self._surgery: dict[str, Surgery] = {}
        self._side: Mapping[str, bytes] = {}

    @property
    @abstractmethod
    def module(self) -> nn.Module:
        """All parameters."""

    @property
    @abstractmethod
    def groups(self) -> tuple[BlockGroup, ...]:
        """The stacks whose blocks can be removed."""

    @abstractmethod
    def _architecture(self) -> Mapping[str, Any]:
        """The network before any removal, JSON-ready."""

    @property
    def surgery(self) -> Mapping[str, Surgery]:
        """What has been removed, by role."""
        return dict(self._surgery)

    def record_surgery(self, surgery: Mapping[str, Surgery]) -> None:
        """Keep the record of what was removed; the network already is."""
        self._surgery |= surgery

    def record_hollow(self, paths: Sequence[str]) -> None:
        """Keep the record of submodules without weights; paths count blocks before any removal."""
        self.hollow += tuple(paths)

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Samples -> batch. Raises ModelError where they do not fit the specs."""
        return self.io.collate(samples)

    def specs(self) -> dict[str, Any]:
        """Observation, action and prompt specs of the contract."""
        return self.io.specs()

    def side_files(self) -> Mapping[str, bytes]:
        """`tokenizer.json` and `normalization.safetensors`."""
        return self.io.side_files()

    def save(self, folder: Path) -> None:
        """Write DropGate's own folder, atomically; tensors keep their dtypes. Raises ModelError: not finite."""
        self._checkpoint().save(folder, self.module)

    def identity(self) -> str:
        """sha256 over configuration, conventions, side files and weights."""
        return self._checkpoint().identity(self.module)

    def stock_config(self) -> dict[str, Any] | None:
        """None, unless a family says otherwise: no stock class is here that could read it."""
        return None

    def save_stock(self, folder: Path) -> None:
        """Refused where there is no stock class. Raises ModelError."""
        raise ModelError(f"{folder}: no stock class can be promised for {self.family}; use save()")

    def _checkpoint(self) -> Checkpoint:
        return Checkpoint(self.family, self._architecture(), self._surgery, self.io, self._side, self.hollow)

    @classmethod
    def _own(cls: type[Policy], folder: Path, whole: Callable[[Checkpoint], Policy]) -> Policy:
        """Read DropGate's own folder, strictly.

        Args:
            folder: as `save` wrote it.
            whole: header -> the policy before any removal, weights of no matter.

        Raises:
            ModelError: a file is missing or damaged, a tensor is absent, unknown or of another shape, or these are not
                the weights that were saved.
        """
        found = Checkpoint.load(folder, cls.family)
        model = whole(found)
        model._cut(found.surgery, found.hollow, found.side)
        weights = read_weights(folder)
        fill(model.module, weights, folder)
        require_saved(weights, found.weights, folder)
        return model

    def _cut(self, surgery: Mapping[str, Surgery], hollow: Sequence[str], side: Mapping[str, bytes]) -> None:
        """Bring a policy that was built whole to the form of a checkpoint whose weights come next."""
        restore(self.module, self.groups, surgery, hollow)
        self._side = side
        self.record_surgery(surgery)
        self.record_hollow(hollow)
