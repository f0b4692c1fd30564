# SPDX-License-Identifier: Apache-2.0
"""In which precision parameters lie in memory while a policy is trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def held_in(module: nn.Module, param_dtype: str) -> Iterator[None]:
    """While open, matrices that are not trained are bfloat16 and trained tensors are float32 (their masters).

    Afterwards everything has the dtype it had: what was not trained has its very bits back (they wait on the CPU, where
    its dtype was another one), and what was trained is rounded once, at the end. Vectors that are not trained (norms,
    biases) stay as they are: they are no burden, and some of them must match the stream.

    Args:
        module: its flags say what is trained.
        param_dtype: `bfloat16`, or `keep` for doing nothing.
    """
    if param_dtype == "keep":
        yield
        return
    waiting: list[tuple[nn.Parameter, Tensor]] = []
    trained: list[tuple[nn.Parameter, torch.dtype]] = []
    try:
        for parameter in module.parameters():
            if parameter.requires_grad and parameter.dtype != torch.float32:
                trained.append((parameter, parameter.dtype))
                parameter.data = parameter.data.float()
            elif not parameter.requires_grad and parameter.ndim > 1 and parameter.dtype != torch.bfloat16:
                waiting.append((parameter, parameter.data.cpu()))
                parameter.data = parameter.data.to(torch.bfloat16)
        yield
    finally:
        for parameter, value in waiting:
            parameter.data = value.to(parameter.device)
        for parameter, dtype in trained:
            parameter.data = parameter.data.to(dtype)
