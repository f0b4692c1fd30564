# SPDX-License-Identifier: Apache-2.0
"""A module that differentiates itself -> one that does the same in plain operators, so that it can be exported.

`torch.export` does not look into `torch.autograd.grad`. Below autograd both passes are ordinary operators: `make_fx`
writes them down there, with the decompositions that leave no backward operator. Attention has to be in its plain form:
the backward operator of the fused one has none in ONNX. Weights keep their names.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._decomp import core_aten_decompositions, get_decompositions
from torch.fx.experimental.proxy_tensor import make_fx

from compress.export.errors import ExportError
from compress.export.exact import HALF


def written_out(name: str, module: nn.Module, arguments: tuple[Any, ...]) -> nn.Module:
    """`module` as it acts on arguments of these shapes, forward and backward written out.

    Args:
        name: of the stage, for messages.
        module: on the CPU, in evaluation mode, no parameter that asks for a gradient.
        arguments: example arguments; tensors, or tuples of tensors.

    Raises:
        ExportError: an operator cannot be differentiated or written down.
    """
    table: dict[Any, Any] = dict(core_aten_decompositions())
    if any(value.dtype in HALF for value in module.parameters()):  # its statistics are float32 in ONNX, not in torch
        table.update(get_decompositions([torch.ops.aten.native_layer_norm.default]))
    try:
        traced = make_fx(module, decomposition_table=table)(*arguments)
    except Exception as error:  # torch raises many unrelated classes here; all mean that there is no backward pass
        reason = str(error).strip().splitlines()[:1]
        raise ExportError(
            f"stage {name!r}: its backward pass cannot be written down ({type(error).__name__}: {''.join(reason)}); "
            "leave export.guided out, or rewrite that operation in the model's module"
        ) from error
    traced.graph.eliminate_dead_code()
    names: dict[int, str] = {}
    for path, value in (*module.named_parameters(), *module.named_buffers()):
        names.setdefault(id(value), path)
    held: dict[str, Tensor] = {}
    for node in traced.graph.nodes:
        if node.op == "get_attr":
            value = getattr(traced, node.target)
            node.target = names.get(id(value), node.target)
            held[node.target] = value
    return fx.GraphModule(held, traced.graph).eval()
