# SPDX-License-Identifier: Apache-2.0
"""What a joint command is made of: the plan that it follows, the trajectory that was released, joints by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from runtime.safety.curve import Curve
from runtime.safety.monitor import Played
from runtime.safety.motion import AdmittedChunk, ChunkRejected
from runtime.safety.trajectory import Floats
from runtime.telemetry import StopCause

_ON_PATH = (1e-12, 1e-10, 1e-7)  # rad, rad/s, rad/s^2


@dataclass(frozen=True, eq=False)
class Plan:
    """What follows the splice: `curve` in played time; at `since_s` it is `progress_s` into the chunk."""

    chunk: AdmittedChunk
    curve: Curve
    rate: float
    since_s: float
    progress_s: float


@dataclass(frozen=True, eq=False)
class Command:
    """What was released, in played time: committed until `commit_s`, then its stop."""

    curve: Curve
    played: Played
    commit_s: float
    rate: float
    plan: Plan | None
    forgotten: bool = False


def by_name(names: Sequence[str], joints: Mapping[str, float]) -> Floats:
    """(D,) in the order of `names`. Raises ChunkRejected: a joint is missing or its position is not finite."""
    missing = [name for name in names if name not in joints]
    if missing:
        raise ChunkRejected(StopCause.OBSERVATION_MISSING, f"joints {missing} are not reported by the robot")
    values = np.array([joints[name] for name in names], dtype=np.float64)
    if not np.isfinite(values).all():
        raise ChunkRejected(StopCause.OBSERVATION_INVALID, f"joint positions are {values.tolist()}")
    return values


def near(names: Sequence[str], place: Floats, other: Floats, allowed: Floats, called: str) -> None:
    """Two places of the joints, each (D,), are no further apart than allowed (D,). Raises ChunkRejected."""
    away = np.abs(place - other)
    if not np.all(away <= allowed):
        joint = int((away - allowed).argmax())
        raise ChunkRejected(
            StopCause.CHUNK_REJECTED,
            f"the path begins {away[joint]:.3f} away from where {names[joint]} is {called}, at most "
            f"{allowed[joint]:.3f} is allowed",
        )


def same(state: tuple[Floats, ...], other: tuple[Floats, ...]) -> bool:
    """Two states of joints, each (D,) and (1, D), are one point of one curve."""
    return all(np.abs(a - b[0]).max() < most for a, b, most in zip(state, other, _ON_PATH, strict=True))
