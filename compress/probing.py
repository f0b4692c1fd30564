# SPDX-License-Identifier: Apache-2.0
"""What every probe shares: find the stack, leave the model as it was, walk over the batches, name bad samples.

Several processes (`scale.world`) take every n-th batch each, and all of them get all scores, to the bit what one
process would have found: a batch keeps its number, and scores are reduced in the order of sample ids.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compress.models.base import Batch, BlockGroup, ModelError, Surgery, VlaModel
from compress.scale.share import own_batches
from compress.scale.world import current
from compress.scores import JOIN, PARTS, Progress, Reduce, ScoreError, Scores, Subject, from_samples, roles_of

Matrix = NDArray[np.float64]
Measure = Callable[[Batch, int], "tuple[Tensor, Tensor | None]"]


@dataclass(frozen=True)
class Probe:
    """One metric about to read calibration batches.

    Attributes:
        metric: its name.
        model: left as it was.
        batches: calibration batches with actions.
        role, part: what is scored.
        progress: called with batches done, batches in all (0 if unknown) and a text.
        trainable: the only parameters that get gradients.
        reduce: (samples, blocks) -> (blocks,); the mean by default.
        extra: passed on to the scores.
    """

    metric: str
    model: VlaModel
    batches: Iterable[Batch]
    role: str
    part: str
    progress: Progress | None = None
    trainable: Iterable[nn.Parameter] = ()
    reduce: Reduce | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def run(self, measure: Measure) -> Scores:
        """Collect what `measure(batch, number)` says: values (B, blocks), and their rounding noise or None.

        Raises:
            ScoreError: a value is NaN or infinite (the message names the samples), no samples, or a sample twice.
        """
        subject = subject_of(self.model, self.role, self.part)
        matrix, noise, ids, wall = self.collect(measure, len(subject.blocks))
        return from_samples(self.metric, subject, matrix, ids, wall, noise, self.reduce, self.extra)

    def collect(self, measure: Measure, width: int) -> tuple[Matrix, Matrix, list[str], float]:
        """What `run` ranks: values and noise, (samples, width), the sample ids of the rows, and the seconds it took."""
        start, world = time.perf_counter(), current()
        parts = world.together(lambda: self._own_rows(measure), f"{self.metric} of {self.role}")
        found = sorted((row for part in parts for row in part), key=lambda row: row[0])
        empty = np.zeros((0, width))
        matrix = np.concatenate([empty, *(values for _, values, _, _ in found)])
        noise = np.concatenate([empty, *(doubt for _, _, doubt, _ in found)])
        ids = [name for _, _, _, names in found for name in names]
        return matrix, noise, ids, time.perf_counter() - start

    def _own_rows(self, measure: Measure) -> list[tuple[int, Matrix, Matrix, tuple[str, ...]]]:
        """Number, values, noise and sample ids of this process's batches."""
        world, rows = current(), []
        total = len(self.batches) if isinstance(self.batches, Sized) else 0
        with quiet(self.model.module, self.trainable):
            for number, batch in own_batches(self.batches, world):
                values, noise = measure(batch.to(device_of(self.model.module)), number)
                require_finite(values, batch, f"{self.metric} scores of {self.role}")
                scores = values.detach().double().cpu().numpy()
                doubt = np.zeros_like(scores) if noise is None else noise.detach().double().cpu().numpy()
                rows.append((number, scores, doubt, batch.sample_ids))
                if self.progress is not None:
                    self.progress(min(number + world.size, total or number + 1), total, f"{self.metric} {self.role}")
        return rows


def find_group(model: VlaModel, role: str) -> BlockGroup:
    """The group of that role.

    Raises:
        ModelError: the model has no such stack.
    """
    for group in model.groups:
        if group.role == role:
            return group
    raise ModelError(f"{model.family} has no stack {role!r}; it has: {', '.join(g.role for g in model.groups)}")


def find_groups(model: VlaModel, role: str) -> tuple[BlockGroup, ...]:
    """The group of that role; of `A+B` both, with the rules of blocks that leave their lists in pairs.

    Raises:
        ModelError: the model has no such stack, or no such pairs.
    """
    groups = tuple(find_group(model, name) for name in roles_of(role))
    if len(groups) == 1:
        return groups
    if len(groups) > 2 or groups[0].partner != groups[1].role:
        pairs = [f"{group.role}{JOIN}{group.partner}" for group in model.groups if group.partner]
        raise ModelError(f"{model.family} has no pairs {role!r}; it has: {', '.join(pairs) or 'none'}")
    return tuple(replace(group, compact=True, unit=group.pair_unit) for group in groups)


def subject_of(model: VlaModel, role: str, part: str) -> Subject:
    """What a metric is about to score.

    Raises:
        ScoreError: unknown part.
        ModelError: unknown role.
    """
    if part not in PARTS:
        raise ScoreError(f"part is {part!r}, expected one of: {', '.join(PARTS)}")
    groups = find_groups(model, role)
    record, pinned = surgery_of(model, groups[0]), {block for group in groups for block in group.pinned}
    return Subject(role, part, record.depth, record.kept, groups[0].unit, tuple(sorted(pinned)), model.identity())


def surgery_of(model: VlaModel, group: BlockGroup) -> Surgery:
    """What was removed from the stack so far."""
    return model.surgery.get(group.role, Surgery.none(len(group.stack(model.module))))


def device_of(module: nn.Module) -> torch.device:
    """Where the parameters are."""
    return next(module.parameters()).device


@contextmanager
def quiet(module: nn.Module, trainable: Iterable[nn.Parameter] = ()) -> Iterator[None]:
    """Evaluation mode, and gradients only for `trainable`; both are put back as they were, also after an error."""
    modes = [(child, child.training) for child in module.modules()]
    wishes = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    chosen = {id(parameter) for parameter in trainable}
    try:
        module.eval()
        for parameter, _ in wishes:
            parameter.requires_grad_(id(parameter) in chosen)
        yield
    finally:
        for parameter, wish in wishes:
            parameter.requires_grad_(wish)
        for child, mode in modes:
            child.training = mode


def require_finite(values: Tensor, batch: Batch, what: str) -> None:
    """Raise a ScoreError that names the samples whose values, (B, ...), are NaN or infinite."""
    good = torch.isfinite(values.detach()).reshape(len(batch), -1).all(dim=1).tolist()
    bad = [name for name, fine in zip(batch.sample_ids, good, strict=True) if not fine]
    if bad:
        raise ScoreError(
            f"NaN or infinity in the {what} for samples {', '.join(bad)}: check their images, states and actions, "
            "or leave them out"
        )
