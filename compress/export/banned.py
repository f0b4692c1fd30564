# SPDX-License-Identifier: Apache-2.0
"""What TensorRT cannot take although ONNX Runtime can, read off the graph before any builder sees it.

Measured with TensorRT-RTX 1.7 and written here as rules so that a refusal names the node even where no builder is
installed. Weights are not read; types and shapes come from ONNX's own inference, loop bodies included.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx

from compress.export.errors import ConvertError

MAX_RANK = 8
STANDARD_DOMAINS = ("", "ai.onnx")
DYNAMIC = ("NonZero",)  # the number of results depends on the data
FLOATS: dict[int, str] = {
    onnx.TensorProto.FLOAT: "FLOAT",
    onnx.TensorProto.DOUBLE: "FLOAT",  # TensorRT has no float64 and reads it as float32
    onnx.TensorProto.FLOAT16: "HALF",
    onnx.TensorProto.BFLOAT16: "BF16",
}


@dataclass(frozen=True)
class Scanned:
    """A graph's nodes by the name TensorRT gives them, and its tensors' types and ranks, where ONNX can tell them.

    Attributes:
        nodes: name -> node; a node without a name is `node_of_<its first output>`, as TensorRT's parser has it.
        types: tensor -> ONNX element type.
        ranks: tensor -> number of axes.
    """

    nodes: Mapping[str, onnx.NodeProto]
    types: Mapping[str, int]
    ranks: Mapping[str, int]

    def floats(self, node: onnx.NodeProto) -> set[str]:
        """Floating types, in TensorRT's words, of a node's inputs and outputs."""
        found = {self.types.get(name, 0) for name in (*node.input, *node.output)}
        return {FLOATS[kind] for kind in found if kind in FLOATS}

    @property
    def all_floats(self) -> set[str]:
        """Floating types of any tensor of the graph."""
        return {FLOATS[kind] for kind in self.types.values() if kind in FLOATS}


def scan(path: Path) -> Scanned:
    """Read a graph's structure; ConvertError when it is not an ONNX file."""
    try:
        model = onnx.shape_inference.infer_shapes(onnx.load(str(path), load_external_data=False))
    except Exception as error:  # protobuf's and ONNX's classes share no base but this
        raise ConvertError(f"{path}: not a readable ONNX graph ({error})") from error
    types: dict[str, int] = {}
    ranks: dict[str, int] = {}
    nodes: dict[str, onnx.NodeProto] = {}
    for graph in _graphs(model.graph):
        for value in (*graph.input, *graph.output, *graph.value_info):
            tensor = value.type.tensor_type
            types[value.name] = tensor.elem_type
            if tensor.HasField("shape"):
                ranks[value.name] = len(tensor.shape.dim)
        for tensor in graph.initializer:
            types[tensor.name], ranks[tensor.name] = tensor.data_type, len(tensor.dims)
        for node in graph.node:
            nodes[node.name or f"node_of_{node.output[0] if node.output else ''}"] = node
    return Scanned(nodes, types, ranks)


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _graphs(attribute.g)


def refuse_banned(scanned: Scanned, where: str) -> None:
    """ConvertError names every node that no TensorRT takes, and why."""
    found = [
        f"node {name} ({node.op_type}): {reason}"
        for name, node in scanned.nodes.items()
        for reason in _reasons(node, scanned)
    ]
    if found:
        raise ConvertError(
            f"{where}: TensorRT cannot take it: {'; '.join(found[:5])}"
            f"{f'; and {len(found) - 5} more' if len(found) > 5 else ''}. Rewrite that operation in the model's "
            "module, or set export.convertible: off if no station will use TensorRT"
        )


def _reasons(node: onnx.NodeProto, scanned: Scanned) -> Iterator[str]:
    if node.domain not in STANDARD_DOMAINS:
        yield f"domain {node.domain!r} is one engine's own, expected standard operators"
    if node.op_type in DYNAMIC:
        yield "the shape of its result depends on the data, expected static shapes"
    ranks = [(name, scanned.ranks.get(name, 0)) for name in (*node.input, *node.output)]
    for name, rank in ranks:
        if rank > MAX_RANK:
            yield f"tensor {name} has {rank} axes, expected at most {MAX_RANK}"
    if node.op_type == "Loop" and (len(node.input) < 2 or not node.input[1]):
        yield "its condition is empty, expected an explicit one (a constant true)"
    if node.op_type == "Attention" and "FLOAT" in scanned.floats(node):
        yield "float32 Attention has no kernel, expected float16 or bfloat16, or opset 22 and below"
