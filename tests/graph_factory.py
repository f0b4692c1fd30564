# SPDX-License-Identifier: Apache-2.0
"""Small ONNX graphs by hand: one that every engine takes, in a chosen precision; one per refusal of TensorRT."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, HALF, BF16, INT64 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.INT64


def save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: dict[str, tuple[int, Sequence[int | str]]],
    outputs: dict[str, tuple[int, Sequence[int | str]]],
    initializers: Sequence[onnx.TensorProto] = (),
    *,
    opset: int = 20,
    domains: Sequence[str] = (),
) -> Path:
    """Write one graph; tensors are name -> (element type, shape)."""

    def values(tensors: dict[str, tuple[int, Sequence[int | str]]]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in tensors.items()]

    graph = helper.make_graph(list(nodes), "tiny", values(inputs), values(outputs), list(initializers))
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


def weight(name: str, kind: int, *shape: int) -> onnx.TensorProto:
    """Random weights of a type."""
    values = np.random.default_rng(0).normal(0, 0.3, shape).astype(np.float32)
    if kind == BF16:
        return helper.make_tensor(name, BF16, shape, values.ravel().tolist())
    return numpy_helper.from_array(values.astype(np.float16 if kind == HALF else np.float32), name)


def mlp(path: Path, kind: int = FLOAT) -> Path:
    """float32 in, two multiplications and a normalisation in `kind`, float32 out, by casts as an export has them."""
    nodes = [
        helper.make_node("Cast", ["x"], ["low"], name="into", to=kind),
        helper.make_node("MatMul", ["low", "w1"], ["h"], name="up"),
        helper.make_node("LayerNormalization", ["h", "g"], ["n"], name="norm"),
        helper.make_node("Gelu", ["n"], ["a"], name="act"),
        helper.make_node("Gemm", ["a", "w2", "b"], ["y16"], name="down"),
        helper.make_node("Cast", ["y16"], ["y"], name="out", to=FLOAT),
    ]
    weights = [weight("w1", kind, 8, 16), weight("g", kind, 16), weight("w2", kind, 16, 4), weight("b", kind, 4)]
    return save(path, nodes, {"x": (FLOAT, (1, 8))}, {"y": (FLOAT, (1, 4))}, weights)


def loop(path: Path, condition: bool = True) -> Path:
    """Four steps of x <- x @ w inside a `Loop`, with or without its condition."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["goes"], name="on"),
            helper.make_node("MatMul", ["state", "w"], ["next"], name="step"),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", INT64, ()),
            helper.make_tensor_value_info("go", TensorProto.BOOL, ()),
            helper.make_tensor_value_info("state", FLOAT, (1, 8)),
        ],
        [
            helper.make_tensor_value_info("goes", TensorProto.BOOL, ()),
            helper.make_tensor_value_info("next", FLOAT, (1, 8)),
        ],
    )
    node = helper.make_node("Loop", ["steps", "true" if condition else "", "x"], ["y"], name="denoise", body=body)
    constants = [numpy_helper.from_array(np.array(4), "steps"), numpy_helper.from_array(np.array(True), "true")]
    return save(path, [node], {"x": (FLOAT, (1, 8))}, {"y": (FLOAT, (1, 8))}, [weight("w", FLOAT, 8, 8), *constants])


def non_zero(path: Path) -> Path:
    """Boolean masking as a trace without static shapes makes it."""
    node = helper.make_node("NonZero", ["x"], ["where"], name="mask")
    return save(path, [node], {"x": (FLOAT, (4,))}, {"where": (INT64, (1, "found"))})


def contrib(path: Path) -> Path:
    """One engine's own operator."""
    node = helper.make_node("QuickGelu", ["x"], ["y"], name="fast", domain="com.microsoft", alpha=1.7)
    return save(path, [node], {"x": (FLOAT, (4,))}, {"y": (FLOAT, (4,))}, domains=("com.microsoft",))


def rank_nine(path: Path) -> Path:
    """Pictures cut into patches by one reshape."""
    shape = (1, 2, 1, 2, 1, 2, 1, 2, 1)
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["nine"], name="patchify"),
        helper.make_node("Neg", ["nine"], ["y"], name="neg"),
    ]
    sizes = numpy_helper.from_array(np.array(shape), "shape")
    return save(path, nodes, {"x": (FLOAT, (16,))}, {"y": (FLOAT, shape)}, [sizes])


def attention(path: Path, kind: int = FLOAT) -> Path:
    """The fused operator of opset 23."""
    sides = {name: (kind, (1, 2, 16, 32)) for name in ("q", "k", "v")}
    node = helper.make_node("Attention", list(sides), ["y"], name="fused")
    return save(path, [node], sides, {"y": (kind, (1, 2, 16, 32))}, opset=23)


def quantized(path: Path, form: str) -> Path:
    """x @ w with `w` quantised: `int4` blockwise or `int8` by DequantizeLinear, `dynamic` by MatMulInteger."""
    if form == "dynamic":
        nodes = [
            helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"], name="quantise"),
            helper.make_node("MatMulInteger", ["q", "w", "z"], ["sum"], name="integers"),
            helper.make_node("Cast", ["sum"], ["real"], name="real", to=FLOAT),
            helper.make_node("Mul", ["real", "s"], ["y"], name="scale"),
        ]
        weights = [numpy_helper.from_array(np.ones((32, 4), np.int8), "w")]
        return save(path, nodes, {"x": (FLOAT, (1, 32))}, {"y": (FLOAT, (1, 4))}, weights)
    values = np.random.default_rng(0).integers(-8, 8, (32, 4))
    kind = TensorProto.INT4 if form == "int4" else TensorProto.INT8
    scale = np.full((2, 4), 0.1, np.float32) if form == "int4" else np.float32(0.1)
    options = {"axis": 0, "block_size": 16} if form == "int4" else {}
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "scale"], ["real"], name="dequantise", **options),
        helper.make_node("MatMul", ["x", "real"], ["y"], name="multiply"),
    ]
    weights = [helper.make_tensor("w", kind, (32, 4), values.ravel().tolist()), numpy_helper.from_array(scale, "scale")]
    return save(path, nodes, {"x": (FLOAT, (1, 32))}, {"y": (FLOAT, (1, 4))}, weights, opset=21)
