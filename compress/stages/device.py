# SPDX-License-Identifier: Apache-2.0
"""Where the model of a stage computes: a GPU where there is one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from compress.models.registry import load_model

if TYPE_CHECKING:
    from compress.models.base import VlaModel


def placed(family: str, checkpoint: str | Path, gpu: bool = True) -> VlaModel:
    """Load a policy, in evaluation mode, onto the GPU (if `gpu` and there is one) or the CPU."""
    import torch

    model = load_model(family, checkpoint)
    model.module.to("cuda" if gpu and torch.cuda.is_available() else "cpu")
    model.module.eval()
    return model
