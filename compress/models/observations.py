# SPDX-License-Identifier: Apache-2.0
"""Observations made of noise that fit a policy's specs: for what does not depend on content (dead weights, speed)."""

from __future__ import annotations

import numpy as np

from compress.data.samples import Sample
from compress.models.base import VlaModel

SENTENCES = ("pick up the red block", "open the drawer", "put the bowl into the left tray", "push the button")


def random_samples(model: VlaModel, count: int, seed: int = 0) -> list[Sample]:
    """`count` samples with random pixels and states; actions lie inside the normalised range, no step is padding."""
    specs, draw = model.specs(), np.random.default_rng(seed)
    observation, action = specs["observation"], specs["action"]
    image = observation.images[0]
    return [
        Sample(
            images={
                key: draw.integers(0, 256, (image.height, image.width, 3), dtype=np.uint8)
                for key in observation.image_keys
            },
            state=draw.normal(0.0, 0.5, observation.state.dim).astype(np.float32),
            actions=draw.uniform(-0.3, 0.3, (action.horizon, action.dim)).astype(np.float32),
            pad=np.zeros(action.horizon, bool),
            instruction=SENTENCES[number % len(SENTENCES)],
            sample_id=f"noise/{seed}/{number}",
        )
        for number in range(count)
    ]
