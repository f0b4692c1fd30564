# SPDX-License-Identifier: Apache-2.0
"""Which blocks published cuts kept, and with what success: `published_plans.yaml`, read and checked."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from compress.settings import SettingsError, from_plain
from compress.strict_yaml import load_yaml

FILE = Path(__file__).with_name("published_plans.yaml")


@dataclass(frozen=True)
class Result:
    """One published number.

    Attributes:
        benchmark: what was run.
        success: in percent, after recovery.
        full: of the same policy without a cut, on the same benchmark.
        budget: of the recovery, where it is stated.
    """

    benchmark: str
    success: float
    full: float | None = None
    budget: str = ""

    def text(self) -> str:
        """`LIBERO 94 % (full 91.7 %)`."""
        notes = [f"full {self.full:g} %"] if self.full is not None else []
        notes += [self.budget] if self.budget else []
        behind = f" ({'; '.join(notes)})" if notes else ""
        return f"{self.benchmark} {self.success:g} %{behind}"


@dataclass(frozen=True)
class PublishedPlan:
    """One published cut of one stack.

    Attributes:
        family: whose blocks these are.
        depth: blocks of the whole stack.
        keep: indices of the blocks that stay, ascending.
        source: where it was published.
        results: with which success.
        role, part: the stack, and what of a dropped block goes.
        card: the model card that states the list.
    """

    family: str
    depth: int
    keep: tuple[int, ...]
    source: str
    results: tuple[Result, ...]
    role: str = "language"
    part: str = "block"
    card: str = ""

    def __post_init__(self) -> None:
        if not self.keep or list(self.keep) != sorted({k for k in self.keep if 0 <= k < self.depth}):
            raise SettingsError(f"`keep` is {list(self.keep)}, expected ascending indices below {self.depth}")

    @property
    def drop(self) -> tuple[int, ...]:
        """Indices of the blocks that left."""
        return tuple(block for block in range(self.depth) if block not in self.keep)


@functools.cache
def presets() -> Mapping[str, PublishedPlan]:
    """All of them, by name.

    Raises:
        SettingsError, YamlError: the file was edited into something else; names the key.
    """
    return {name: from_plain(PublishedPlan, entry, name) for name, entry in load_yaml(FILE).items()}


def preset(name: str) -> PublishedPlan:
    """One of them.

    Raises:
        SettingsError: there is none of that name; lists what there is.
    """
    known = presets()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise SettingsError(f"`preset` is {name!r}, expected one of: {', '.join(known)}{hint}")
    return known[name]
