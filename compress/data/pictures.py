# SPDX-License-Identifier: Apache-2.0
"""Stored pictures -> uint8 RGB at the policy's resolution. The only place that decodes PNG and JPEG, and resizes."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from compress.data.faults import DemoFileError

_EIGHT_BIT = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")


def decoded(content: bytes, where: str) -> np.ndarray:
    """A PNG or JPEG (any 8-bit kind; grey is repeated, alpha dropped) as uint8 (H, W, 3).

    Raises:
        DemoFileError: damaged, or of more than 8 bits such as a depth map.
    """
    try:
        with Image.open(io.BytesIO(content)) as picture:
            if picture.mode not in _EIGHT_BIT:
                raise DemoFileError(
                    f"{where}: a picture of mode {picture.mode}, expected 8-bit RGB; is it a depth map?"
                )
            return np.asarray(picture.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        if isinstance(error, DemoFileError):
            raise
        raise DemoFileError(
            f"{where}: a picture of {len(content)} bytes cannot be decoded ({error}). Next: copy the file again"
        ) from error


def fitted(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bring a picture to `size`, the way the robot's own node does: crop, then scale.

    The largest centred window of the target's aspect ratio is scaled by Pillow's bilinear filter, whose support grows
    when it shrinks (antialiased, close to the area filter on the robot). Nothing is stretched out of proportion.

    Args:
        image: uint8 (H, W, 3).
        size: (height, width) wanted.

    Returns:
        uint8 (height, width, 3); the picture itself if it has that size.
    """
    if image.shape[:2] == size:
        return image
    share = min(image.shape[0] / size[0], image.shape[1] / size[1])
    tall, wide = round(size[0] * share), round(size[1] * share)
    top, left = (image.shape[0] - tall) // 2, (image.shape[1] - wide) // 2
    cropped = np.ascontiguousarray(image[top : top + tall, left : left + wide])
    return np.asarray(Image.fromarray(cropped).resize((size[1], size[0]), Image.Resampling.BILINEAR))


def turned(image: np.ndarray) -> np.ndarray:
    """By 180 degrees."""
    return np.ascontiguousarray(image[::-1, ::-1])
