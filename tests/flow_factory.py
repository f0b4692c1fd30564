# SPDX-License-Identifier: Apache-2.0
"""A flow policy of two blocks with real keys and values, small enough to export in two seconds, and its observations.

Its blocks have different numbers of heads, as after pruning. `Defect` plants what the gates must find.
"""

from __future__ import annotations

import functools
import math
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from family_cases import samples_for, tiny_io
from torch import Tensor, nn
from torch.nn import functional as F

from compress.export import parity
from compress.export.onnx_export import ExportedGraph, export_stage
from compress.export.options import GraphOptions
from compress.models.base import ExportStage, VlaModel
from compress.models.flow import FlowSampler, pairs, start_noise

WIDTH, HEADS, ACTIONS, STEPS = 32, (4, 1), 10, 5
SHORTEST, LONGEST = 4e-3, 4.0  # periods of the features of time, as SmolVLA has them
IO = tiny_io()
Inputs = dict[str, Tensor]


class Defect(Enum):
    """What is wrong with the network."""

    NONE = "none"
    TIME_IN_GRAPH = "its features of time are computed while sampling, in float64 as LeRobot computes them"
    MIXES_BATCH = "an answer depends on what else is in the batch"


class Flow(nn.Module):
    """In the parts of `compress.models.flow.FlowNetwork`."""

    def __init__(self, defect: Defect = Defect.NONE) -> None:
        super().__init__()
        self.defect = defect
        self.see = nn.Conv2d(3, WIDTH, 14, stride=14)
        self.words, self.state = nn.Embedding(512, WIDTH), nn.Linear(8, WIDTH)
        self.keys = nn.ModuleList(nn.Linear(WIDTH, heads * 8) for heads in HEADS)
        self.values = nn.ModuleList(nn.Linear(WIDTH, heads * 8) for heads in HEADS)
        self.queries = nn.ModuleList(nn.Linear(WIDTH, heads * 8) for heads in HEADS)
        self.writers = nn.ModuleList(nn.Linear(heads * 8, WIDTH) for heads in HEADS)
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in HEADS)
        self.enter, self.time, self.leave = (
            nn.Linear(ACTIONS, WIDTH),
            nn.Linear(WIDTH, WIDTH),
            nn.Linear(WIDTH, ACTIONS),
        )

    def observe(self, pixels: Tensor, input_ids: Tensor, attention_mask: Tensor, state: Tensor) -> tuple[Tensor, ...]:
        """Which tokens are real, then keys and values of both blocks."""
        batch = pixels.shape[0]
        seen = self.see(pixels.flatten(0, 1)).flatten(2).transpose(1, 2).reshape(batch, -1, WIDTH)
        tokens = torch.cat([seen, self.state(state)[:, None], self.words(input_ids)], dim=1)
        real = torch.cat([attention_mask.new_ones(batch, seen.shape[1] + 1), attention_mask], dim=1).bool()
        kept = [
            layer(tokens).unflatten(-1, (-1, 8)).transpose(1, 2)
            for block in zip(self.keys, self.values, strict=True)
            for layer in block
        ]
        return (real, *kept)

    def advance(self, chunk: Tensor, rows: tuple[Tensor, ...], context: tuple[Tensor, ...], share: float) -> Tensor:
        """One step of Euler's method."""
        real, *kept = context
        kind = self.enter.weight.dtype
        features = waves(rows[0][:, 0]) if self.defect is Defect.TIME_IN_GRAPH else rows[0]
        hidden = self.enter(chunk.to(kind)) + self.time(features.to(kind))[:, None]
        if self.defect is Defect.MIXES_BATCH:
            hidden = hidden + 0.01 * (hidden.mean(0, keepdim=True) - hidden)
        mask = torch.zeros_like(real, dtype=kind).masked_fill(~real, torch.finfo(kind).min)[:, None, None, :]
        for norm, query, writer, (k, v) in zip(self.norms, self.queries, self.writers, pairs(kept), strict=True):
            asked = query(norm(hidden)).unflatten(-1, (-1, 8)).transpose(1, 2)
            mixed = F.scaled_dot_product_attention(asked, k, v, attn_mask=mask)
            hidden = hidden + writer(mixed.transpose(1, 2).flatten(2))
        return chunk - self.leave(hidden).to(chunk.dtype) * share


def waves(times: Tensor) -> Tensor:
    """Features (N, WIDTH) float32 of times (N,), computed in float64."""
    places = torch.linspace(0.0, 1.0, WIDTH // 2, dtype=torch.float64, device=times.device)
    angles = times.double()[:, None] * (2.0 * math.pi / (SHORTEST * (LONGEST / SHORTEST) ** places))
    return torch.cat([angles.sin(), angles.cos()], dim=-1).float()


def stage(defect: Defect = Defect.NONE) -> ExportStage:
    """With weights that make every input matter."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Flow(defect).eval()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape))
    times = torch.tensor([1.0 - number / STEPS for number in range(STEPS)])
    table = times[:, None] if defect is Defect.TIME_IN_GRAPH else waves(times)
    sampler = FlowSampler(network, start_noise((IO.action.horizon, ACTIONS), 0), (table,), horizon=4, action_dim=7)
    return ExportStage("policy", sampler, IO.example_inputs(), ("actions",))


def export(folder: Path, options: GraphOptions, defect: Defect = Defect.NONE) -> ExportedGraph:
    """Into a new folder."""
    folder.mkdir(parents=True)
    return export_stage(stage(defect), folder, options=options)


@functools.cache
def observations() -> dict[str, Inputs]:
    """Eight, and their padding variants."""
    holder = cast(VlaModel, SimpleNamespace(specs=IO.specs))
    collated = [(s.sample_id, dict(IO.collate([s]).inputs)) for s in samples_for(holder, 8)]
    return {name: dict(inputs) for name, inputs in parity.observations(collated).items()}


def check(graph: ExportedGraph, defect: Defect = Defect.NONE, **terms: Any) -> parity.ParityReport:
    """The gate on an exported file, with the network that it was made of."""
    return parity.check(
        stage(defect), graph.path, graph.spec, observations(), IO.action, IO.normalizers.action,
        **{"options": graph.options, **terms},
    )  # fmt: skip
