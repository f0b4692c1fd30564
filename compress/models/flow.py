# SPDX-License-Identifier: Apache-2.0
"""Flow-matching policies: their noise and time, drawn per sample and reproducibly, and how a chunk is sampled.

A probe compares losses of the same sample before and after a cut, so both must see the same noise: it depends on the
seed and on the sample's id alone, not on the batch it is in, the device or the process.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

TIME_BETA = (1.5, 1.0)  # arXiv 2410.24164: more weight on early (noisy) times
TIME_SCALE, TIME_OFFSET = 0.999, 0.001


def noise_and_time(
    sample_ids: Sequence[str], shape: tuple[int, ...], seed: int, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Standard normal noise (B, *shape) and times (B,) in (0, 1], one draw per (seed, sample id)."""
    draws = [_generator(seed, name) for name in sample_ids]
    times = [TIME_SCALE * draw.beta(*TIME_BETA) + TIME_OFFSET for draw in draws]
    noise = np.stack([draw.standard_normal(shape, dtype=np.float32) for draw in draws])
    return torch.from_numpy(noise).to(device, dtype), torch.tensor(times, dtype=torch.float32, device=device)


def start_noise(shape: tuple[int, ...], seed: int) -> Tensor:
    """Where sampling starts, (*shape): equal for every observation, so that a policy is a function of what it sees."""
    return torch.from_numpy(_generator(seed, "chunk").standard_normal(shape, dtype=np.float32))


def _generator(seed: int, name: str) -> np.random.Generator:
    digest = hashlib.sha256(f"{seed}\0{name}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


class FlowNetwork(Protocol):
    """A network in the two parts that sampling needs, an `nn.Module`."""

    def observe(self, pixels: Tensor, input_ids: Tensor, attention_mask: Tensor, state: Tensor) -> tuple[Tensor, ...]:
        """The inputs of `runtime.contract.graph` -> what every step reads of them, first axes B."""
        ...

    def advance(self, chunk: Tensor, rows: tuple[Tensor, ...], context: tuple[Tensor, ...], share: float) -> Tensor:
        """One step of the sampler.

        Args:
            chunk: noisy actions (B, H, A); they keep their dtype, whatever the weights have.
            rows: this step's row of every table, (1, ...) each.
            context: as `observe` gives it.
            share: this step's part of the whole way, 1 / steps.
        """
        ...


class Sampler(nn.Module):
    """Observation -> normalised chunk, in the parts of which both forms of the exported graph are made.

    `forward` as it stands, every step with its own copy of the nodes; or `begin`, `step` and `finish` as three graphs,
    the second of them the body of a loop.
    """

    @property
    @abstractmethod
    def tables(self) -> tuple[Tensor, ...]:
        """What differs between steps, (steps, ...) each."""

    @abstractmethod
    def begin(self, *inputs: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The graph's inputs -> start (B, H, A), and context: what every step reads."""

    @abstractmethod
    def step(self, chunk: Tensor, rows: tuple[Tensor, ...], context: tuple[Tensor, ...]) -> Tensor:
        """One step of the sampler; `rows` are its own of every table, (1, ...) each."""

    @abstractmethod
    def finish(self, chunk: Tensor) -> Tensor:
        """(B, H, A) -> the robot's part (B, horizon, action_dim)."""

    def walk(self, chunk: Tensor, context: tuple[Tensor, ...]) -> Tensor:
        """Every step, then the end."""
        for rows in zip(*(table.split(1) for table in self.tables), strict=True):
            chunk = self.step(chunk, rows, context)
        return self.finish(chunk)


class FlowSampler(Sampler):
    """The prefix once, then every step, always from the same noise."""

    start: Tensor

    def __init__(
        self, network: FlowNetwork, start: Tensor, tables: Sequence[Tensor], *, horizon: int, action_dim: int,
        clip: bool = False, euler: bool = True,
    ) -> None:  # fmt: skip
        """A sampler around a live network.

        Args:
            network: shared, not copied.
            start: noise (H, A), where sampling starts.
            tables: (steps, ...) each: what differs between steps, above all features of the flow's time. They are
                computed here once and for all, because an engine's own sines and exponentials are less exact.
            horizon, action_dim: the robot's part of H and A, cut out at the end.
            clip: cut the result to -1..1.
            euler: a step adds `1 / steps` of the velocity from noise to actions; other samplers cannot be guided.
        """
        super().__init__()
        self.network = cast(nn.Module, network)
        self.horizon, self.action_dim, self.clip, self.euler = horizon, action_dim, clip, euler
        self.steps, self.width = len(tables[0]), len(tables)
        self.register_buffer("start", start, persistent=False)
        for number, table in enumerate(tables):
            self.register_buffer(f"table{number}", table.to(start.device), persistent=False)

    @property
    def tables(self) -> tuple[Tensor, ...]:
        """As given."""
        return tuple(self.get_buffer(f"table{number}") for number in range(self.width))

    def begin(self, *inputs: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The inputs of `runtime.contract.graph`, without guidance -> start (B, H, A) and context."""
        pixels, input_ids, attention_mask, state = inputs
        context = cast(FlowNetwork, self.network).observe(pixels, input_ids, attention_mask, state)
        return self.start.expand(pixels.shape[0], -1, -1), context

    def step(self, chunk: Tensor, rows: tuple[Tensor, ...], context: tuple[Tensor, ...]) -> Tensor:
        """One step, see `FlowNetwork.advance`."""
        return cast(FlowNetwork, self.network).advance(chunk, rows, context, 1.0 / self.steps)

    def finish(self, chunk: Tensor) -> Tensor:
        """Cut out, and limited where asked."""
        found = chunk[:, : self.horizon, : self.action_dim]
        return found.clamp(-1.0, 1.0) if self.clip else found

    def forward(self, pixels: Tensor, input_ids: Tensor, attention_mask: Tensor, state: Tensor) -> Tensor:
        """The inputs of `runtime.contract.graph` -> (B, horizon, action_dim)."""
        return self.walk(*self.begin(pixels, input_ids, attention_mask, state))


def pairs(tensors: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """(k0, v0, k1, v1, ...) -> [(k0, v0), (k1, v1), ...]."""
    return list(zip(tensors[::2], tensors[1::2], strict=True))
