# SPDX-License-Identifier: Apache-2.0
"""Do these demonstrations fit this policy: cameras, picture sizes, widths of state and action?"""

from __future__ import annotations

from collections.abc import Mapping

from compress.data.contents import Contents
from compress.data.frames import FrameStore
from compress.data.mapping import MappingError


def check_fit(
    demos: FrameStore, cameras: Mapping[str, tuple[int, int]], state: int, action: int, contents: Contents | None = None
) -> None:
    """Refuse what the policy could not be trained on.

    Args:
        demos: the demonstrations.
        cameras: the policy's cameras -> (H, W).
        state, action: numbers that the policy takes and gives.
        contents: of the data set, for what else it has; None if it is not known.

    Raises:
        MappingError: what is missing or of another size, what there is, what to write in the recipe.
    """
    missing = [name for name in cameras if name not in demos.image_sizes]
    if missing:
        there = ", ".join(demos.image_sizes) if contents is None else contents.cameras_text()
        raise MappingError(
            f"the policy's camera {', '.join(missing)} has no pictures; the data set has {there}. "
            f"Next: write data.cameras: {{{', '.join(f'{name}: KEY' for name in cameras)}}}"
        )
    for name, size in cameras.items():
        found = demos.image_sizes[name]
        if found != size:
            wanted = str(size[0]) if size[0] == size[1] else f"[{size[0]}, {size[1]}]"
            raise MappingError(
                f"pictures of camera {name} are {found[0]} x {found[1]}, the policy takes {size[0]} x {size[1]}. "
                f"Next: write data.image_size: {wanted} (cropped to the aspect ratio, then scaled)"
            )
    vectors = "" if contents is None else f" The data set has {contents.vectors_text()}."
    for what, found_width, width in zip(("state", "action"), demos.widths, (state, action), strict=True):
        if found_width != width:
            raise MappingError(
                f"the demonstrations' {what} has {found_width} numbers, the policy's has {width}.{vectors} "
                f"Next: name the vectors, or parts of them as KEY[START:STOP], in data.{what}"
            )
