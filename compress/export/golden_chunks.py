# SPDX-License-Identifier: Apache-2.0
"""What torch commands for the golden samples: the numbers that every engine on a robot is compared with.

Of a policy that can be guided every second sample is, from the first: so a station's engine proves its backward pass
too, also on a single sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compress.data.samples import Sample
from compress.export.guided import previous_for
from compress.models.base import ExportStage, VlaModel
from compress.models.guidance import GuidedSampler
from runtime.contract.guidance import Guidance
from runtime.contract.normalization import Normalization


@dataclass(frozen=True)
class GoldenChunks:
    """Commands (N, H, D) float32, and what guided them: N, or none."""

    commands: NDArray[np.float32]
    guidance: tuple[Guidance, ...] = ()


def golden_chunks(
    model: VlaModel, stage: ExportStage, samples: Sequence[Sample], normalization: Normalization
) -> GoldenChunks:
    """Each sample alone, in evaluation mode.

    Args:
        model: whose `chunk` says what is commanded without guidance.
        stage: untrimmed; with a `GuidedSampler` every second sample is guided.
        samples: N.
        normalization: of actions, between what the stage answers and commands.
    """
    device = next(model.module.parameters()).device
    inputs = [model.collate([sample]).to(device) for sample in samples]
    with _evaluating(model.module):
        free = [_array(model.chunk(batch)) for batch in inputs]
    if not isinstance(stage.module, GuidedSampler):
        return GoldenChunks(np.concatenate(free))
    action, guidance = model.specs()["action"], []
    with _evaluating(model.module), _evaluating(stage.module), torch.no_grad():
        for index, (sample, batch) in enumerate(zip(samples, inputs, strict=True)):
            previous, weights = previous_for(sample.sample_id, action)
            if index % 2:
                guidance.append(Guidance.none(action))
                continue
            guidance.append(Guidance(normalization.invert(previous), weights))
            said = [torch.from_numpy(value)[None].to(device) for value in (previous, weights)]
            seen = [batch.inputs[name] for name in stage.example_inputs if name in batch.inputs]
            free[index] = normalization.invert(_array(stage.module(*seen, *said)))
    return GoldenChunks(np.concatenate(free), tuple(guidance))


def _array(chunk: Tensor) -> NDArray[np.float32]:
    return chunk.cpu().numpy().astype(np.float32)


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)
