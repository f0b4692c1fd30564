# SPDX-License-Identifier: Apache-2.0
"""One episode through ROS as a strip of pictures, for people: about eight moments from first to last, side by side."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from compress.atomic import write_atomic

MOMENTS = 8
CAMERA = "agentview"


class Film:
    """Collects what came from the camera; `save` keeps MOMENTS pictures, evenly spaced, first and last included."""

    def __init__(self) -> None:
        self._frames: list[np.ndarray] = []

    def see(self, picture: np.ndarray) -> None:
        """One more picture, uint8 (H, W, 3)."""
        self._frames.append(np.array(picture))

    def save(self, path: Path) -> None:
        """Write the strip as PNG; nothing is written without pictures."""
        if not self._frames:
            return
        from PIL import Image

        picks = np.linspace(0, len(self._frames) - 1, MOMENTS).round().astype(int)
        buffer = io.BytesIO()
        Image.fromarray(np.concatenate([self._frames[i] for i in picks], axis=1)).save(buffer, format="PNG")
        write_atomic(path, lambda stream: stream.write(buffer.getvalue()))
