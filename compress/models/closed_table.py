# SPDX-License-Identifier: Apache-2.0
"""A token table that holds the rows of a closed list of tokens only, and answers NaN for any other."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn


def sharing_copy(module: nn.Module) -> nn.Module:
    """A copy whose structure is its own and whose parameters and buffers are the original's: costs no memory."""
    return copy.deepcopy(module, {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())})


class ClosedTable(nn.Module):
    """Stands in for an `nn.Embedding` (also one that scales); ids are those of the whole vocabulary.

    What does not belong to the list becomes NaN, which attention carries into every action, and which no runtime lets
    pass; a wrong row can never be read in silence. The NaN is made in the graph, so that the weights stay finite.
    """

    row_of: Tensor

    def __init__(self, table: nn.Embedding, kept: Iterable[int]) -> None:
        """Rows `kept` of `table`, which stays as it is."""
        super().__init__()
        rows = torch.tensor(sorted(set(kept)), dtype=torch.int64, device=table.weight.device)
        small = sharing_copy(table)
        if not isinstance(small, nn.Embedding):
            raise TypeError(f"found {type(small).__name__}, expected an Embedding")
        small.weight = nn.Parameter(table.weight.detach()[rows], requires_grad=False)
        small.num_embeddings, small.padding_idx = len(rows), None
        self.table = small
        row_of = torch.full((table.num_embeddings,), -1, dtype=torch.int32, device=rows.device)
        row_of[rows] = torch.arange(len(rows), dtype=torch.int32, device=rows.device)
        self.register_buffer("row_of", row_of, persistent=False)

    @property
    def weight(self) -> Tensor:
        """The rows that are left; some networks ask for its dtype."""
        return self.table.weight

    def forward(self, input_ids: Tensor) -> Tensor:
        """Ids (...) of the whole vocabulary -> (..., W)."""
        row = self.row_of[input_ids].long()
        found: Tensor = self.table(row.clamp(min=0))
        return found.masked_fill((row < 0).unsqueeze(-1), float("nan"))
