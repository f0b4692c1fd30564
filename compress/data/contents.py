# SPDX-License-Identifier: Apache-2.0
"""What a data set holds, as far as its metadata tell: enough to write the recipe's mapping by hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Camera:
    """One stream of pictures: height and width in pixels, None where the metadata do not say; how it is stored."""

    height: int | None
    width: int | None
    storage: str

    @property
    def size(self) -> tuple[int, int] | None:
        """(H, W), if known."""
        return None if self.height is None or self.width is None else (self.height, self.width)

    def describe(self) -> str:
        """`256 x 256 video`; height comes first."""
        return f"{self.height} x {self.width} {self.storage}" if self.size else f"size unknown, {self.storage}"


@dataclass(frozen=True)
class Vector:
    """One row of numbers per frame: how many, and their names where the metadata give them."""

    width: int
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Contents:
    """One data set.

    Attributes:
        format: as the recipe calls it.
        version: of the format, empty where it has none.
        root: folder or file.
        episodes, frames: how many; `frames` is None where only reading everything would tell.
        fps: frames per second, None where the metadata do not say.
        cameras: key -> camera. Keys are what `data.cameras` takes on its right-hand side.
        vectors: key -> numbers; for `data.state` and `data.action`.
        texts: keys that `data.instruction_key` takes.
        instructions: the sentences that the metadata list.
    """

    format: str
    version: str
    root: Path
    episodes: int
    frames: int | None
    fps: float | None
    cameras: Mapping[str, Camera]
    vectors: Mapping[str, Vector]
    texts: tuple[str, ...] = ()
    instructions: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "root": str(self.root), "suggestion": self.suggestion()}

    def cameras_text(self) -> str:
        """Every camera with its size, for messages."""
        found = [f"{key} ({camera.describe()})" for key, camera in self.cameras.items()]
        return ", ".join(found) or "none"

    def vectors_text(self) -> str:
        """Every vector with its width, for messages."""
        return ", ".join(f"{key} ({vector.width})" for key, vector in self.vectors.items()) or "none"

    def suggestion(self) -> dict[str, Any]:
        """A `data` section to start from: every camera under its own last word, the likeliest state and action."""
        plain = [key for key in self.vectors if not key.startswith("next_obs/")]
        actions = [key for key in plain if key.split("/")[-1] in ("action", "actions")]
        states = [key for key in plain if key.split("/")[-1] in ("state", "observation.state")]
        observed = [key for key in plain if key.startswith("obs/")] or [key for key in plain if key not in actions]
        cameras = [key for key in self.cameras if not key.startswith("next_obs/")]
        names = {key: key.replace("/", ".").split(".")[-1] for key in cameras}
        return {
            "format": self.format,
            "path": str(self.root),
            "cameras": {name: key for key, name in names.items()},
            "state": states[:1] or observed,
            "action": (actions or ["?"])[0],
        }

    def lines(self) -> list[str]:
        """For people; ends with what to write in the recipe."""
        version = f" {self.version}" if self.version else ""
        frames = "" if self.frames is None else f", {self.frames} frames"
        rate = "rate unknown" if self.fps is None else f"{self.fps:g} frames per second"
        lines = [f"{self.root}: {self.format}{version}", f"{self.episodes} episodes{frames}, {rate}", "cameras"]
        lines += [f"  {key}: {camera.describe()}" for key, camera in self.cameras.items()] or ["  none"]
        lines += ["state and action"]
        lines += [f"  {key}: {v.width} {_named(v.names)}".rstrip() for key, v in self.vectors.items()] or ["  none"]
        lines += ["text", *(f"  {key}" for key in self.texts)] if self.texts else []
        lines += [f"{len(self.instructions)} instructions", *(f"  {text}" for text in self.instructions[:10])]
        lines += ["  ..."] if len(self.instructions) > 10 else []
        return [*lines, "to start from, in the recipe (left of a camera: the model's name for it)", *self._yaml()]

    def _yaml(self) -> list[str]:
        made = self.suggestion()
        cameras = [f"    {name}: {key}" for name, key in made["cameras"].items()]
        head = ["data:", f"  format: {made['format']}", f"  path: {made['path']}", "  cameras:", *cameras]
        return [*head, f"  state: [{', '.join(made['state'])}]", f"  action: {made['action']}"]


def _named(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:16])
    return f"({shown}{', ...' if len(names) > 16 else ''})" if names else ""
