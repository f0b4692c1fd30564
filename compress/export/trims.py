# SPDX-License-Identifier: Apache-2.0
"""Exact trims of what is exported: the same numbers from less work. Each can be left out, each says what it saved.

    rows    the last language attention computes the rows that are read, nothing behind it any others
    kv      keys and values that nobody attends to, zeros that stubs add, and what was computed for them alone
    tasks   the token table of a closed list of tasks
    prompt  of a list of one task: the prompt is a constant, and its padding leaves

They act on a copy of the stage's structure that shares its weights: the model, its loss, its probes and its checkpoint
stay as they are, and the parity gate judges the final graph against the untrimmed model in float64.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from compress.costs import CPU_ATTENTION
from compress.export.closed_tasks import close, token_ids
from compress.export.errors import ExportError
from compress.export.one_task import fold, fold_graph
from compress.export.work import count_model, stored_bytes
from compress.export.zeros import skip_zeros
from compress.models.base import ExportStage
from compress.models.closed_table import sharing_copy
from compress.models.rows import narrow
from runtime.contract.spec import PromptSpec

ALWAYS = ("rows", "kv")
Rewrite = Callable[[ir.Model], None]


@dataclass(frozen=True)
class TrimSpec:
    """Which trims.

    Attributes:
        names: of `ALWAYS`.
        tasks: the closed list of instructions; empty leaves the token table whole.
    """

    names: tuple[str, ...] = ALWAYS
    tasks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        unknown = sorted(set(self.names) - set(ALWAYS))
        if unknown:
            raise ExportError(f"trims: found {unknown}, expected some of {list(ALWAYS)}")


@dataclass(frozen=True)
class Cost:
    """Of one inference: bytes of weights, FLOPs of matrix products (None: they cannot be counted)."""

    bytes: int
    flops: int | None


@dataclass(frozen=True)
class Saved:
    """One trim.

    Attributes:
        name: of the trim.
        what: it did, in words; empty if there was nothing to do.
        before, after: it alone, the others in front of it done; of the module, for `kv` of the graph.
    """

    name: str
    what: tuple[str, ...]
    before: Cost
    after: Cost

    def describe(self) -> str:
        """One line for people."""
        if not self.what:
            return f"trim {self.name}: nothing to do"
        share = (
            f", FLOPs -{1 - self.after.flops / self.before.flops:.2%}" if self.before.flops and self.after.flops else ""
        )
        saved = (self.before.bytes - self.after.bytes) / 1e6
        return f"trim {self.name}: {'; '.join(self.what)}; weights -{saved:.2f} MB{share}"


@dataclass
class Trimmed:
    """A stage with trims done, and those that are done to its graph.

    Attributes:
        stage: to export instead of the model's own.
        prompt: what the artifact says of instructions: closed if the token table is.
        saved: grows when the graph is rewritten.
    """

    stage: ExportStage
    prompt: PromptSpec
    spec: TrimSpec
    saved: list[Saved] = field(default_factory=list)

    @property
    def told(self) -> bool:
        """Whether the prompt is a constant inside: any other makes NaN."""
        return any(saved.name == "prompt" and saved.what for saved in self.saved)

    def rewrite(self, model: ir.Model) -> None:
        """For the exporter, before anything is checked: the trims of the graph, in place."""
        if self.told:
            fold_graph(model)
        if "kv" not in self.spec.names:
            return
        before, nodes = _of_graph(model), _nodes(model)
        skipped = skip_zeros(model)
        gone = nodes - _nodes(model)
        what = (f"{skipped} additions of zeros, {gone} nodes in all",) if gone else ()
        self.saved.append(Saved("kv", what, before, _of_graph(model)))

    def to_json(self) -> dict[str, Any]:
        """Plain data for `evidence/trims.json`."""
        return {
            "schema": "dropgate.trims/1",
            "asked": {"trims": list(self.spec.names), "tasks": list(self.spec.tasks)},
            "trims": [asdict(saved) for saved in self.saved],
        }


def trimmed(stage: ExportStage, specs: Mapping[str, Any], tokenizer: bytes, spec: TrimSpec | None = None) -> Trimmed:
    """Do the trims that act on the module.

    Args:
        stage: the model's own; left as it is.
        specs: as `VlaModel.specs` gives them.
        tokenizer: bytes of `tokenizer.json`.
        spec: which trims; what is always exact when None.

    Raises:
        ExportError: a trim does not fit the network.
    """
    chosen, prompt = spec or TrimSpec(), specs["prompt"]
    module = sharing_copy(stage.module)
    saved: list[Saved] = []

    def done(name: str, change: Callable[[], tuple[str, ...]]) -> None:
        before = module_cost(module, stage.example_inputs)
        what = change()
        saved.append(Saved(name, what, before, module_cost(module, stage.example_inputs) if what else before))

    if "rows" in chosen.names:
        done("rows", lambda: tuple(narrow(module)))
    if chosen.tasks:
        prompt = replace(prompt, tasks=chosen.tasks)
        kept = token_ids(tokenizer, prompt, specs["observation"].state.dim)
        done("tasks", lambda: (close(stage, module, kept),))
    if len(chosen.tasks) == 1:
        before = module_cost(module, stage.example_inputs)
        module, what = fold(module, stage.example_inputs, tokenizer, prompt)
        saved.append(Saved("prompt", (what,) if what else (), before, module_cost(module, stage.example_inputs)))
    return Trimmed(replace(stage, module=module), prompt, chosen, saved)


def module_cost(module: nn.Module, example: Mapping[str, Tensor]) -> Cost:
    """Counted on torch's meta device: nothing is computed, so published sizes cost as little as tiny ones."""
    tensors = (*module.parameters(), *module.buffers())
    ghost = copy.deepcopy(module, {id(tensor): tensor.to("meta") for tensor in tensors})
    distinct = {id(parameter): parameter for parameter in module.parameters()}.values()
    size = sum(parameter.numel() * parameter.element_size() for parameter in distinct)
    try:
        with (
            torch.no_grad(), torch.device("meta"),
            FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter,
        ):  # fmt: skip
            ghost(*(value.to("meta") for value in example.values()))
    except (RuntimeError, NotImplementedError):  # an operator that has to see numbers
        return Cost(size, None)
    return Cost(size, int(counter.get_total_flops()))


def _of_graph(model: ir.Model) -> Cost:
    try:
        return Cost(stored_bytes(model), count_model(model).flops)
    except ExportError:  # an open batch
        return Cost(stored_bytes(model), None)


def _nodes(model: ir.Model) -> int:
    return sum(1 for _ in ir.traversal.RecursiveGraphIterator(model.graph))
