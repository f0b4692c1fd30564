# SPDX-License-Identifier: Apache-2.0
"""`Perturbation`: what one axis may change about an episode, drawn from (axis, task, state, seed) and nothing else.

Nothing is undone by hand: robosuite compiles the model and the controllers anew in every reset, so an edit of either
ends with its episode. Random numbers come from a generator of the episode's own; numpy's global one is not touched.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

if TYPE_CHECKING:
    from compress.sim.envs import TaskEnv

Observation = dict[str, np.ndarray]


class BadPerturbation(ValueError):
    """No such axis, a strength out of range, or a scene or sentence that the axis cannot change."""


@dataclass(frozen=True)
class Perturbation:
    """One axis at one strength on one episode. Axes override what they change; the rest stays as it is.

    Attributes:
        strength: how much, in the unit of the axis.
        task, state, seed: the episode that it belongs to.
    """

    axis: ClassVar[str]
    unit: ClassVar[str]
    default: ClassVar[float]
    highest: ClassVar[float]

    strength: float
    task: int
    state: int
    seed: int

    def __post_init__(self) -> None:
        value = self.strength
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if not number or not 0 < value <= self.highest:
            raise BadPerturbation(
                f"strength of {self.axis!r} is {value!r}, expected a number above 0, at most {self.highest:g} "
                f"({self.unit}; default {self.default:g})"
            )

    def rng(self, *stream: int) -> np.random.Generator:
        """The episode's own generator; `stream` separates independent draws."""
        return np.random.default_rng([zlib.crc32(self.axis.encode()), self.task, self.state, self.seed, *stream])

    def initial_state(self, env: TaskEnv, state: np.ndarray) -> np.ndarray:
        """Where the scene starts: flattened simulator state (S,), time, positions, velocities."""
        return state

    def edit_scene(self, env: TaskEnv) -> None:
        """Change the compiled model or the controller, after the state was set and before anything moves."""

    def observed(self, observation: Observation, step: int) -> Observation:
        """What the policy sees of the observation after `step` control steps."""
        return observation

    def sentence(self, text: str) -> str:
        """What the policy is told."""
        return text
