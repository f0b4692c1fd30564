# SPDX-License-Identifier: Apache-2.0
"""One torch module -> one graph in memory, or a refusal in one line that names the operator.

Chosen: `torch.onnx.export(dynamo=True)` at opset 20 (native GELU, no `Attention` node, whose float32 form TensorRT
cannot build). Rejected: the TorchScript exporter, which fails on most stock VLA modules.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn

from compress.export.errors import ExportError
from compress.export.options import GraphOptions
from compress.export.quick_match import quick_match
from compress.export.quiet import quiet

IR_VERSION = 10
BATCH = "batch"  # name of an open first axis
TRACED_BATCH = 2  # of examples where the batch is open: torch takes sizes 0 and 1 for constants
OPERATOR = re.compile(r"\b(?:aten|prims|prim|torchvision|quantized)(?:\.|::)[A-Za-z0-9_]+")


def converted(
    name: str, module: nn.Module, arguments: tuple[Any, ...], inputs: Sequence[str], outputs: Sequence[str],
    options: GraphOptions, fixed: Sequence[str] = (),
) -> ir.Model:  # fmt: skip
    """Trace `module`, on the CPU and in evaluation mode, and clear every note that the exporter leaves.

    Args:
        name: of the stage, for messages.
        arguments: example arguments; tensors, or tuples of tensors.
        inputs, outputs: names, in the order of the flattened arguments and answers.
        options: batch and opset; precision is the module's own.
        fixed: inputs whose first axis is not the batch.

    Raises:
        ExportError: an operator has no ONNX form, or the module cannot be traced.
    """
    names = iter(inputs)
    shapes = tuple(_shapes(value, names, set(fixed)) for value in arguments) if options.dynamic else None
    try:
        with quiet(), quick_match(), torch.no_grad():
            program = torch.onnx.export(
                module,
                arguments,
                input_names=list(inputs),
                output_names=list(outputs),
                opset_version=options.opset,
                dynamic_shapes=shapes,
                dynamo=True,
                optimize=True,
                verbose=False,
            )
    except Exception as error:  # torch raises many unrelated classes here; all mean that there is no graph
        raise ExportError(_explain(name, error, options.opset)) from error
    if program is None:
        raise ExportError(f"stage {name!r}: torch.onnx.export returned no program; expected one with dynamo=True")
    model = program.model
    model.ir_version = IR_VERSION
    found = model.opset_imports.get("")
    if found != options.opset:
        raise ExportError(
            f"stage {name!r}: found opset {found} after conversion, expected {options.opset}; "
            "check the onnxscript version"
        )
    strip(model)
    return model


def _shapes(value: Any, names: Iterator[str], fixed: set[str]) -> Any:
    if isinstance(value, tuple):
        return tuple(_shapes(item, names, fixed) for item in value)
    return {} if next(names) in fixed else {0: torch.export.Dim(BATCH)}


def examples(inputs: Mapping[str, Tensor], options: GraphOptions) -> tuple[Tensor, ...]:
    """A stage's example inputs on the CPU, in the batch that is traced."""
    kept = (value.detach().cpu() for value in inputs.values())
    if not options.dynamic:
        return tuple(kept)
    return tuple(value.expand(TRACED_BATCH, *value.shape[1:]).contiguous() for value in kept)


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


def strip(model: ir.Model) -> None:
    """Remove every note: stack traces with absolute paths (58 % of a tiny file), documentation strings."""
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
