# SPDX-License-Identifier: Apache-2.0
"""A strip of pictures of one episode, for people: about eight moments from first to last, side by side."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from compress.atomic import write_atomic

MOMENTS = 8
CAMERA = "agentview"


class Film:
    """Collects what the policy was shown; `save` keeps MOMENTS pictures, evenly spaced, first and last included."""

    def __init__(self) -> None:
        self.frames: list[np.ndarray] = []

    def see(self, observation: Mapping[str, np.ndarray]) -> None:
        """One more observation; those without the camera are skipped."""
        if CAMERA in observation:
            self.frames.append(np.array(observation[CAMERA]))

    def save(self, path: Path) -> None:
        """Write the strip as PNG; nothing is written without frames."""
        if not self.frames:
            return
        from PIL import Image

        buffer = io.BytesIO()
        Image.fromarray(strip(self.frames)).save(buffer, format="PNG")
        write_atomic(path, lambda stream: stream.write(buffer.getvalue()))


def strip(frames: list[np.ndarray]) -> np.ndarray:
    """uint8 (H, MOMENTS * W, 3) of frames (H, W, 3); a short episode repeats its last frame."""
    if len(frames) < MOMENTS:
        frames = [*frames, *[frames[-1]] * (MOMENTS - len(frames))]
    picks = np.linspace(0, len(frames) - 1, MOMENTS).round().astype(int)
    return np.concatenate([frames[i] for i in picks], axis=1)
