# SPDX-License-Identifier: Apache-2.0
"""Take zeros out of a graph: what a stub adds, what is multiplied by it, and whatever was computed for that alone.

A removed writer adds zeros to the stream. In a graph these are constants, and around them remain additions, the gates
that adaptive norms compute for them (pi0.5: a linear layer per norm and step), and copies of a stream. Removing
them is exact up to the sign of a zero, for weights that are finite. Keys and values that nobody attends to are unused
nodes after that, and go with the norms in front of them.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

SAME_CONTENT = ("Expand", "Reshape", "Unsqueeze", "Squeeze", "Transpose", "Cast", "Identity", "Slice")
FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE)


def skip_zeros(model: ir.Model) -> int:
    """Rewrite `model` in place and remove what is unused then; how many additions of zeros left."""
    zeros, skipped = _Zeros(), 0
    for node in list(ir.traversal.RecursiveGraphIterator(model.graph)):
        if node.op_type in ("Add", "Sub") and node.domain in ("", "ai.onnx"):
            kept = _other(node, zeros)
            if kept is not None:
                ir.convenience.replace_all_uses_with(node.outputs[0], kept)
                skipped += 1
    RemoveUnusedNodesPass()(model)
    return skipped


def _other(node: ir.Node, zeros: _Zeros) -> ir.Value | None:
    """What a sum is without its zeros; None if it has none, or if its output must keep its own name or shape."""
    first, second = node.inputs
    result = node.outputs[0]
    if first is None or second is None or result.is_graph_output():
        return None
    if zeros.has(second):
        kept = first
    elif node.op_type == "Add" and zeros.has(first):
        kept = second
    else:
        return None
    same = kept.shape is not None and kept.shape == result.shape
    return kept if same and kept.dtype == result.dtype else None


class _Zeros:
    """Which values are zero everywhere, looked at once."""

    def __init__(self) -> None:
        self._known: dict[ir.Value, bool] = {}

    def has(self, value: ir.Value) -> bool:
        if value not in self._known:
            self._known[value] = self._look(value)
        return self._known[value]

    def _look(self, value: ir.Value) -> bool:
        node = value.producer()
        if value.const_value is not None and (node is None or node.op_type == "Constant"):
            return value.const_value.dtype in FLOATS and not np.any(value.const_value.numpy())
        if node is None or node.domain not in ("", "ai.onnx"):
            return False
        if node.op_type == "Constant":
            held = node.attributes.get("value")
            return held is not None and held.as_tensor().dtype in FLOATS and not np.any(held.as_tensor().numpy())
        if node.op_type == "ConstantOfShape":
            held = node.attributes.get("value")
            return held is None or (held.as_tensor().dtype in FLOATS and not np.any(held.as_tensor().numpy()))
        inputs = [found for found in node.inputs if found is not None]
        if node.op_type in SAME_CONTENT:
            return self.has(inputs[0])
        return node.op_type == "Mul" and any(self.has(found) for found in inputs)
