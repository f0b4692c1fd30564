# SPDX-License-Identifier: Apache-2.0
"""For a closed list of tasks: which tokens their prompts can hold, and the token table cut down to those.

Every prompt of the list is tokenised by the robot's own code. Where the prompt carries the state (pi0.5), any bin may
stand at any place: kept are all tokens that are made of digits, spaces and signs alone, which covers what lies inside
the numbers, and those of every first and every last number beside the template's own text, which covers both ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from compress.export.errors import ExportError
from compress.models.base import ExportStage
from compress.models.closed_table import ClosedTable
from runtime.contract.graph import INPUT_IDS
from runtime.contract.spec import STATE_FIELD, PromptSpec
from runtime.inference.tokenizer import PromptTokenizer

OF_NUMBERS = frozenset("0123456789 -\u2581")


def token_ids(tokenizer: bytes, prompt: PromptSpec, state_dim: int) -> set[int]:
    """Every id that a prompt of `prompt.tasks` can hold, padding included.

    Args:
        tokenizer: bytes of `tokenizer.json`.
        prompt: with a list of tasks.
        state_dim: S, where the prompt carries the state.

    Raises:
        ExportError: there is no list of tasks.
        ObservationError: a task's prompt is too long.
    """
    if prompt.tasks is None:
        raise ExportError("tasks: found none, expected the closed list of instructions; set export.tasks")
    reader = PromptTokenizer(tokenizer, prompt)
    found = {prompt.pad_id}
    for task in prompt.tasks:
        for state in _states(prompt, state_dim):
            found.update(reader.encode(task, state)[0].ravel().tolist())
    if prompt.needs_state:
        found.update(n for n, text in enumerate(reader.texts()) if set(text) <= OF_NUMBERS)
    return found


def _states(prompt: PromptSpec, dim: int) -> Iterator[np.ndarray | None]:
    """Where the state is in the prompt: every bin in front, and every bin at the end."""
    field = STATE_FIELD.search(prompt.template)
    if field is None:
        yield None
        return
    bins = int(field[1])
    for number in range(-1, bins):
        value = -1.5 if number < 0 else (number + 0.5) * 2.0 / bins - 1.0
        for place in {0, dim - 1}:
            state = np.zeros(dim)
            state[place] = value
            yield state


def close(stage: ExportStage, module: nn.Module, kept: set[int]) -> str:
    """Put a `ClosedTable` where `module`, a copy of the stage's, looks up its prompt, in place; says what it did.

    Ids that the network itself asks the table for (suffixes, stop tokens) are kept too.

    Raises:
        ExportError: not exactly one table is asked for the prompt, or a token is outside it.
    """
    name, own = _table_of(stage, module)
    table = module.get_submodule(name)
    if not isinstance(table, nn.Embedding) or max(kept | own) >= table.num_embeddings:
        raise ExportError(f"tasks: token {max(kept | own)} is outside the table {name}; is the tokenizer another's?")
    small = ClosedTable(table, kept | own)
    for owner in list(module.modules()):
        for child, found in list(owner.named_children()):
            if found is table:
                setattr(owner, child, small)
    return f"{name}: {len(kept | own)} of {table.num_embeddings} token rows"


def _table_of(stage: ExportStage, module: nn.Module) -> tuple[str, set[int]]:
    """The table that is asked for the prompt, and what else it is asked for; found by running `module` once."""
    device = next(module.parameters()).device
    inputs = {name: value.to(device) for name, value in stage.example_inputs.items()}
    prompts: set[str] = set()
    asked: dict[str, set[int]] = {}

    def hook_for(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            if given[0].data_ptr() == inputs[INPUT_IDS].data_ptr():
                prompts.add(name)
            else:
                asked.setdefault(name, set()).update(given[0].flatten().tolist())

        return hook

    tables = [(name, found) for name, found in module.named_modules() if isinstance(found, nn.Embedding)]
    handles = [found.register_forward_pre_hook(hook_for(name)) for name, found in tables]
    try:
        with torch.no_grad():
            module(*inputs.values())
    finally:
        for handle in handles:
            handle.remove()
    if len(prompts) != 1:
        raise ExportError(
            f"tasks: {sorted(prompts)} are asked for the prompt, expected exactly one token table of "
            f"{[name for name, _ in tables]}; export without `export.tasks`"
        )
    (name,) = prompts
    return name, asked.get(name, set())
