# SPDX-License-Identifier: Apache-2.0
"""A flow policy that goes on from the chunk that is being executed: the guidance of real-time chunking.

Black, Galliker and Levine, arXiv 2506.07339, equations 2 to 4, for a flow that runs from noise (time 0) to actions
(time 1). At time t the network's guess of the whole chunk is x_t + (1 - t) v(x_t). Each step pulls that guess towards
the previous chunk where `previous_weights` says so:

    v + min(beta, (1 - t) / (t r^2)) J^T diag(w) (previous - guess),    r^2 = (1 - t)^2 / (t^2 + (1 - t)^2)

J is the Jacobian of the guess: the backward pass of the network, exactly, not an approximation. Which way a family
counts its time does not matter here: what a step of Euler's method adds is 1 / steps of the velocity towards actions.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from compress.models.flow import FlowSampler, Sampler

BETA = 5.0  # largest weight of the pull, as published


class GuidedSampler(Sampler):
    """`FlowSampler` with two more inputs: the previous chunk and how much each of its rows counts."""

    def __init__(self, sampler: FlowSampler, beta: float = BETA) -> None:
        """Around `sampler`, whose network it shares. Raises ValueError: its steps are not Euler's."""
        super().__init__()
        if not sampler.euler:
            raise ValueError("guidance: found a sampler that is not Euler's method, expected one that is")
        self.sampler, self.beta = sampler, beta
        device = sampler.start.device
        self.register_buffer("left", torch.arange(sampler.steps, 0, -1, device=device).float(), persistent=False)
        self.register_buffer("pull", pulls(sampler.steps, beta).to(device), persistent=False)

    @property
    def tables(self) -> tuple[Tensor, ...]:
        """The sampler's own, steps that are left (steps,), and the share of the pull that a step adds (steps,)."""
        return (*self.sampler.tables, self.get_buffer("left"), self.get_buffer("pull"))

    def begin(self, *inputs: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The inputs of `runtime.contract.graph`, guidance last -> start and context.

        What the robot does not have (padded dimensions, rows behind its horizon) is never pulled.
        """
        *seen, previous, weights = inputs
        chunk, context = self.sampler.begin(*seen)
        rows, dims = chunk.shape[1] - previous.shape[1], chunk.shape[2] - previous.shape[2]
        wanted = F.pad(previous.to(chunk.dtype), (0, dims, 0, rows))
        share = F.pad(weights.to(chunk.dtype)[..., None].expand_as(previous), (0, dims, 0, rows))
        return chunk, (wanted, share, *context)

    def step(self, chunk: Tensor, rows: tuple[Tensor, ...], context: tuple[Tensor, ...]) -> Tensor:
        """One guided step. Without weights it adds zero to the sampler's own."""
        *own, left, pull = rows
        wanted, share, *seen = context
        with torch.enable_grad(), plain_attention():
            here = chunk.detach().requires_grad_(True)
            ahead = self.sampler.step(here, tuple(own), tuple(seen))
            guess = here + left * (ahead - here)
            error = (share * (wanted - guess)).detach()
            (towards,) = torch.autograd.grad(guess, here, error)
        return ahead.detach() + pull * towards

    def finish(self, chunk: Tensor) -> Tensor:
        """As the sampler's."""
        return self.sampler.finish(chunk)

    def forward(
        self, pixels: Tensor, input_ids: Tensor, attention_mask: Tensor, state: Tensor, previous: Tensor,
        weights: Tensor,
    ) -> Tensor:  # fmt: skip
        """Normalised chunk (B, horizon, action_dim).

        Args:
            pixels, input_ids, attention_mask, state: as `runtime.contract.graph` has them.
            previous: what the previous chunk says for the same instants, normalised, (B, horizon, action_dim).
            weights: (B, horizon), 1 for rows that cannot be changed any more, 0 for free ones.
        """
        return self.walk(*self.begin(pixels, input_ids, attention_mask, state, previous, weights))


@contextmanager
def plain_attention() -> Iterator[None]:
    """Attention as two products and a softmax, in the type of its inputs.

    The backward pass of torch's fused attention is wrong for a row that sees nothing: it takes the logarithm of a sum
    that the lowest number has swallowed, and finds weights of 1 instead of 1 / n.
    """
    allowed = torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()  # of every device, whatever its name says
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)  # or half precision is multiplied in float32
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(allowed)


def pulls(steps: int, beta: float) -> Tensor:
    """min(beta, (1 - t) / (t r^2)) / steps at the times t = 0, 1 / steps, ... of Euler's method, (steps,) float32."""
    time = torch.arange(steps, dtype=torch.float64) / steps
    weight = (time.square() + (1.0 - time).square()) / (time * (1.0 - time))  # infinite at 0
    return (weight.clamp(max=beta) / steps).float()
