# SPDX-License-Identifier: Apache-2.0
"""What one run of an ONNX graph has to do: operations and constant bytes of its matrix products, loops multiplied out.

Counted from the graph itself, so it holds for every rewrite (trims, quantisation, loops), and written into the artifact
as `evidence/work.json`, because the robot has no `onnx` to count with.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, numpy_helper

from compress.export.errors import ExportError
from runtime.inference.roofline import Product, Work

PRECISION: Mapping[int, str] = {
    TensorProto.FLOAT: "float32",
    TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "bfloat16",
    TensorProto.INT8: "int8",
    TensorProto.UINT8: "int8",
}
BITS = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4}
PASSES = ("Cast", "DequantizeLinear", "Transpose", "Reshape", "Identity", "Unsqueeze", "Squeeze", "Expand")
LARGEST = 2**31  # a ModelProto holds no more, so shapes are inferred with weights only below


@dataclass
class _Scope:
    """Names that are visible in a graph: shapes, element types, constants and where values come from."""

    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    kinds: dict[str, int] = field(default_factory=dict)
    constants: dict[str, TensorProto] = field(default_factory=dict)
    made_by: dict[str, NodeProto] = field(default_factory=dict)

    def inside(self, graph: GraphProto) -> _Scope:
        """With what `graph` adds."""
        scope = _Scope(dict(self.shapes), dict(self.kinds), dict(self.constants), dict(self.made_by))
        for value in (*graph.input, *graph.output, *graph.value_info):
            tensor = value.type.tensor_type
            scope.kinds[value.name] = tensor.elem_type
            if tensor.HasField("shape"):
                scope.shapes[value.name] = tuple(axis.dim_value for axis in tensor.shape.dim)
        for constant in graph.initializer:
            scope.add(constant.name, constant)
        for node in graph.node:
            scope.made_by |= {name: node for name in node.output}
            if node.op_type == "Constant" and node.attribute[0].HasField("t"):
                scope.add(node.output[0], node.attribute[0].t)
        return scope

    def add(self, name: str, constant: TensorProto) -> None:
        """A constant with its shape and type."""
        self.constants[name] = constant
        self.shapes[name], self.kinds[name] = tuple(constant.dims), constant.data_type

    def shape(self, name: str) -> tuple[int, ...]:
        """All sizes known, or ExportError."""
        found = self.shapes.get(name)
        if found is None or any(size < 1 for size in found):
            raise ExportError(f"counting: the shape of {name!r} is {found}, expected static sizes; infer shapes first")
        return found

    def constant_bytes(self, name: str) -> int:
        """Bytes of the constants that `name` is made of, packed as they are stored; 0 if an input takes part."""
        if name in self.constants:
            tensor = self.constants[name]
            kind = TensorProto.DataType.Name(tensor.data_type)
            bits = BITS.get(kind) or 8 * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
            return math.ceil(math.prod(tensor.dims) * bits / 8)
        node = self.made_by.get(name)
        if node is None or node.op_type not in PASSES:
            return 0
        own = self.constant_bytes(node.input[0])
        scales = node.input[1:] if node.op_type == "DequantizeLinear" else ()
        return own + sum(self.constant_bytes(scale) for scale in scales if scale) if own else 0

    def quantized(self, name: str) -> bool:
        """Whether `name` is int8 with a scale, perhaps turned around."""
        node = self.made_by.get(name)
        while node is not None and node.op_type in PASSES and node.op_type != "DequantizeLinear":
            name = node.input[0]
            node = self.made_by.get(name)
        if node is None or node.op_type != "DequantizeLinear":
            return False
        kind = self.kinds.get(node.input[0], 0)
        return PRECISION.get(kind) == "int8"

    def integer(self, name: str) -> int | None:
        """The value of a constant whole number, if it is one."""
        tensor = self.constants.get(name)
        if tensor is None or tensor.data_location == TensorProto.EXTERNAL:
            return None
        return int(np.asarray(numpy_helper.to_array(tensor)).reshape(-1)[0])


def count(path: Path) -> Work:
    """Work of the graph in an ONNX file; weights beside it are not read unless shapes have to be inferred.

    Raises:
        ExportError: a shape is not static, a loop has no constant trip count, or a product has no known form.
    """
    return count_model(_shaped(path))


def count_model(model: onnx.ModelProto) -> Work:
    """The same for a model whose shapes are known."""
    found: Counter[tuple[str, int, int]] = Counter()
    _graph(model.graph, _Scope(), 1, found)
    rows = sorted(found.items(), key=lambda item: (-item[0][1] * item[1], item[0]))
    return Work(tuple(Product(kind, flops, size, times) for (kind, flops, size), times in rows))


def _shaped(path: Path) -> onnx.ModelProto:
    model = onnx.load(str(path), load_external_data=False)
    try:
        count_model(model)  # the exporter notes every shape
    except ExportError:
        size = sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))
        whole = onnx.load(str(path)) if size < LARGEST else model
        model = onnx.shape_inference.infer_shapes(_asked_once(whole), data_prop=True)
    return model


def _asked_once(model: onnx.ModelProto) -> onnx.ModelProto:
    """With an open batch closed at 1, and without the shapes that were noted for an open one."""
    for value in (*model.graph.input, *model.graph.output):
        for axis in value.type.tensor_type.shape.dim:
            if axis.HasField("dim_param"):
                axis.dim_value = 1
    del model.graph.value_info[:]
    return model


def _graph(graph: GraphProto, outer: _Scope, times: int, found: Counter[tuple[str, int, int]]) -> None:
    scope = outer.inside(graph)
    for node in graph.node:
        if node.op_type in OPERATIONS:
            found[_product(node, scope)] += times
        bodies = [a.g for a in node.attribute if a.type == AttributeProto.GRAPH]
        if node.op_type == "If":
            ways: list[Counter[tuple[str, int, int]]] = []
            for body in bodies:
                ways.append(Counter())
                _graph(body, scope, times, ways[-1])
            found.update(max(ways, key=lambda way: sum(key[1] * n for key, n in way.items())))
            continue
        for body in bodies:
            _graph(body, scope, times * _trips(node, scope), found)


def _trips(node: NodeProto, scope: _Scope) -> int:
    trips = scope.integer(node.input[0]) if node.op_type == "Loop" and node.input[0] else None
    if trips is None:
        raise ExportError(
            f"counting: {node.op_type} {node.name!r} has no constant trip count, expected a Loop with one"
        )
    return trips


def _product(node: NodeProto, scope: _Scope) -> tuple[str, int, int]:
    """Precision, operations, constant bytes."""
    kinds = [scope.kinds.get(name, 0) for name in (node.input[0], node.output[0])]
    kind = next((PRECISION[k] for k in kinds if k in PRECISION), None)
    if all(scope.quantized(name) for name in node.input[:2]):
        kind = "int8"  # both sides are int8 before their scales: engines multiply those
    if kind is None:
        raise ExportError(
            f"counting: {node.op_type} {node.name!r} computes in an unknown element type; infer shapes first"
        )
    weights = sum(scope.constant_bytes(name) for name in node.input[:2])
    return kind, OPERATIONS[node.op_type](node, scope), weights


def _matmul(node: NodeProto, scope: _Scope) -> int:
    return 2 * math.prod(scope.shape(node.output[0])) * scope.shape(node.input[0])[-1]


def _gemm(node: NodeProto, scope: _Scope) -> int:
    turned = any(a.name == "transA" and a.i for a in node.attribute)
    return 2 * math.prod(scope.shape(node.output[0])) * scope.shape(node.input[0])[0 if turned else 1]


def _conv(node: NodeProto, scope: _Scope) -> int:
    return 2 * math.prod(scope.shape(node.output[0])) * math.prod(scope.shape(node.input[1])[1:])


def _einsum(node: NodeProto, scope: _Scope) -> int:
    equation = next(a.s.decode() for a in node.attribute if a.name == "equation").replace(" ", "")
    terms = equation.split("->")[0].split(",")
    if any("." in term for term in terms):
        raise ExportError(f"counting: Einsum {node.name!r} has an ellipsis, expected named axes")
    sizes: dict[str, int] = {}
    for term, name in zip(terms, node.input, strict=True):
        sizes |= zip(term, scope.shape(name), strict=True)
    return 2 * math.prod(sizes.values())


OPERATIONS: Mapping[str, Callable[[NodeProto, _Scope], int]] = {
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "Gemm": _gemm,
    "Conv": _conv,
    "ConvInteger": _conv,
    "Einsum": _einsum,
}
