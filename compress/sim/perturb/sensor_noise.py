# SPDX-License-Identifier: Apache-2.0
"""Worse sensors: images are blurred and noisy, the measured state jitters. The scene itself stays as it is.

The noise of a step depends on the episode and the step alone, so two policies that look at the same moment see the
same noise, however often they looked before.
"""

from __future__ import annotations

import numpy as np

from compress.sim.perturb.base import Observation, Perturbation

_BLUR = 0.12  # blur radius (standard deviation) as a share of the image's height, per unit of strength
_STATE = np.array([0.05] * 3 + [0.25] * 3 + [0.0125] * 2)  # [m], [rad], [m] per unit of strength


class SensorNoise(Perturbation):
    """strength s: pixel noise with a standard deviation of s of full scale, blur of 0.12 s of the image height, state
    noise of 5 cm s in position, 0.25 rad s in rotation, 1.25 cm s in the fingers."""

    axis, unit, default, highest = "sensor_noise", "fraction of full scale", 0.05, 0.5

    def observed(self, observation: Observation, step: int) -> Observation:
        rng, seen = self.rng(step), dict(observation)
        for key in sorted(observation):
            value = observation[key]
            if value.ndim == 3:
                soft = blurred(value.astype(np.float32), self.strength * _BLUR * value.shape[0])
                noisy = soft + rng.normal(0.0, 255.0 * self.strength, value.shape)
                seen[key] = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
        state = observation["state"]
        seen["state"] = (state + rng.normal(0.0, self.strength, state.shape) * _STATE).astype(np.float32)
        return seen


def blurred(image: np.ndarray, sd: float) -> np.ndarray:
    """Gaussian blur of (H, W, C) with a standard deviation in pixels; borders repeat."""
    radius = max(1, int(np.ceil(3 * sd)))
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sd) ** 2)
    weights /= weights.sum()
    for axis in (0, 1):
        pad = [(radius, radius) if a == axis else (0, 0) for a in range(3)]
        padded, n = np.pad(image, pad, mode="edge"), image.shape[axis]
        image = sum(w * np.take(padded, range(k, k + n), axis=axis) for k, w in enumerate(weights))
    return np.asarray(image)
