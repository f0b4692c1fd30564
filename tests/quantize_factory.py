# SPDX-License-Identifier: Apache-2.0
"""Small graphs of the policy's signature to quantise: chains of matrices, also inside a loop, made by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from artifact_factory import policy_spec
from onnx import TensorProto, helper, numpy_helper

from compress.export.onnx_export import ExportedGraph
from compress.export.options import GraphOptions

SPEC = policy_spec()
WIDE = 64
KINDS = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}


def weights(blocks: int = 3) -> dict[str, np.ndarray]:
    """`in` (8, 64), `block.<i>` (64, 64), `out` (64, 56): in graph order."""
    rng = np.random.default_rng(0)
    sizes = {"in": (8, WIDE), **{f"block.{i}": (WIDE, WIDE) for i in range(blocks)}, "out": (WIDE, 56)}
    return {name: rng.normal(0, 1 / np.sqrt(size[0]), size).astype(np.float32) for name, size in sizes.items()}


def chain(folder: Path, *, blocks: int = 3, opset: int = 21, loop: bool = False) -> ExportedGraph:
    """tanh(state @ in @ block.0 ...) @ out; with `loop`, the blocks run twice inside an ONNX Loop."""
    values = weights(blocks)
    nodes, now = [helper.make_node("MatMul", ["state", "in"], ["x"], "matmul.in")], "x"
    body = []
    for i in range(blocks):
        body.append(helper.make_node("MatMul", [now, f"block.{i}"], [f"y.{i}"], f"matmul.{i}"))
        body.append(helper.make_node("Tanh", [f"y.{i}"], [f"t.{i}"], f"tanh.{i}"))
        now = f"t.{i}"
    extra = {"shape": np.array([1, 8, 7])}
    if loop:
        extra |= {"trips": np.array(2), "go": np.array(True)}
        body[0].input[0] = "carried"
        body.append(helper.make_node("Identity", ["cond"], ["cond.out"]))
        info = helper.make_tensor_value_info
        step = helper.make_graph(
            body,
            "step",
            [info("i", TensorProto.INT64, []), info("cond", TensorProto.BOOL, []), info("carried", 1, [1, WIDE])],
            [info("cond.out", TensorProto.BOOL, []), info(now, 1, [1, WIDE])],
        )
        nodes.append(helper.make_node("Loop", ["trips", "go", "x"], ["looped"], "loop", body=step))
        now = "looped"
    else:
        nodes += body
    nodes.append(helper.make_node("MatMul", [now, "out"], ["flat"], "matmul.out"))
    nodes.append(helper.make_node("Reshape", ["flat", "shape"], ["actions"], "reshape"))
    tensors = [numpy_helper.from_array(value, name) for name, value in {**values, **extra}.items()]
    ends = [
        [helper.make_tensor_value_info(t.name, KINDS[t.dtype.value], t.shape) for t in specs]
        for specs in (SPEC.graph.inputs, SPEC.graph.outputs)
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "chain", *ends, tensors), opset_imports=[helper.make_opsetid("", opset)], ir_version=10
    )
    model.metadata_props.add(key="dropgate.lineage_id", value="a" * 64)
    path, data = folder / "policy.onnx", folder / "policy.onnx.data"
    onnx.save_model(model, str(path), save_as_external_data=True, location=data.name, size_threshold=256)
    return ExportedGraph(path, data, SPEC.graph, GraphOptions(opset=opset), 10, len(nodes), data.stat().st_size, 0.0)


def observations(count: int = 8) -> dict[str, dict[str, torch.Tensor]]:
    """Stage inputs by id; only `state` matters to the graphs here."""
    source = torch.Generator().manual_seed(0)
    made = {}
    for index in range(count):
        tensors = {t.name: torch.zeros(t.shape, dtype=getattr(torch, t.dtype.value)) for t in SPEC.graph.inputs}
        tensors["state"] = torch.randn(1, 8, generator=source)
        made[f"random/{index}"] = tensors
    return made
