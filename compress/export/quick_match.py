# SPDX-License-Identifier: Apache-2.0
"""ONNX's graph rewriter without a search that grows with the square of the graph.

For a pattern with several outputs onnxscript 0.7 lists the whole graph anew for every node, before it looks at whether
that node could be the pattern's first output at all; one default rule is of this kind (two `Slice` that become a
`Split`). While `quick_match` is open that question comes first, for every rule. What is found, and with it the graph,
is the same to the byte.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def quick_match() -> Iterator[None]:
    """Inside, nodes that cannot be a pattern's first output are refused at once; another onnxscript stays as it is."""
    try:
        from onnxscript.rewriter._basics import MatchResult
        from onnxscript.rewriter._matcher import SimplePatternMatcher
    except ImportError:
        yield
        return
    library: Any = SimplePatternMatcher
    whole = library.match

    def match(self: Any, model: Any, graph: Any, node: Any, **options: Any) -> Any:
        wanted = self.pattern.output_nodes[0].op_identifier()  # None: the pattern takes several operators
        if wanted is not None and wanted[:2] != (node.domain, node.op_type):
            return MatchResult().fail("not the pattern's first output")
        return whole(self, model, graph, node, **options)

    library.match = match
    try:
        yield
    finally:
        library.match = whole
