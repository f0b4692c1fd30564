# SPDX-License-Identifier: Apache-2.0
"""Tensor files as safetensors: the only importer of the `safetensors` package (its numpy API).

Chosen: the package, small and fuzzed by its authors. Rejected: an own parser (one more header to get wrong), npz (may
carry pickles). No file metadata is written, because its order is not stable and the same tensors must give the same
bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.contract.panics import LibraryPanic, panics_as_errors
from runtime.contract.tensors_header import check_tensors_header
from runtime.errors import INSTALL_ONNX, BackendError, ContractError


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError as error:
        raise BackendError(
            f"tensor files need the package safetensors, which is not importable ({error}); run: {INSTALL_ONNX}"
        ) from error
    return safetensors


def dump_tensors(tensors: Mapping[str, NDArray[Any]]) -> bytes:
    """Bytes of a safetensors file; the same tensors give the same bytes. ContractError if a float is not finite."""
    for name, tensor in tensors.items():
        if np.issubdtype(tensor.dtype, np.floating) and not np.isfinite(tensor).all():
            raise ContractError(f"tensor {name!r}: found NaN or infinity, expected finite numbers")
    contiguous = {name: np.ascontiguousarray(tensor) for name, tensor in sorted(tensors.items())}
    return bytes(_safetensors().numpy.save(contiguous))


def parse_tensors(data: bytes, where: str) -> dict[str, NDArray[Any]]:
    """Read-only arrays of a safetensors file.

    ContractError names `where` if the bytes are not one or hold NaN or infinity.
    """
    library = _safetensors()
    check_tensors_header(data, where)
    try:
        with panics_as_errors():
            tensors: dict[str, NDArray[Any]] = library.numpy.load(data)
    except (library.SafetensorError, LibraryPanic, ValueError, KeyError) as error:
        raise ContractError(f"{where}: not a readable safetensors file ({error}); export the artifact again") from error
    for name, tensor in tensors.items():
        if np.issubdtype(tensor.dtype, np.floating) and not np.isfinite(tensor).all():
            raise ContractError(f"{where}: tensor {name!r} holds NaN or infinity, expected finite numbers")
        tensor.setflags(write=False)
    return tensors
