# SPDX-License-Identifier: Apache-2.0
"""Weights and constants of an ONNX file: does the declared shape fit the bytes, and where do the bytes lie?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from runtime.contract import loading_limits as limits
from runtime.contract import onnx_fields as table
from runtime.contract.protobuf import Budget, count_packed, fields, signed, text, varint
from runtime.errors import ContractError

_EXTERNAL_KEYS = ("location", "offset", "length")
_FIXED = {"float_data": 4, "double_data": 8}
_TYPED = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data")


@dataclass(frozen=True)
class ExternalData:
    """Bytes `offset` to `offset + length` of the file `location`, as written in the graph, unchecked, hold `tensor`."""

    tensor: str
    location: str
    offset: int
    length: int


@dataclass(frozen=True)
class TensorHead:
    """Name, shape and element type of a tensor; `scalar` is its value where it is one int64 inside the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    scalar: int | None


class Tensors:
    """Reads the tensors of one file and keeps count of them."""

    def __init__(self, data: bytes, budget: Budget) -> None:
        self._data, self._budget = data, budget
        self.external: list[ExternalData] = []
        self.count = self.inline_bytes = 0

    def read(self, begin: int, end: int, *, weight: bool) -> TensorHead:
        """The tensor in `data[begin:end]`; only a `weight` (an initializer) may lie outside the file. ContractError."""
        self.count += 1
        if self.count > limits.GRAPH_TENSORS:
            raise ContractError(f"found more than {limits.GRAPH_TENSORS} weights and constants")
        data, name, kind, location = self._data, "", 0, 0
        dims: list[int] = []
        outside: list[tuple[int, int]] = []
        raw: tuple[int, int] | None = None
        typed: dict[str, list[tuple[int, int]]] = {}
        for field, a, b in fields(data, begin, end, table.TENSOR, self._budget):
            if field == "dims":
                dims += [a] if b == 0 else _unpacked(data, a, b)
            elif field == "data_type":
                kind = a
            elif field == "name":
                name = text(data, a, b, "TensorProto.name", limits.GRAPH_TEXT_BYTES)
            elif field == "raw_data":
                raw = (a, b)
            elif field == "external_data":
                outside.append((a, b))
            elif field == "data_location":
                location = a
            elif field in _TYPED:
                typed.setdefault(field, []).append((a, b))
        where = f"tensor {name!r}"
        dtype, size = _expected_bytes(dims, kind, where)
        shape = tuple(dims)
        if location or outside:
            if location != 1 or not outside or raw or typed or not weight:
                raise ContractError(f"{where}: found external data beside other data, or in a constant; expected one")
            self._outside(name, outside, size, where)
            return TensorHead(name, dtype, shape, None)
        _check_inside(data, raw, typed, kind, shape, size, where)
        self.inline_bytes += size
        return TensorHead(name, dtype, shape, _scalar(data, kind, shape, raw, typed))

    def _outside(self, name: str, spans: list[tuple[int, int]], size: int, where: str) -> None:
        found = entries(self._data, spans, f"{where}.external_data", self._budget, len(_EXTERNAL_KEYS))
        if set(found) != set(_EXTERNAL_KEYS):
            raise ContractError(f"{where}.external_data: found keys {sorted(found)}, expected {list(_EXTERNAL_KEYS)}")
        numbers = [found["offset"], found["length"]]
        if not all(number.isascii() and number.isdigit() and len(number) < 20 for number in numbers):
            raise ContractError(f"{where}.external_data: found offset and length {numbers}, expected decimal numbers")
        offset, length = map(int, numbers)
        if length != size:
            raise ContractError(f"{where}: found {length} bytes of external data, its shape and type need {size}")
        self.external.append(ExternalData(name, found["location"], offset, length))


