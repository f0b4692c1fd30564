# SPDX-License-Identifier: Apache-2.0
"""A float graph -> the same graph with its weight matrices in int8 or int4. `quantize_budget` says what that costs.

int8: matrices per column, inputs quantised as they come (`DynamicQuantizeLinear`, `MatMulInteger`); no calibration.
The weights use 7 bits: on processors without VNNI instructions the sums of 8-bit products saturate, so that a robot
would get other numbers than the export machine (measured here: no worse in 7 bits). int4: `DequantizeLinear` by blocks
of rows, symmetric, opset 21: the form that both ONNX Runtime and TensorRT take. Rejected: `MatMulNBits`, which TensorRT
refuses, and 8-bit weights alone as QDQ, which quantise nothing.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import onnx
import onnx_ir as ir
from onnx import AttributeProto, GraphProto, ModelProto

from compress.export.errors import ExportError
from compress.export.matrices import Matrix, float_matrices, int4_matrices, int8_matrices
from compress.export.onnx_export import STANDARD_DOMAINS, ExportedGraph
from compress.export.quiet import quiet

Kind = Literal["int8", "int4"]
INT4_OPSET = 21
BLOCKS = (128, 64, 32)  # rows that share a scale; the larger, the faster and smaller
_NEVER = "nothing would be smaller or faster. Set export.quantize to none"


@dataclass(frozen=True)
class Quantized:
    """A quantised graph on disk.

    Attributes:
        graph: its files.
        quantized, kept: the matrices, by node, that were and were not quantised.
        block: rows that share a scale; 0 for int8, where a whole column does.
    """

    graph: ExportedGraph
    quantized: tuple[str, ...]
    kept: tuple[str, ...]
    block: int


def needed_opset(kind: Kind | None, opset: int) -> int:
    """The operator set that a graph must be exported with to be quantised to `kind`."""
    return max(opset, INT4_OPSET) if kind == "int4" else opset


def block_size(matrices: Sequence[Matrix]) -> int:
    """The largest of `BLOCKS` that divides the rows of as many matrices as any does."""
    return max(BLOCKS, key=lambda block: (sum(m.rows % block == 0 for m in matrices), block))


def quantize_graph(graph: ExportedGraph, folder: Path, kind: Kind, ends: int = 0) -> Quantized:
    """Write the quantised graph, under the same names, into the existing `folder`.

    Args:
        graph: float32; for int4 of opset 21 or above.
        folder: another one than the graph's.
        kind: of the weights.
        ends: this many matrices at the beginning and at the end of the graph stay as they are.

    Raises:
        ExportError: there is nothing to quantise, or not exactly what was asked for has been quantised.
    """
    if graph.opset < needed_opset(kind, 1):
        raise ExportError(f"quantize {kind}: found a graph of opset {graph.opset}, expected {INT4_OPSET} or above")
    source = onnx.load(str(graph.path))
    found = float_matrices(source)
    block = block_size(found) if kind == "int4" and found else 0
    inner = found[ends : len(found) - ends]
    asked = [m.node for m in inner if not block or m.rows % block == 0]
    if not asked or len(set(asked)) != len(asked) or "" in asked:
        raise ExportError(
            f"quantize {kind}: found {len(found)} constant matrices, {len(asked)} of them to quantise "
            f"({ends} kept at each end{f', rows in blocks of {block}' if block else ''}), expected at least one, each "
            f"with a name of its own: {_NEVER}"
        )
    with _silent():
        made = _int8(graph.path, asked) if kind == "int8" else _int4(source, asked, block)
    done = int8_matrices(made) if kind == "int8" else int4_matrices(made, block)
    left = {m.node for m in float_matrices(made)}
    kept = tuple(m.node for m in found if m.node not in set(asked))
    if len(done) != len(asked) or left & set(asked) or not left.issuperset(kept):
        raise ExportError(
            f"quantize {kind}: found {len(done)} quantised matrices in the result, expected {len(asked)}; still float: "
            f"{sorted(left & set(asked))[:5]}; not asked for: {sorted(set(kept) - left)[:5]}. "
            f"The quantiser of this onnxruntime does something else: {_NEVER}"
        )
    return Quantized(_save(made, source, graph, folder), tuple(asked), kept, block)


def _int8(path: Path, asked: Sequence[str]) -> ModelProto:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "int8.onnx"
        quantize_dynamic(
            path,
            out,
            op_types_to_quantize=["MatMul"],
            nodes_to_quantize=list(asked),
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
            use_external_data_format=True,
            extra_options={"MatMulConstBOnly": True, "EnableSubgraph": True},
        )
        return _in_order(onnx.load(str(out)))


def _in_order(made: ModelProto) -> ModelProto:
    """The quantiser sorts nodes without looking at what a loop's body reads from outside: a flow policy's `Loop` came
    before its keys and values."""
    if not any(a.type == AttributeProto.GRAPH for node in made.graph.node for a in node.attribute):
        return made
    model = ir.from_proto(made)
    model.graph.sort()
    return ir.to_proto(model)


def _int4(source: ModelProto, asked: Sequence[str], block: int) -> ModelProto:
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
    from onnxruntime.quantization.quant_utils import QuantFormat

    model = ModelProto()
    model.CopyFrom(source)
    others = [name for name in _multiplications(model.graph) if name not in set(asked)]
    quantizer = MatMulNBitsQuantizer(
        model,
        block_size=block,
        is_symmetric=True,
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=("MatMul",),
        nodes_to_exclude=others,
    )
    quantizer.process()
    made: ModelProto = quantizer.model.model
    _bring_weights_home(made.graph)
    return made


def _multiplications(graph: GraphProto) -> Iterator[str]:
    """The names of all `MatMul` nodes, those of loop bodies too: the quantiser goes into them as well."""
    for node in graph.node:
        if node.op_type == "MatMul":
            yield node.name
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from _multiplications(attribute.g)


def _bring_weights_home(graph: GraphProto) -> None:
    """Quantised weights of a loop body go into the body: ONNX Runtime cannot load a `DequantizeLinear` that reads them
    from outside."""
    outside = {tensor.name: tensor for tensor in graph.initializer}
    moved: set[str] = set()
    for body in (a.g for node in graph.node for a in node.attribute if a.type == AttributeProto.GRAPH):
        wanted = [n for node in body.node if node.op_type == "DequantizeLinear" for n in node.input if n in outside]
        body.initializer.extend(outside[name] for name in dict.fromkeys(wanted))
        moved.update(wanted)
        _bring_weights_home(body)
    used = {name for node in graph.node for name in node.input}
    for name in moved - used:
        graph.initializer.remove(outside[name])


def _save(made: ModelProto, source: ModelProto, graph: ExportedGraph, folder: Path) -> ExportedGraph:
    """With the source's identity, and nothing that the quantiser noted of itself."""
    del made.metadata_props[:]
    made.metadata_props.extend(source.metadata_props)
    made.producer_name, made.producer_version = source.producer_name, source.producer_version
    made.ir_version = source.ir_version
    used = {node.domain for node in made.graph.node}
    foreign = sorted(used - set(STANDARD_DOMAINS))
    if foreign:
        raise ExportError(f"quantize: found operators of {foreign}, expected standard ones only: {_NEVER}")
    kept = [entry for entry in made.opset_import if entry.domain in STANDARD_DOMAINS]
    del made.opset_import[:]
    made.opset_import.extend(kept)
    path, data = folder / graph.path.name, folder / graph.data.name
    onnx.save_model(made, str(path), save_as_external_data=True, location=data.name, size_threshold=256)
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(
            f"quantize: the ONNX checker refuses the result: {error}. Set export.quantize to none"
        ) from error
    return replace(
        graph, path=path, data=data, nodes=len(made.graph.node), parameters_bytes=data.stat().st_size
    )  # fmt: skip


@contextmanager
def _silent() -> Iterator[None]:
    """The quantisers report every node; importing one of them even sets the whole process's logging."""
    root = logging.getLogger()
    handlers, level, off = list(root.handlers), root.level, logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with quiet():
            yield
    finally:
        logging.disable(off)
        root.handlers[:] = handlers
        root.setLevel(level)
