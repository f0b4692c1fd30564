# SPDX-License-Identifier: Apache-2.0
"""What every engine offers: load, warm_up, infer, close; and the checks that no engine may skip."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from runtime.contract.graph import GraphSpec, TensorSpec
from runtime.errors import BackendError, PolicyOutputError

Tensor = NDArray[Any]


class Backend(Protocol):
    """One engine holding one graph. Not thread-safe; one request at a time. All methods raise BackendError."""

    def load(self, model: Path, graph: GraphSpec) -> None:
        """Open `model` and check that its inputs and outputs are those of `graph`."""

    def warm_up(self) -> None:
        """Run once on zeros of the right shapes so that the first real request is not the slow one."""

    def infer(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the graph; tensors by name, dtypes and shapes of the `GraphSpec`.

        Answers are checked for shape, then finite.
        """

    def close(self) -> None:
        """Free the engine; more calls are harmless."""


def check_tensors(tensors: Mapping[str, Tensor], specs: tuple[TensorSpec, ...], where: str) -> None:
    """BackendError unless `tensors` are exactly the named ones, each with the dtype and shape of its spec."""
    names = {spec.name for spec in specs}
    if set(tensors) != names:
        raise BackendError(f"{where}: found tensors {sorted(tensors)}, expected {sorted(names)}")
    for spec in specs:
        tensor = tensors[spec.name]
        if tensor.dtype.name != spec.dtype.value or tensor.shape != spec.shape:
            found = f"{tensor.dtype.name} {tensor.shape}"
            raise BackendError(f"{where}[{spec.name}]: found {found}, expected {spec.dtype.value} {spec.shape}")


def check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    """PolicyOutputError names the first tensor and index that is NaN or infinite."""
    for name, tensor in tensors.items():
        bad = np.argwhere(~np.isfinite(tensor))
        if bad.size:
            value = tensor[tuple(bad[0])]
            raise PolicyOutputError(
                f"{where}[{name}]: found {value} at {bad[0].tolist()}, expected finite numbers; the chunk is dropped"
            )


def zeros(specs: tuple[TensorSpec, ...]) -> dict[str, Tensor]:
    """Zero tensors of the given specs, for warm-up."""
    return {spec.name: np.zeros(spec.shape, dtype=np.dtype(spec.dtype.value)) for spec in specs}
