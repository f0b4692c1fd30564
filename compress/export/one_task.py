# SPDX-License-Identifier: Apache-2.0
"""For a list of exactly one task: the prompt becomes a constant of the graph, and its padding leaves.

Ids, mask, embedding, positions and whatever else follows from the prompt alone are then known when the graph is
written. Rows of padding are seen by nobody, so a network that says the same without them is not given them: that is
what saves time. The inputs stay, and any other prompt makes every action NaN, which no runtime lets pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import onnx_ir as ir
import torch
from onnx_ir.passes.common import RemoveUnusedNodesPass
from onnxscript.optimizer import fold_constants
from torch import Tensor, nn

from compress.export.exact import cpu_copy, forward_float32
from compress.export.quiet import quiet
from compress.models.flow import FlowNetwork, FlowSampler
from runtime.contract.graph import ATTENTION_MASK, INPUT_IDS
from runtime.contract.spec import PromptSpec
from runtime.inference.tokenizer import PromptTokenizer

SAME = 1e-4  # relative difference without padding, in float32; a shifted position is far above, rounding below
LARGEST = 1 << 18  # elements of a constant that is computed in advance
WRAPPER = "told_network."


class Told(nn.Module):
    """The prompt as constants."""

    ids: Tensor
    mask: Tensor

    def __init__(self, ids: Tensor, mask: Tensor, length: int) -> None:
        """Ids and mask (1, T), of which the network is given the first `length`."""
        super().__init__()
        self.register_buffer("ids", ids, persistent=False)
        self.register_buffer("mask", mask, persistent=False)
        self.length, self.real = length, int(mask.sum())

    def inputs(self, batch: int) -> tuple[Tensor, Tensor]:
        """Ids and mask, (batch, length) each."""
        return tuple(value[:, : self.length].expand(batch, -1) for value in (self.ids, self.mask))  # type: ignore[return-value]

    def refuse(self, answer: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """`answer` (B, ...), NaN where the prompt is another; what lies below the padding does not count."""
        words = (input_ids == self.ids)[:, : self.real].all(dim=1)
        known = words & (attention_mask == self.mask).all(dim=1)
        return answer.masked_fill(~known.view(-1, *[1] * (answer.dim() - 1)), float("nan"))


class OneTask(nn.Module):
    """A network of one pass that is told its prompt."""

    def __init__(self, network: nn.Module, told: Told) -> None:
        """Around `network`, whose weights it shares."""
        super().__init__()
        self.told_network, self.told = network, told

    def forward(self, pixels: Tensor, input_ids: Tensor, attention_mask: Tensor, state: Tensor) -> Tensor:
        """As the network's own; NaN for any other prompt."""
        answer: Tensor = self.told_network(pixels, *self.told.inputs(pixels.shape[0]), state)
        return self.told.refuse(answer, input_ids, attention_mask)


class OneTaskSampler(FlowSampler):
    """A sampler whose prefix is told its prompt; every chunk starts from NaN where the prompt is another."""

    def __init__(self, sampler: FlowSampler, told: Told) -> None:
        """Of `sampler`, whose network and tables it shares."""
        super().__init__(
            cast(FlowNetwork, sampler.network), sampler.start, sampler.tables, horizon=sampler.horizon,
            action_dim=sampler.action_dim, clip=sampler.clip, euler=sampler.euler,
        )  # fmt: skip
        self.told = told

    def begin(self, *inputs: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """As `FlowSampler`, with the prompt that was told."""
        pixels, input_ids, attention_mask, state = inputs
        chunk, context = super().begin(pixels, *self.told.inputs(pixels.shape[0]), state)
        return self.told.refuse(chunk, input_ids, attention_mask), context


def fold(
    module: nn.Module, example: Mapping[str, Tensor], tokenizer: bytes, prompt: PromptSpec
) -> tuple[nn.Module, str]:
    """`module` with the prompt of its one task inside, and what that did; as it is where the prompt carries the state.

    Args:
        module: of an export stage; it is not copied.
        example: the stage's inputs.
        tokenizer: bytes of `tokenizer.json`.
        prompt: with a list of one task.
    """
    if prompt.needs_state:
        return module, ""
    (task,) = prompt.tasks or ()
    device = next(module.parameters()).device
    ids, mask = (torch.from_numpy(v.copy()).to(device) for v in PromptTokenizer(tokenizer, prompt).encode(task))
    real, whole = int(mask.sum()), ids.shape[1]
    if real < whole and _says_the_same(module, example, ids, mask, real):
        return _told(module, Told(ids, mask, real)), f"{real} prompt tokens are constants, {whole - real} of padding go"
    return _told(module, Told(ids, mask, whole)), f"{whole} prompt tokens are constants, padding among them"


def _told(module: nn.Module, told: Told) -> nn.Module:
    made = OneTaskSampler(module, told) if isinstance(module, FlowSampler) else OneTask(module, told)
    return made.train(module.training)


def _says_the_same(module: nn.Module, example: Mapping[str, Tensor], ids: Tensor, mask: Tensor, real: int) -> bool:
    """Whether the network can do without padding. Parity proves the graph; this only chooses its form."""
    plain = cpu_copy(module, torch.float32)
    given = {name: value.detach().cpu() for name, value in example.items()}
    ids, mask = ids.cpu(), mask.cpu()
    padded = forward_float32(plain, list({**given, INPUT_IDS: ids, ATTENTION_MASK: mask}.values()))
    try:
        short = {**given, INPUT_IDS: ids[:, :real], ATTENTION_MASK: mask[:, :real]}
        found = forward_float32(plain, list(short.values()))
    except (RuntimeError, ValueError, IndexError):  # it wants prompts of one length
        return False
    return bool(torch.linalg.vector_norm(found - padded) <= SAME * torch.linalg.vector_norm(padded))


def fold_graph(model: ir.Model) -> None:
    """Compute in advance what follows from the prompt alone, in place; weights get the names they had."""
    for value in list(model.graph.initializers.values()):
        value.name = str(value.name).removeprefix(WRAPPER)
    with quiet():
        fold_constants(model, should_fold=_small, output_size_limit=LARGEST)
    RemoveUnusedNodesPass()(model)


def _small(node: ir.Node) -> bool:
    """Whether all that a node makes is known to be small."""
    shapes = [value.shape for value in node.outputs]
    return all(shape is not None and shape.is_static() and _count(shape) <= LARGEST for shape in shapes)


def _count(shape: ir.Shape) -> int:
    total = 1
    for size in shape.numpy():
        total *= int(size)
    return total
