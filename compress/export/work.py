# SPDX-License-Identifier: Apache-2.0
"""What one run of an ONNX graph has to do: operations and constant bytes of its matrix products, loops multiplied out.

Counted from the graph itself, so it holds for every rewrite (trims, quantisation, loops), and written into the artifact
as `evidence/work.json`, because the robot has no `onnx` to count with.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import onnx
import onnx_ir as ir

from compress.export.errors import ExportError
from runtime.inference.roofline import Product, Work

PRECISION: Mapping[ir.DataType, str] = {
    ir.DataType.FLOAT: "float32",
    ir.DataType.FLOAT16: "float16",
    ir.DataType.BFLOAT16: "bfloat16",
    ir.DataType.INT8: "int8",
    ir.DataType.UINT8: "int8",
}
PASSES = ("Cast", "DequantizeLinear", "Transpose", "Reshape", "Identity", "Unsqueeze", "Squeeze", "Expand")
LARGEST = 2**31  # a ModelProto holds no more, so shapes are inferred with weights only below
Counted = Counter[tuple[str, int, int]]


def count(path: Path) -> Work:
    """Work of the graph in an ONNX file; weights beside it are not read unless shapes have to be inferred.

    Raises:
        ExportError: a shape is not static, a loop has no constant trip count, or a product has no known form.
    """
    try:
        return count_model(ir.load(path))  # the exporter notes every shape
    except ExportError:
        return count_model(_inferred(path))


def count_model(model: ir.Model) -> Work:
    """The same for a model whose shapes are known."""
    found: Counted = Counter()
    _graph(model.graph, 1, found)
    rows = sorted(found.items(), key=lambda item: (-item[0][1] * item[1], item[0]))
    return Work(tuple(Product(kind, flops, size, times) for (kind, flops, size), times in rows))


def stored_bytes(model: ir.Model) -> int:
    """Of all weights, read or not."""
    return sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None)


def _inferred(path: Path) -> ir.Model:
    """With an open batch closed at 1, and without the shapes that were noted for an open one."""
    size = sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))
    model = onnx.load(str(path), load_external_data=size < LARGEST)
    for value in (*model.graph.input, *model.graph.output):
        for axis in value.type.tensor_type.shape.dim:
            if axis.HasField("dim_param"):
                axis.dim_value = 1
    del model.graph.value_info[:]
    return ir.from_proto(onnx.shape_inference.infer_shapes(model, data_prop=True))


def _graph(graph: ir.Graph, times: int, found: Counted) -> None:
    for node in graph:
        if node.op_type in OPERATIONS:
            found[_product(node)] += times
        bodies = [a.as_graph() for a in node.attributes.values() if a.type is ir.AttributeType.GRAPH]
        if node.op_type == "If":
            ways: list[Counted] = []
            for body in bodies:
                ways.append(Counter())
                _graph(body, times, ways[-1])
            found.update(max(ways, key=lambda way: sum(key[1] * n for key, n in way.items())))
            continue
        for body in bodies:
            _graph(body, times * _trips(node), found)


def _trips(node: ir.Node) -> int:
    count = None if node.op_type != "Loop" or node.inputs[0] is None else _constant(node.inputs[0])
    if count is None or isinstance(count, ir.ExternalTensor):
        raise ExportError(
            f"counting: {node.op_type} {node.name!r} has no constant trip count, expected a Loop with one"
        )
    return int(count.numpy().reshape(-1)[0])


def _product(node: ir.Node) -> tuple[str, int, int]:
    """Precision, operations, constant bytes."""
    sides = [value for value in node.inputs[:2] if value is not None]
    kinds = [value.dtype for value in (sides[0], node.outputs[0])]
    kind = next((PRECISION[k] for k in kinds if k is not None and k in PRECISION), None)
    if all(map(_quantized, sides)):
        kind = "int8"  # both sides are int8 before their scales: engines multiply those
    if kind is None:
        raise ExportError(
            f"counting: {node.op_type} {node.name!r} computes in an unknown element type; infer shapes first"
        )
    return kind, OPERATIONS[node.op_type](node), sum(map(_constant_bytes, sides))


def _constant(value: ir.Value) -> ir.TensorProtocol | None:
    """What a weight or a `Constant` node holds."""
    node = value.producer()
    if node is not None and node.op_type == "Constant":
        held = node.attributes.get("value")
        return None if held is None else held.as_tensor()
    return value.const_value if node is None else None


def _constant_bytes(value: ir.Value) -> int:
    """Bytes of the constants that `value` is made of, packed as they are stored; 0 if an input takes part."""
    held, node = _constant(value), value.producer()
    if held is not None:
        return math.ceil(held.nbytes)
    if node is None or node.op_type not in PASSES or node.inputs[0] is None:
        return 0
    own = _constant_bytes(node.inputs[0])
    scales = node.inputs[1:] if node.op_type == "DequantizeLinear" else ()
    return own + sum(_constant_bytes(scale) for scale in scales if scale is not None) if own else 0


def _quantized(value: ir.Value) -> bool:
    """Whether `value` is int8 with a scale, perhaps turned around."""
    node = value.producer()
    while node is not None and node.op_type in PASSES and node.op_type != "DequantizeLinear":
        node = None if node.inputs[0] is None else node.inputs[0].producer()
    if node is None or node.op_type != "DequantizeLinear" or node.inputs[0] is None:
        return False
    kind = node.inputs[0].dtype
    return kind is not None and PRECISION.get(kind) == "int8"


def _sizes(value: ir.Value | None) -> tuple[int, ...]:
    """All sizes known, or ExportError."""
    held = None if value is None else _constant(value)
    shape = held.shape if held is not None else None if value is None else value.shape
    sizes = () if shape is None else tuple(size for size in shape if isinstance(size, int) and size > 0)
    if shape is None or len(sizes) != len(shape):
        name = None if value is None else value.name
        raise ExportError(f"counting: the shape of {name!r} is {shape}, expected static sizes; infer shapes first")
    return sizes


def _matmul(node: ir.Node) -> int:
    return 2 * math.prod(_sizes(node.outputs[0])) * _sizes(node.inputs[0])[-1]


def _gemm(node: ir.Node) -> int:
    turned = "transA" in node.attributes and node.attributes["transA"].as_int()
    return 2 * math.prod(_sizes(node.outputs[0])) * _sizes(node.inputs[0])[0 if turned else 1]


def _conv(node: ir.Node) -> int:
    return 2 * math.prod(_sizes(node.outputs[0])) * math.prod(_sizes(node.inputs[1])[1:])


def _einsum(node: ir.Node) -> int:
    terms = node.attributes["equation"].as_string().replace(" ", "").split("->")[0].split(",")
    if any("." in term for term in terms):
        raise ExportError(f"counting: Einsum {node.name!r} has an ellipsis, expected named axes")

    def axes() -> Iterator[tuple[str, int]]:
        for term, value in zip(terms, node.inputs, strict=True):
            yield from zip(term, _sizes(value), strict=True)

    return 2 * math.prod(dict(axes()).values())


OPERATIONS: Mapping[str, Callable[[ir.Node], int]] = {
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "Gemm": _gemm,
    "Conv": _conv,
    "ConvInteger": _conv,
    "Einsum": _einsum,
}
