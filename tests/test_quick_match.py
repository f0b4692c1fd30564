# SPDX-License-Identifier: Apache-2.0
"""The rewriter finds what it found before, to the byte, and looks at fewer nodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxscript.rewriter import rewrite
from onnxscript.rewriter._matcher import SimplePatternMatcher

from compress.export.quick_match import quick_match

BLOCKS = 12


def rotations(blocks: int = BLOCKS) -> onnx.ModelProto:
    """As rotary embeddings are traced: halves by two slices, one of them negated; and what other rules take away."""
    constants = {"zero": [0], "half": [4], "end": [8], "axis": [1], "shape": [1, 8]}
    numbers = {"one": np.float32(1.0), "nothing": np.float32(0.0)}
    arrays = {name: np.array(value) for name, value in {**constants, **numbers}.items()}
    weights = [numpy_helper.from_array(value, name) for name, value in arrays.items()]
    nodes, last = [], "x"
    for number in range(blocks):
        low, high, turned, joined, shaped, kept, out = (f"{name}{number}" for name in "abcdefg")
        nodes += [
            helper.make_node("Slice", [last, "half", "end", "axis"], [high]),  # in this order the rule sees them
            helper.make_node("Slice", [last, "zero", "half", "axis"], [low]),
            helper.make_node("Neg", [high], [turned]),
            helper.make_node("Concat", [turned, low], [joined], axis=-1),
            helper.make_node("Reshape", [joined, "shape"], [shaped]),
            helper.make_node("Mul", [shaped, "one"], [kept]),
            helper.make_node("Add", [kept, "nothing"], [out]),
        ]
        last = out
    sizes = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8]) for name in ("x", last)]
    graph = helper.make_graph(nodes, "rotations", sizes[:1], sizes[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


def counted(patch: pytest.MonkeyPatch) -> Counter[str]:
    """How often the library's own matcher runs, by operator."""
    seen: Counter[str] = Counter()
    whole: Callable[..., Any] = SimplePatternMatcher.match

    def match(self: Any, model: Any, graph: Any, node: Any, **options: Any) -> Any:
        seen[node.op_type] += 1
        return whole(self, model, graph, node, **options)

    patch.setattr(SimplePatternMatcher, "match", match)
    return seen


def test_the_rewritten_graph_is_the_same_to_the_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = counted(monkeypatch)
    plain = rewrite(rotations())
    tried = sum(seen.values())
    seen.clear()
    with quick_match():
        quick = rewrite(rotations())
    assert quick.SerializeToString() == plain.SerializeToString()
    found = Counter(node.op_type for node in plain.graph.node)
    assert found["Split"] == BLOCKS, "the rule with two outputs is at work"
    assert not {"Slice", "Mul", "Add"} & set(found), "and so are others"
    assert 0 < sum(seen.values()) < tried / 5


def test_the_library_is_left_as_it_was_also_after_an_error() -> None:
    before, inside = SimplePatternMatcher.match, []

    def fail() -> None:
        with quick_match():
            inside.append(SimplePatternMatcher.match)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert inside[0] is not before
    assert SimplePatternMatcher.match is before
