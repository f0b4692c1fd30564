# SPDX-License-Identifier: Apache-2.0
"""One `ExportStage` -> one ONNX file with its weights beside it: standard operators, opset 20, always the same bytes.

Inputs and outputs are float32 and int64 in every precision, and static unless an open batch was asked for. A flow
policy becomes one graph with a loop (`loop`), anything else one graph as it is traced. What holds after the last
rewrite is what is checked and written; whether it computes what the model computes is `parity`'s to say.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import torch
from onnx_ir.passes.common import RemoveUnusedNodesPass
from torch import Tensor, nn

from compress.export.banned import DYNAMIC, MAX_RANK, STANDARD_DOMAINS
from compress.export.convert import BATCH, IR_VERSION, converted, examples, strip
from compress.export.errors import ExportError
from compress.export.exact import cpu_copy, narrowed
from compress.export.loop import looped
from compress.export.options import GraphOptions
from compress.export.rewrite import legalise, merge_equal_weights
from compress.models.base import ExportStage
from compress.models.flow import Sampler
from runtime.contract.conventions import Precision, TensorDtype
from runtime.contract.graph import GraphSpec, TensorSpec

Rewrite = Callable[[ir.Model], None]
DTYPES = {Precision.FP32: torch.float32, Precision.FP16: torch.float16, Precision.BF16: torch.bfloat16}


@dataclass(frozen=True)
class ExportedGraph:
    """An exported graph on disk.

    Attributes:
        path, data: the graph and its weights, side by side; the graph names `data` by file name.
        spec: names, types and shapes of inputs and outputs, in order; an open batch is 1 here.
        options: what was asked for.
        ir_version, nodes, parameters_bytes: what was written; nodes count those of loop bodies.
        export_s: seconds that the export took.
    """

    path: Path
    data: Path
    spec: GraphSpec
    options: GraphOptions
    ir_version: int
    nodes: int
    parameters_bytes: int
    export_s: float

    @property
    def opset(self) -> int:
        """Of the standard operators."""
        return self.options.opset


class _InPrecision(nn.Module):
    """The casts at the graph's ends."""

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.module, self.dtype = module, dtype

    def forward(self, inputs: tuple[Tensor, ...]) -> Tensor:
        answer: Tensor = self.module(*narrowed(inputs, self.dtype))
        return answer.float()


def export_stage(
    stage: ExportStage, folder: Path, metadata: Mapping[str, str] | None = None, *, options: GraphOptions | None = None,
    rewrite: Rewrite | None = None,
) -> ExportedGraph:  # fmt: skip
    """Write `<stage.name>.onnx` and `<stage.name>.onnx.data` into the existing `folder`.

    Args:
        stage: its module may be on any device and in any mode; a copy on the CPU is exported.
        folder: receives the two files.
        metadata: the graph's whole `metadata_props`, for instance `{LINEAGE_METADATA: lineage_id}`.
        options: float32, loops, batch 1 and opset 20 when None.
        rewrite: changes the graph in memory, before it is checked and written.

    Raises:
        ExportError: an operator cannot be converted or is not portable; it is named.
    """
    chosen, started = options or GraphOptions(), time.perf_counter()
    model = graph_of(stage, chosen, rewrite)
    model.metadata_props.update(metadata or {})
    path, data = folder / f"{stage.name}.onnx", folder / f"{stage.name}.onnx.data"
    ir.save(model, path, external_data=data.name)
    _check(path)
    size = data.stat().st_size if data.exists() else 0
    elapsed, nodes = time.perf_counter() - started, sum(1 for _ in ir.traversal.RecursiveGraphIterator(model.graph))
    return ExportedGraph(path, data, graph_spec(path), chosen, IR_VERSION, nodes, size, elapsed)


def graph_of(stage: ExportStage, options: GraphOptions, rewrite: Rewrite | None = None) -> ir.Model:
    """The graph in memory, after every rewrite, the caller's first. Raises ExportError."""
    dtype, outputs = DTYPES[options.precision], list(stage.output_names)
    if isinstance(stage.module, Sampler) and options.sampler == "loop":
        model = looped(stage.name, stage.module, stage.example_inputs, stage.output_names, options, dtype)
    else:
        module = cpu_copy(stage.module, dtype)
        given, names = examples(stage.example_inputs, options), list(stage.example_inputs)
        if dtype is torch.float32:
            model = converted(stage.name, module, given, names, outputs, options)
        else:
            model = converted(stage.name, _InPrecision(module, dtype).eval(), (given,), names, outputs, options)
            _name_as_in(model, "module.")
    if rewrite is not None:
        rewrite(model)
    merge_equal_weights(model)
    RemoveUnusedNodesPass()(model)
    legalise(model, options.opset)
    strip(model)
    _refuse_unportable(model, stage.name)
    return model


def _name_as_in(model: ir.Model, wrapper: str) -> None:
    """Weights keep the names that they have in the stage's own module."""
    for value in list(model.graph.initializers.values()):
        value.name = str(value.name).removeprefix(wrapper)


def _refuse_unportable(model: ir.Model, name: str) -> None:
    if model.functions:
        raise ExportError(
            f"stage {name!r}: found functions {sorted(f[1] for f in model.functions)}, expected plain operators only"
        )
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if node.domain not in STANDARD_DOMAINS or node.op_type in DYNAMIC:
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
        ExportError: a tensor has an element type other than float32 and int64, or a symbolic size that is not the
            batch in front; that counts as 1.
    """
    graph = onnx.load(str(path), load_external_data=False).graph

    def tensors(values: Any) -> tuple[TensorSpec, ...]:
        return tuple(_tensor(value, path.name) for value in values)

    return GraphSpec(path.name, tensors(graph.input), tensors(graph.output))


def _tensor(value: onnx.ValueInfoProto, where: str) -> TensorSpec:
    kind = value.type.tensor_type
    sizes = list(kind.shape.dim)
    shape = tuple(1 if i == 0 and axis.dim_param == BATCH else axis.dim_value for i, axis in enumerate(sizes))
    if kind.elem_type not in _DTYPES or any(size < 1 for size in shape):
        found = f"{onnx.TensorProto.DataType.Name(kind.elem_type)} {shape}"
        raise ExportError(f"{where}: {value.name} is {found}, expected float32 or int64 with static sizes")
    return TensorSpec(value.name, _DTYPES[kind.elem_type], shape)
