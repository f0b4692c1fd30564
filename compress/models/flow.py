# SPDX-License-Identifier: Apache-2.0
"""Noise and time of flow-matching policies, drawn per sample and reproducibly.

A probe compares losses of the same sample before and after a cut, so both must see the same noise: it depends on the
seed and on the sample's id alone, not on the batch it is in, the device or the process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

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
