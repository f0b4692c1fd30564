# SPDX-License-Identifier: Apache-2.0
"""What a policy is shown: images, proprioceptive state and prompt. Validated once, at construction.

Every image and the state are handed over exactly as described here; the runtime normalises, it never converts.
The action side lives in `runtime.contract.action`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from runtime.contract import check
from runtime.contract.codec import OMITTED, conform
from runtime.contract.conventions import (
    ColourOrder,
    Frame,
    Layout,
    Orientation,
    PixelDtype,
    RotationConvention,
    Unit,
)
from runtime.errors import ContractError

INSTRUCTION_FIELD = "{instruction}"
STATE_FIELD = re.compile(r"\{state:(\d+)(?::(\d+))?\}")
MAX_STATE_BINS = 65_536


@dataclass(frozen=True)
class ImageSpec:
    """One camera image as handed to the policy.

    `mean` and `std` are per channel, in this image's own channel order, on the scale 0..1: the model sees
    `(x / 255 - mean) / std`. `max_age_s` [s] is the oldest image that may be used. Raises ContractError.
    """

    key: str
    height: int
    width: int
    layout: Layout
    colour_order: ColourOrder
    orientation: Orientation
    max_age_s: float
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    dtype: PixelDtype = PixelDtype.UINT8

    def __post_init__(self) -> None:
        conform(self)
        check.identifier(self.key, "ImageSpec.key")
        check.positive(self.height, f"ImageSpec[{self.key}].height")
        check.positive(self.width, f"ImageSpec[{self.key}].width")
        check.positive(self.max_age_s, f"ImageSpec[{self.key}].max_age_s")
        for value in self.std:
            check.positive(value, f"ImageSpec[{self.key}].std")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the array to hand over, by `layout`: (H, W, 3) or (3, H, W)."""
        return (self.height, self.width, 3) if self.layout is Layout.HWC else (3, self.height, self.width)


@dataclass(frozen=True)
class StateSpec:
    """Proprioceptive state, shape (S,): names and units in order, and what pose dimensions refer to.

    `low` and `high` (per dimension, in `units`) refuse a state outside them; None means no plausibility range is known.
    Raises ContractError.
    """

    key: str
    names: tuple[str, ...]
    units: tuple[Unit, ...]
    frame: Frame
    rotation: RotationConvention
    max_age_s: float
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        conform(self)
        check.identifier(self.key, "StateSpec.key")
        check.require(len(self.names) > 0, "StateSpec.names", self.names, "at least one name")
        check.unique(self.names, "StateSpec.names")
        check.require(
            len(self.units) == self.dim, "StateSpec.units", len(self.units), f"{self.dim} units, one per name"
        )
        check.positive(self.max_age_s, "StateSpec.max_age_s")
        check.require(
            (self.low is None) == (self.high is None), "StateSpec.low/high", (self.low, self.high), "both or neither"
        )
        if self.low is not None and self.high is not None:
            check.require(
                len(self.low) == len(self.high) == self.dim, "StateSpec.low/high", self.low, f"{self.dim} numbers each"
            )
            for name, low, high in zip(self.names, self.low, self.high, strict=True):
                check.require(low < high, f"StateSpec.low/high[{name}]", (low, high), "low < high")

    @property
    def dim(self) -> int:
        """Number of state dimensions S."""
        return len(self.names)


