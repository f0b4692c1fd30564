# SPDX-License-Identifier: Apache-2.0
"""One `ExportStage` -> one ONNX file with external weights: float32, static shapes, opset 20, always the same bytes.

Chosen: `torch.onnx.export(dynamo=True)` at opset 20 (native GELU, no `Attention` node, whose float32 form TensorRT
cannot build). Rejected: the TorchScript exporter, which fails on most stock VLA modules. Node metadata holds Python
stack traces with absolute paths, so all metadata is stripped; what remains is the caller's identity.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import torch

from compress.export.errors import ExportError
from compress.export.exact import cpu_copy
from compress.export.quick_match import quick_match
from compress.export.quiet import quiet
from compress.models.base import ExportStage
from runtime.contract.conventions import TensorDtype
from runtime.contract.graph import GraphSpec, TensorSpec

OPSET, IR_VERSION = 20, 10
OPSETS = (18, 19, 20, 21, 22)  # 23 and later emit Attention
MAX_RANK = 8  # TensorRT refuses tensors of more axes
STANDARD_DOMAINS = ("", "ai.onnx")
NOT_PORTABLE = ("NonZero",)  # data-dependent shapes
OPERATOR = re.compile(r"\b(?:aten|prims|prim|torchvision|quantized)(?:\.|::)[A-Za-z0-9_]+")


@dataclass(frozen=True)
class ExportedGraph:
    """An exported graph on disk.

    Attributes:
        path, data: the graph and its weights, side by side; the graph names `data` by file name.
        spec: names, types and shapes of inputs and outputs, in order.
        opset, ir_version, nodes, parameters_bytes: what was written.
        export_s: seconds that the export took.
    """

    path: Path
    data: Path
    spec: GraphSpec
    opset: int
    ir_version: int
    nodes: int
    parameters_bytes: int
    export_s: float


def export_stage(
    stage: ExportStage, folder: Path, metadata: Mapping[str, str] | None = None, *, opset: int = OPSET
) -> ExportedGraph:
    """Write `<stage.name>.onnx` and `<stage.name>.onnx.data` into the existing `folder`.

    Args:
        stage: its module may be on any device and in any mode; a float32 copy on the CPU is exported.
        folder: receives the two files.
        metadata: the graph's whole `metadata_props`, for instance `{LINEAGE_METADATA: lineage_id}`.
        opset: of the standard operators, one of `OPSETS`.

    Raises:
        ExportError: an operator cannot be converted or is not portable; it is named.
    """
    if opset not in OPSETS:
        raise ExportError(
            f"opset: found {opset}, expected one of {list(OPSETS)}; {OPSET} is the one that every engine here takes"
        )
    started = time.perf_counter()
    model = _converted(stage, opset)
    _strip(model)
    model.metadata_props.update(metadata or {})
    _refuse_unportable(model, stage.name)
    path, data = folder / f"{stage.name}.onnx", folder / f"{stage.name}.onnx.data"
    ir.save(model, path, external_data=data.name)
    _check(path)
    size = data.stat().st_size if data.exists() else 0
    elapsed = time.perf_counter() - started
    return ExportedGraph(path, data, graph_spec(path), opset, IR_VERSION, len(list(model.graph)), size, elapsed)


def _converted(stage: ExportStage, opset: int) -> ir.Model:
    module = cpu_copy(stage.module, torch.float32)
    inputs = tuple(value.detach().cpu() for value in stage.example_inputs.values())
    try:
        with quiet(), quick_match(), torch.no_grad():
            program = torch.onnx.export(
                module,
                inputs,
                input_names=list(stage.example_inputs),
                output_names=list(stage.output_names),
                opset_version=opset,
                dynamo=True,
                optimize=True,
                verbose=False,
            )
    except Exception as error:  # torch raises many unrelated classes here; all mean that there is no graph
        raise ExportError(_explain(stage.name, error, opset)) from error
    if program is None:
        raise ExportError(f"stage {stage.name!r}: torch.onnx.export returned no program; expected one with dynamo=True")
    model = program.model
    model.ir_version = IR_VERSION
    found = model.opset_imports.get("")
    if found != opset:
        raise ExportError(
            f"stage {stage.name!r}: found opset {found} after conversion, expected {opset}; "
            "check the onnxscript version"
        )
    return model


def _explain(name: str, error: BaseException, opset: int) -> str:
    """The innermost cause in one line, with the operators it mentions."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__
    root = chain[-1]
    operators = sorted({found for link in reversed(chain) for found in OPERATOR.findall(str(link))})
    reason = next((line.strip() for line in str(root).splitlines() if line.strip()), type(root).__name__)
    named = (
        f"operator {', '.join(operators)} has no ONNX form at opset {opset}"
        if operators
        else "the module cannot be traced"
    )
    return (
        f"stage {name!r}: {named} ({type(root).__name__}: {reason}). Expected static shapes and standard operators; "
        f"rewrite that operation in the model's module, then run: compress export"
    )


def _strip(model: ir.Model) -> None:
    """Remove every note the exporter left: stack traces, paths, documentation strings."""
    for owner in _owners(model):
        owner.metadata_props.clear()
        if hasattr(owner, "doc_string"):
            owner.doc_string = None


def _owners(model: ir.Model) -> Iterator[Any]:
    yield model
    yield model.graph
    yield from model.graph.inputs
    yield from model.graph.initializers.values()
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        yield node
        yield from node.outputs


def _refuse_unportable(model: ir.Model, name: str) -> None:
    if model.functions:
        raise ExportError(
            f"stage {name!r}: found functions {sorted(f[1] for f in model.functions)}, expected plain operators only"
        )
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if node.domain not in STANDARD_DOMAINS or node.op_type in NOT_PORTABLE:
            operator = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
            raise ExportError(
                f"stage {name!r}: operator {operator} runs in few engines; expected standard ONNX operators only"
            )
        for value in node.outputs:
            if value.shape is not None and len(value.shape) > MAX_RANK:
                raise ExportError(
                    f"stage {name!r}: {node.op_type} makes a tensor of {len(value.shape)} axes, engines take {MAX_RANK}"
                )


def _check(path: Path) -> None:
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"{path.name}: the ONNX checker refuses it: {error}") from error


_DTYPES: dict[int, TensorDtype] = {
    onnx.TensorProto.FLOAT: TensorDtype.FLOAT32,
    onnx.TensorProto.INT64: TensorDtype.INT64,
}


def graph_spec(path: Path) -> GraphSpec:
    """Inputs and outputs of an ONNX file, without reading its weights.

    Raises:
        ExportError: a tensor has an element type other than float32 and int64, or a symbolic size.
    """
    graph = onnx.load(str(path), load_external_data=False).graph

    def tensors(values: Any) -> tuple[TensorSpec, ...]:
        return tuple(_tensor(value, path.name) for value in values)

    return GraphSpec(path.name, tensors(graph.input), tensors(graph.output))


def _tensor(value: onnx.ValueInfoProto, where: str) -> TensorSpec:
    kind = value.type.tensor_type
    shape = tuple(axis.dim_value for axis in kind.shape.dim)
    if kind.elem_type not in _DTYPES or any(size < 1 for size in shape):
        found = f"{onnx.TensorProto.DataType.Name(kind.elem_type)} {shape}"
        raise ExportError(f"{where}: {value.name} is {found}, expected float32 or int64 with static sizes")
    return TensorSpec(value.name, _DTYPES[kind.elem_type], shape)