def entries(data: bytes, spans: Sequence[tuple[int, int]], where: str, budget: Budget, limit: int) -> dict[str, str]:
    """Keys and values of StringStringEntryProto messages; ContractError for a repeated or missing key."""
    if len(spans) > limit:
        raise ContractError(f"{where}: found {len(spans)} entries, expected at most {limit}")
    found: dict[str, str] = {}
    for begin, end in spans:
        pair = {"value": ""}
        for name, a, b in fields(data, begin, end, table.ENTRY, budget):
            pair[name] = text(data, a, b, where, limits.GRAPH_TEXT_BYTES)
        if "key" not in pair or pair["key"] in found:
            raise ContractError(
                f"{where}: found {pair.get('key')!r} more than once, or no key; expected every key once"
            )
        found[pair["key"]] = pair["value"]
    return found


def _expected_bytes(dims: list[int], kind: int, where: str) -> tuple[str, int]:
    if kind not in table.ELEMENTS:
        known = sorted(name for name, _ in table.ELEMENTS.values())
        raise ContractError(f"{where}: found element type {kind}, expected one of {known}")
    dtype, bits = table.ELEMENTS[kind]
    if len(dims) > limits.TENSOR_AXES:
        raise ContractError(f"{where}: found {len(dims)} axes, expected at most {limits.TENSOR_AXES}")
    elements, largest = 1, limits.TENSOR_BYTES * 8 // bits
    for size in map(signed, dims):
        # each axis alone, too: a zero beside it must not hide a size that overflows
        if not 0 <= size <= largest:
            raise ContractError(f"{where}: found an axis of {size}, expected 0 to {largest}")
        elements *= size
        if elements > largest:
            raise ContractError(f"{where}: shape {dims} exceeds {limits.TENSOR_BYTES} bytes")
    return dtype, (elements * bits + 7) // 8


def _check_inside(
    data: bytes,
    raw: tuple[int, int] | None,
    typed: dict[str, list[tuple[int, int]]],
    kind: int,
    shape: tuple[int, ...],
    size: int,
    where: str,
) -> None:
    if raw is not None:
        if typed or raw[1] - raw[0] != size:
            beside = f" beside {sorted(typed)}" if typed else ""
            found = f"{raw[1] - raw[0]} bytes{beside}"
            raise ContractError(f"{where}: found {found}, shape {shape} of {table.ELEMENTS[kind][0]} needs {size}")
        return
    field = table.TYPED_DATA.get(kind, "int32_data")
    if set(typed) - {field}:
        raise ContractError(f"{where}: found its values in {sorted(typed)}, expected {field}")
    count = sum(_count(data, field, a, b) for a, b in typed.get(field, []))
    bits = table.ELEMENTS[kind][1]
    wanted = size if bits < 8 else size * 8 // bits
    if count != wanted:
        raise ContractError(f"{where}: found {count} values, shape {shape} needs {wanted}")


def _count(data: bytes, field: str, a: int, b: int) -> int:
    width = _FIXED.get(field)
    if width is None:
        return 1 if b == 0 else count_packed(data, a, b)
    if (b - a) % width:
        raise ContractError(f"TensorProto.{field}: {b - a} bytes at byte {a} are no multiple of {width}")
    return (b - a) // width


def _unpacked(data: bytes, a: int, b: int) -> list[int]:
    values: list[int] = []
    while a < b:
        value, a = varint(data, a, b)
        values.append(value)
        if len(values) > limits.TENSOR_AXES:
            break
    return values


def _scalar(
    data: bytes,
    kind: int,
    shape: tuple[int, ...],
    raw: tuple[int, int] | None,
    typed: dict[str, list[tuple[int, int]]],
) -> int | None:
    if table.ELEMENTS[kind][0] != "int64" or any(size != 1 for size in shape):
        return None
    if raw is not None:
        return int.from_bytes(data[slice(*raw)], "little", signed=True)
    (a, b), *_ = typed["int64_data"]
    return signed(a if b == 0 else varint(data, a, b)[0])
