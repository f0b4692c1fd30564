# SPDX-License-Identifier: Apache-2.0
"""Golden inputs and outputs: does this machine's policy answer what the exporter's did? Local parity, no simulator.

File `golden.safetensors`, N samples: `observation.<key>` (N, ...) as handed to `Policy.infer`, and `expected.actions`
(N, horizon, D) float32 in command units. The N instructions and the tolerance are in the manifest. Of a graph that is
guided also `previous.actions` (N, horizon, D) in command units and `previous.weights` (N, horizon), both float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.contract.artifact import Artifact
from runtime.contract.graph import GOLDEN_ACTIONS, GOLDEN_OBSERVATION, GOLDEN_PREVIOUS, GOLDEN_WEIGHTS
from runtime.contract.guidance import Guidance
from runtime.contract.tensors import dump_tensors, parse_tensors
from runtime.errors import ContractError
from runtime.inference.policy import Policy
from runtime.inference.preprocess import Observation


@dataclass(frozen=True, eq=False)
class GoldenSample:
    """One observation, its instruction, the commands (horizon, D) that the exporter saw, and what guided them."""

    observation: Observation
    instruction: str
    expected: NDArray[np.float32]
    guidance: Guidance | None = None


@dataclass(frozen=True)
class GoldenParity:
    """Largest difference per action dimension, in command units, over all samples; against the manifest's tolerance."""

    samples: int
    max_abs: dict[str, float]
    tolerance: float

    @property
    def ok(self) -> bool:
        """True when no dimension differs by more than the tolerance."""
        return all(value <= self.tolerance for value in self.max_abs.values())


def dump_golden(
    observations: Sequence[Mapping[str, NDArray[Any]]], expected: NDArray[np.float32],
    guidance: Sequence[Guidance] = (),
) -> bytes:  # fmt: skip
    """Bytes of `golden.safetensors` from N observations with equal keys and `expected` (N, horizon, D); N or no
    guidance."""
    tensors = {GOLDEN_OBSERVATION + key: np.stack([o[key] for o in observations]) for key in observations[0]}
    if guidance:
        tensors[GOLDEN_PREVIOUS] = np.stack([said.commands for said in guidance])
        tensors[GOLDEN_WEIGHTS] = np.stack([said.weights for said in guidance])
    return dump_tensors({**tensors, GOLDEN_ACTIONS: np.asarray(expected, dtype=np.float32)})


def load_golden(artifact: Artifact) -> tuple[GoldenSample, ...]:
    """The golden samples; ContractError if tensors, sample counts and specs disagree."""
    ref, policy = artifact.manifest.golden, artifact.manifest.policy
    tensors = parse_tensors(artifact.read_bytes(ref.file), ref.file)
    keys = policy.observation.keys
    guided = (GOLDEN_PREVIOUS, GOLDEN_WEIGHTS) if policy.graph.guided else ()
    names = {GOLDEN_ACTIONS, *guided, *(GOLDEN_OBSERVATION + key for key in keys)}
    if set(tensors) != names:
        raise ContractError(f"{ref.file}: found tensors {sorted(tensors)}, expected {sorted(names)}")
    count = len(ref.instructions)
    expected_shape = (count, policy.action.horizon, policy.action.dim)
    sizes = {name: tensor.shape[0] if tensor.ndim else 0 for name, tensor in tensors.items()}
    if set(sizes.values()) != {count} or tensors[GOLDEN_ACTIONS].shape != expected_shape:
        found = f"{sizes}, actions {tensors[GOLDEN_ACTIONS].shape}"
        raise ContractError(f"{ref.file}: found {found}, expected {count} samples and actions {expected_shape}")
    said = [Guidance(*(tensors[name][i] for name in guided)) if guided else None for i in range(count)]
    for guidance in said:
        if guidance is not None:
            guidance.require(policy.action)
    return tuple(
        GoldenSample(
            {key: tensors[GOLDEN_OBSERVATION + key][i] for key in keys}, text, tensors[GOLDEN_ACTIONS][i], said[i]
        )
        for i, text in enumerate(ref.instructions)
    )


def golden_parity(policy: Policy) -> GoldenParity:
    """Run every golden sample through `policy` and compare."""
    samples = load_golden(policy.artifact)
    differences = [
        np.abs(policy.infer(s.observation, s.instruction, 0.0, guidance=s.guidance).values - s.expected).max(axis=0)
        for s in samples
    ]
    worst = np.max(np.stack(differences), axis=0)
    names = policy.manifest.policy.action.names
    tolerance = policy.manifest.golden.max_abs
    return GoldenParity(len(samples), {name: float(v) for name, v in zip(names, worst, strict=True)}, tolerance)
