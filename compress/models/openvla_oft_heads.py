# SPDX-License-Identifier: Apache-2.0
"""What is around the language stack of OpenVLA-OFT: projectors into it, the action head behind it, and DDIM."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compress.models.openvla_oft_config import DiffusionShape

MAX_BETA, COSINE_OFFSET = 0.999, 0.008  # of the squared-cosine schedule (arXiv 2102.09672)


class Projector(nn.Module):
    """Linear layers `fc1`, `fc2`, ... with GELU between them."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.depth = len(widths) - 1
        for number in range(self.depth):
            self.add_module(f"fc{number + 1}", nn.Linear(widths[number], widths[number + 1]))

    def forward(self, values: Tensor) -> Tensor:
        """(..., first width) -> (..., last width)."""
        for number in range(self.depth):
            values = self.get_submodule(f"fc{number + 1}")(F.gelu(values) if number else values)
        return values


class _ResidualBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.ffn = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU())

    def forward(self, values: Tensor) -> Tensor:
        return values + self.ffn(values)


class ActionHead(nn.Module):
    """The residual MLP that turns one step's A hidden states, side by side, into its A numbers."""

    def __init__(self, width: int, action_dim: int, blocks: int = 2) -> None:
        super().__init__()
        self.action_dim = action_dim
        self.layer_norm1 = nn.LayerNorm(width * action_dim)
        self.fc1 = nn.Linear(width * action_dim, width)
        self.mlp_resnet_blocks = nn.ModuleList([_ResidualBlock(width) for _ in range(blocks)])
        self.layer_norm2 = nn.LayerNorm(width)
        self.fc2 = nn.Linear(width, action_dim)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, H * A, W) -> (B, H, A)."""
        steps = hidden.unflatten(1, (-1, self.action_dim)).flatten(2)  # (B, H, A * W)
        values = F.relu(self.fc1(self.layer_norm1(steps)))
        for block in self.mlp_resnet_blocks:
            values = block(values)
        return self.fc2(self.layer_norm2(values))


def time_features(times: Tensor, width: int) -> Tensor:
    """Noise levels (B,) -> (B, width): sines, then cosines, of periods 2 pi to 2 pi 10^4."""
    half = width // 2
    rates = torch.exp(torch.arange(half, device=times.device, dtype=times.dtype) * (-math.log(10_000.0) / (half - 1)))
    angles = times[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def signal_share(levels: int) -> list[float]:
    """Variance of the clean action that is left at each noise level, falling, in float32 as it was trained."""

    def left(time: float) -> float:
        return math.cos((time + COSINE_OFFSET) / (1 + COSINE_OFFSET) * math.pi / 2) ** 2

    betas = [min(1 - left((i + 1) / levels) / left(i / levels), MAX_BETA) for i in range(levels)]
    alphas = np.float32(1.0) - np.array(betas, np.float32)
    share: list[float] = np.cumprod(alphas.astype(np.float64)).astype(np.float32).tolist()
    return share


def add_noise(actions: Tensor, noise: Tensor, levels: Tensor, shape: DiffusionShape) -> Tensor:
    """Clean actions (B, H, A) at integer noise `levels` (B,)."""
    share = actions.new_tensor(signal_share(shape.levels))[levels][:, None, None]
    return share.sqrt() * actions + (1 - share).sqrt() * noise


def visits(shape: DiffusionShape) -> tuple[tuple[int, float, float], ...]:
    """What DDIM goes through: (noise level, signal share there, signal share after the step), noisiest first."""
    share, stride = signal_share(shape.levels), shape.levels // shape.steps
    path = [stride * number for number in reversed(range(shape.steps))]
    return tuple((level, share[level], share[level - stride] if level >= stride else 1.0) for level in path)


def ddim_factors(share: float, next_share: float) -> tuple[float, float, float, float]:
    """Shares of signal before and after a step -> the factors that `ddim_step` takes."""
    return math.sqrt(1 - share), math.sqrt(share), math.sqrt(next_share), math.sqrt(1 - next_share)


def ddim_step(
    noisy: Tensor, noise: Tensor, noise_here: Tensor, signal_here: Tensor, signal_next: Tensor, noise_next: Tensor
) -> Tensor:
    """One deterministic step (arXiv 2010.02502, eta 0); the clean action that it implies is cut to -1..1."""
    clean = (noisy - noise_here * noise) / signal_here
    return signal_next * clean.clamp(-1.0, 1.0) + noise_next * noise