@dataclass(frozen=True)
class PromptSpec:
    """How an instruction becomes tokens: lower-cased if told, put into `template`, right-padded to `max_tokens`
    with `pad_id`.

    A template with `{state:256}` also carries the state, as policies of the pi0.5 kind read it: each normalised
    dimension as the number of its bin of 256 over -1..1 (-1 below, as published), with spaces between; `{state:256:32}`
    fills up to 32 dimensions with zeros first.
    A prompt longer than `max_tokens` is refused, never cut.
    `tasks` closes the list of instructions: the graph's token table then holds their tokens only, and any other
    instruction is refused. None means that every instruction may be given. Raises ContractError.
    """

    template: str
    max_tokens: int
    pad_id: int
    lowercase: bool
    add_special_tokens: bool = True
    tokenizer_file: str = "tokenizer.json"
    tasks: tuple[str, ...] | None = field(default=None, metadata=OMITTED)

    def __post_init__(self) -> None:
        conform(self)
        once = self.template.count(INSTRUCTION_FIELD) == 1
        check.require(once, "PromptSpec.template", self.template, f"text with {INSTRUCTION_FIELD} exactly once")
        fields = STATE_FIELD.findall(self.template)
        fine = len(fields) <= 1 and all(1 < int(bins) <= MAX_STATE_BINS for bins, _ in fields)
        check.require(
            fine, "PromptSpec.template", self.template, f"at most one state field, 2 to {MAX_STATE_BINS} bins"
        )
        check.positive(self.max_tokens, "PromptSpec.max_tokens")
        check.require(self.pad_id >= 0, "PromptSpec.pad_id", self.pad_id, "a token id >= 0")
        check.relative_path(self.tokenizer_file, "PromptSpec.tokenizer_file")
        if self.tasks is not None:
            check.require(
                len(self.tasks) > 0 and all(map(str.strip, self.tasks)), "PromptSpec.tasks", self.tasks,
                "at least one instruction, none of them empty",
            )  # fmt: skip
            check.unique(map(self._cased, self.tasks), "PromptSpec.tasks")

    @property
    def needs_state(self) -> bool:
        """Whether the prompt depends on the state."""
        return STATE_FIELD.search(self.template) is not None

    def _cased(self, instruction: str) -> str:
        return instruction.lower() if self.lowercase else instruction

    def admits(self, instruction: str) -> bool:
        """Whether the list of tasks, if there is one, has this instruction; case counts unless it is lowered."""
        return self.tasks is None or self._cased(instruction) in set(map(self._cased, self.tasks))

    def render(self, instruction: str, state: NDArray[np.floating] | None = None) -> str:
        """The text that is tokenised.

        Args:
            instruction: the sentence.
            state: normalised, (S,); only where `needs_state`.
        """
        before, after = self.template.split(INSTRUCTION_FIELD)
        return _with_state(before, state) + self._cased(instruction) + _with_state(after, state)


def _with_state(template: str, state: NDArray[np.floating] | None) -> str:
    field = STATE_FIELD.search(template)
    if field is None:
        return template
    if state is None:
        raise ContractError(f"prompt: {template!r} carries the state, and none was given")
    bins, width = int(field[1]), int(field[2] or 0)
    padded = np.concatenate([state, np.zeros(max(0, width - len(state)))])
    numbers = np.digitize(padded, np.linspace(-1.0, 1.0, bins + 1)[:-1]) - 1
    return template[: field.start()] + " ".join(map(str, numbers)) + template[field.end() :]


@dataclass(frozen=True)
class ObservationSpec:
    """Everything the policy is shown at one instant; images in graph order, all of one size.

    `max_skew_s` [s] bounds the spread of stamps among images and state. Raises ContractError.
    """

    images: tuple[ImageSpec, ...]
    state: StateSpec
    max_skew_s: float

    def __post_init__(self) -> None:
        conform(self)
        check.require(len(self.images) > 0, "ObservationSpec.images", self.images, "at least one camera")
        check.unique((*self.image_keys, self.state.key), "ObservationSpec keys")
        check.positive(self.max_skew_s, "ObservationSpec.max_skew_s")
        sizes = sorted({(image.height, image.width) for image in self.images})
        check.require(len(sizes) == 1, "ObservationSpec.images", sizes, "one height and width for all cameras")

    @property
    def image_keys(self) -> tuple[str, ...]:
        """Camera keys in graph order."""
        return tuple(image.key for image in self.images)

    @property
    def keys(self) -> tuple[str, ...]:
        """Every key that an observation must hold: cameras in order, then state."""
        return (*self.image_keys, self.state.key)


def orient(frame: NDArray[np.uint8], spec: ImageSpec) -> NDArray[np.uint8]:
    """Turn a raw camera frame (already in `spec.layout`) into the policy's orientation.

    For sources, never for `Policy`.
    """
    if spec.orientation is Orientation.AS_CAMERA:
        return frame
    rows = 0 if spec.layout is Layout.HWC else 1
    return np.ascontiguousarray(np.flip(frame, axis=(rows, rows + 1)))
