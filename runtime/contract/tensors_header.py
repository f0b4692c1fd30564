# SPDX-License-Identifier: Apache-2.0
"""The header of a safetensors file, checked before the library sees the file: size, names, shapes, and bytes that tile
the file without gap or overlap."""

from __future__ import annotations

from typing import Any

from runtime.contract import loading_limits as limits
from runtime.contract.manifest import parse_json
from runtime.errors import ContractError

# only what numpy holds natively
BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "U16": 2, "I16": 2, "F16": 2, "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8,
    "F64": 8,
}  # fmt: skip


def check_tensors_header(data: bytes, where: str) -> None:
    """ContractError names `where` and what is wrong: header size, JSON, dtype, shape or byte range."""
    try:
        _check(data)
    except ContractError as error:
        raise ContractError(f"{where}: not a readable safetensors file ({error}); export the artifact again") from None


def _check(data: bytes) -> None:
    length = int.from_bytes(data[:8], "little")
    largest = min(limits.TENSORS_HEADER_BYTES, len(data) - 8)
    if not 2 <= length <= largest:
        raise ContractError(f"header: found {length} bytes, expected 2 to {largest} in a file of {len(data)}")
    header = parse_json(data[8 : 8 + length], "header")
    if not isinstance(header, dict) or len(header) > limits.TENSORS_COUNT:
        raise ContractError(f"header: expected at most {limits.TENSORS_COUNT} tensors by name")
    notes = header.pop("__metadata__", {})
    if not isinstance(notes, dict) or not all(isinstance(value, str) for value in notes.values()):
        raise ContractError(f"header: found metadata {str(notes)[:80]}, expected text by name")
    at = 0
    for begin, end in sorted(_range(entry, f"tensor {name!r}") for name, entry in header.items()):
        if begin != at:
            raise ContractError(f"header: found a tensor at byte {begin} where byte {at} is next, expected no gap")
        at = end
    if at != len(data) - 8 - length:
        raise ContractError(f"found {len(data) - 8 - length} bytes of tensors, the header describes {at}")


def _range(entry: Any, where: str) -> tuple[int, int]:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ContractError(f"{where}: found {str(entry)[:80]}, expected dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BYTES:
        raise ContractError(f"{where}.dtype: found {str(dtype)[:20]!r}, expected one of {sorted(BYTES)}")
    if not _naturals(shape) or len(shape) > limits.TENSOR_AXES:
        raise ContractError(f"{where}.shape: found {str(shape)[:80]}, expected at most {limits.TENSOR_AXES} sizes")
    if not _naturals(offsets) or len(offsets) != 2:
        raise ContractError(f"{where}.data_offsets: found {str(offsets)[:80]}, expected begin and end")
    size = BYTES[dtype]
    for axis in shape:
        size *= axis
    begin, end = offsets
    if end - begin != size:
        raise ContractError(f"{where}: found bytes {begin} to {end}, {dtype} {shape} needs {size}")
    return begin, end


def _naturals(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 48 for item in value)
