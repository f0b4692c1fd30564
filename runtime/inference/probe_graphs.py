# SPDX-License-Identifier: Apache-2.0
"""Small ONNX graphs that ask an engine what it can do at most: one big matrix product, a chain of tiny nodes.

Written byte by byte (protobuf's wire format), because the robot has no `onnx`. The product's right side is a constant,
as in a policy, so that an engine may lay it out as it likes. Float formats other than float32 are cast inside, and int8
is the dynamically quantised form, because policies take and give float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.contract.conventions import TensorDtype
from runtime.contract.graph import GraphSpec, TensorSpec

FLOAT, INT8, INT32, FLOAT16, BFLOAT16 = 1, 3, 6, 10, 16  # onnx.TensorProto.DataType
IR_VERSION, OPSET = 10, 20
Node = tuple[str, Sequence[str], Sequence[str], int | None]  # operator, inputs, outputs, `to` of a Cast
HALVES = {"float16": FLOAT16, "bfloat16": BFLOAT16}
PRECISIONS = ("float32", "float16", "bfloat16", "int8")


def product(path: Path, precision: str, rows: int, inner: int, columns: int, depth: int = 1) -> GraphSpec:
    """Write y = x W, x (rows, inner) float32, W (inner, columns) constant; `depth` times in a row if W is square."""
    cast, kind = HALVES.get(precision), FLOAT
    nodes: list[Node] = []
    name = "x"
    if cast is not None:
        nodes.append(("Cast", ("x",), ("x16",), cast))
        name, kind = "x16", cast
    for turn in range(depth):
        out = f"y{turn}"
        if precision == "int8":
            nodes += [
                ("DynamicQuantizeLinear", (name,), (f"q{turn}", f"s{turn}", f"z{turn}"), None),
                ("MatMulInteger", (f"q{turn}", "w", f"z{turn}"), (f"i{turn}",), None),
                ("Cast", (f"i{turn}",), (f"f{turn}",), FLOAT),
                ("Mul", (f"f{turn}", f"s{turn}"), (out,), None),
            ]
        else:
            nodes.append(("MatMul", (name, "w"), (out,), None))
        name = out
    nodes.append(("Cast", (name,), ("y",), FLOAT) if cast is not None else ("Identity", (name,), ("y",), None))
    small = np.full((inner, columns), 2.0**-10, np.float32)
    arrays: dict[str, NDArray[Any]] = {
        "int8": np.ones((inner, columns), np.int8),
        "float16": small.astype(np.float16),
        "bfloat16": (small.view(np.uint32) >> 16).astype(np.uint16),
    }
    weights = arrays.get(precision, small)
    tensor = _tensor("w", INT8 if precision == "int8" else kind, weights)
    return _write(path, nodes, (rows, inner), (rows, columns), [tensor])


def chain(path: Path, count: int) -> GraphSpec:
    """Write `count` tiny nodes, each of which waits for the one before."""
    nodes: list[Node] = [("Tanh", (f"h{i}" if i else "x",), (f"h{i + 1}",), None) for i in range(count)]
    return _write(path, [*nodes, ("Identity", (f"h{count}",), ("y",), None)], (1, 8), (1, 8), [])


def _write(
    path: Path, nodes: Sequence[Node], given: tuple[int, ...], out: tuple[int, ...], tensors: list[bytes]
) -> GraphSpec:
    graph = b"".join(_bytes(1, _node(*node)) for node in nodes) + _text(2, "probe")
    graph += b"".join(_bytes(5, tensor) for tensor in tensors)
    graph += _bytes(11, _value("x", given)) + _bytes(12, _value("y", out))
    opset = _bytes(8, _text(1, "") + _number(2, OPSET))
    path.write_bytes(_number(1, IR_VERSION) + _bytes(7, graph) + opset)
    inputs = (TensorSpec("x", TensorDtype.FLOAT32, given),)
    return GraphSpec(path.name, inputs, (TensorSpec("y", TensorDtype.FLOAT32, out),))


def _node(operator: str, inputs: Sequence[str], outputs: Sequence[str], to: int | None) -> bytes:
    found = b"".join(_text(1, name) for name in inputs) + b"".join(_text(2, name) for name in outputs)
    found += _text(4, operator)
    return found if to is None else found + _bytes(5, _text(1, "to") + _number(3, to) + _number(20, 2))


def _tensor(name: str, kind: int, values: NDArray[Any]) -> bytes:
    dims = b"".join(_number(1, size) for size in values.shape)
    return dims + _number(2, kind) + _text(8, name) + _bytes(9, values.tobytes())


def _value(name: str, shape: tuple[int, ...]) -> bytes:
    dims = b"".join(_bytes(1, _number(1, size)) for size in shape)
    return _text(1, name) + _bytes(2, _bytes(1, _number(1, FLOAT) + _bytes(2, dims)))


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _text(field: int, value: str) -> bytes:
    return _bytes(field, value.encode())


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])
