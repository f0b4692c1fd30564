# SPDX-License-Identifier: Apache-2.0
"""The shape of the reference VLA, as plain data that round-trips through JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from compress.models.base import ModelError, Surgery

_BLOCK_LISTS = ("kept", "without_attention", "without_mlp")


@dataclass(frozen=True)
class StackConfig:
    """A transformer stack: `depth` blocks of `width`, `heads` heads, MLP hidden size `mlp_width`."""

    depth: int
    width: int
    heads: int
    mlp_width: int


@dataclass(frozen=True)
class ReferenceConfig:
    """Architecture of the reference VLA.

    Attributes:
        vision, language: the two stacks.
        image_size, patch_size: pixels; the patch grid must be even (patches are merged two by two).
        cameras: camera keys in the order of the `pixels` axis.
        vocab_size, max_tokens: of the prompt.
        state_dim, action_dim, horizon: S, A and H.
        surgery: what was removed, by role.
    """

    vision: StackConfig = StackConfig(depth=4, width=192, heads=3, mlp_width=768)
    language: StackConfig = StackConfig(depth=12, width=192, heads=3, mlp_width=512)
    image_size: int = 128
    patch_size: int = 16
    cameras: tuple[str, ...] = ("agentview", "wrist")
    vocab_size: int = 512
    max_tokens: int = 16
    state_dim: int = 8
    action_dim: int = 7
    horizon: int = 8
    surgery: Mapping[str, Surgery] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.image_size % (2 * self.patch_size):
            raise ModelError(
                f"image_size {self.image_size} is not a multiple of twice the patch size {self.patch_size}"
            )
        for role, stack in (("language", self.language), ("vision.siglip", self.vision)):
            record = self.surgery.get(role)
            if record is not None and len(record.kept) != stack.depth:
                raise ModelError(f"{role}: depth {stack.depth} but the surgery record keeps {len(record.kept)} blocks")

    def after_surgery(self, surgery: Mapping[str, Surgery]) -> ReferenceConfig:
        """The configuration of the model once `surgery` has been done."""
        merged = {**self.surgery, **surgery}
        depth = {role: len(record.kept) for role, record in merged.items()}
        return replace(
            self,
            language=replace(self.language, depth=depth.get("language", self.language.depth)),
            vision=replace(self.vision, depth=depth.get("vision.siglip", self.vision.depth)),
            surgery=merged,
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ReferenceConfig:
        """Inverse of `to_dict`.

        Raises:
            ModelError: an unknown or missing key.
        """
        try:
            rest = {k: v for k, v in data.items() if k not in ("vision", "language", "surgery", "cameras")}
            return cls(
                vision=StackConfig(**data["vision"]),
                language=StackConfig(**data["language"]),
                cameras=tuple(data["cameras"]),
                surgery={
                    role: Surgery(int(record["depth"]), *(tuple(record[name]) for name in _BLOCK_LISTS))
                    for role, record in data["surgery"].items()
                },
                **rest,
            )
        except (KeyError, TypeError) as error:
            raise ModelError(f"not a reference VLA configuration: {error}") from error
