# SPDX-License-Identifier: Apache-2.0
"""What an ONNX file is made of, read without `onnx` and before any engine sees a byte of it.

One pass over the protobuf, no tensor is decoded. The file is refused where it is not plain: unknown or repeated fields,
functions, sparse or textual values, weights whose shape does not fit their bytes, anything beyond `loading_limits`.
What the outline says is then compared with the manifest (`onnx_rules`).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from runtime.contract import loading_limits as limits
from runtime.contract import onnx_fields as table
from runtime.contract.conventions import FileRole
from runtime.contract.onnx_graph import Graphs
from runtime.contract.onnx_tensor import ExternalData, entries
from runtime.contract.protobuf import Budget, fields, signed, text
from runtime.errors import ContractError

OTHER_FORMAT = b"ORTM"  # with it (or a name in .ort) ONNX Runtime reads flatbuffers: one file, two graphs


@dataclass(frozen=True)
class GraphValue:
    """A graph input or output: name, element type (as numpy names it), shape; an axis may be a name, or None."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]


@dataclass(frozen=True)
class OnnxOutline:
    """What an ONNX file consists of.

    Attributes:
        ir_version, opsets: format version, and operator set version by domain.
        operators: how often each (domain, operator) occurs, inner graphs included.
        inputs, outputs: of the whole graph, in order.
        external: where each weight lies that is not inside the file.
        metadata: the file's `metadata_props`.
        nodes, tensors: with those of inner graphs; `tensors` are weights and constants.
        depth: graphs inside graphs, 1 without a Loop or If.
        inline_bytes, total_bytes: of weights inside the file; of the file.
    """

    ir_version: int
    opsets: dict[str, int]
    operators: Counter[tuple[str, str]]
    inputs: tuple[GraphValue, ...]
    outputs: tuple[GraphValue, ...]
    external: tuple[ExternalData, ...]
    metadata: dict[str, str]
    nodes: int
    tensors: int
    depth: int
    inline_bytes: int
    total_bytes: int


def read_outline(data: bytes, where: str = "ONNX file") -> OnnxOutline:
    """The outline of an ONNX file; ContractError names `where` and what is refused in it."""
    limit = limits.FILE_BYTES[FileRole.MODEL]
    if not 0 < len(data) <= limit:
        raise ContractError(f"{where}: found {len(data)} bytes, expected 1 to {limit}; keep weights in external data")
    if data[4:8] == OTHER_FORMAT:
        raise ContractError(f"{where}: found the mark of ONNX Runtime's own format, expected an ONNX model")
    try:
        return _model(data)
    except ContractError as error:
        raise ContractError(f"{where}: {error}") from None


def _model(data: bytes) -> OnnxOutline:
    budget = Budget(limits.GRAPH_FIELDS)
    numbers: dict[str, int] = {}
    opsets: dict[str, int] = {}
    metadata: list[tuple[int, int]] = []
    span: tuple[int, int] | None = None
    for name, a, b in fields(data, 0, len(data), table.MODEL, budget):
        if name == "graph":
            span = (a, b)
        elif name == "opset_import":
            domain, version = _opset(data, a, b, budget)
            if domain in opsets:
                raise ContractError(f"opset_import: found domain {domain!r} twice, expected it once")
            opsets[domain] = version
        elif name == "metadata_props":
            metadata.append((a, b))
        elif name in ("ir_version", "model_version"):
            numbers[name] = signed(a)
        else:
            text(data, a, b, f"ModelProto.{name}", limits.GRAPH_TEXT_BYTES)
    if span is None:
        raise ContractError("found no graph, expected an ONNX model")
    graphs = Graphs(data, budget)
    inputs, outputs = graphs.read_main(*span)
    return OnnxOutline(
        ir_version=numbers.get("ir_version", 0),
        opsets=opsets,
        operators=graphs.operators,
        inputs=tuple(GraphValue(*value) for value in inputs),
        outputs=tuple(GraphValue(*value) for value in outputs),
        external=tuple(graphs.tensors.external),
        metadata=entries(data, metadata, "metadata_props", budget, limits.METADATA_ENTRIES),
        nodes=graphs.nodes,
        tensors=graphs.tensors.count,
        depth=graphs.depth,
        inline_bytes=graphs.tensors.inline_bytes,
        total_bytes=len(data),
    )


def _opset(data: bytes, begin: int, end: int, budget: Budget) -> tuple[str, int]:
    domain, version = "", 0
    for name, a, b in fields(data, begin, end, table.OPSET, budget):
        if name == "domain":
            domain = text(data, a, b, "opset_import.domain", limits.GRAPH_TEXT_BYTES)
        else:
            version = signed(a)
    return domain, version
