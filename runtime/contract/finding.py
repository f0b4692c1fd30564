# SPDX-License-Identifier: Apache-2.0
"""One thing that must hold before an arm moves: what was found, what was expected, and whether it holds."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.errors import DropGateRuntimeError

REASON_CHARACTERS = 2000


@dataclass(frozen=True)
class Check:
    """One thing that must hold. `ok` None: it could not be looked at, because something before it failed."""

    name: str
    ok: bool | None
    found: str
    expected: str

    @property
    def reason(self) -> str:
        """For people: what was found, what was expected."""
        return f"{self.name}: {self.found}" + (f"; expected {self.expected}" if self.expected else "")


def had(name: str, part: object) -> Check:
    """A part that is there, or the error in its place."""
    if isinstance(part, DropGateRuntimeError):
        return Check(name, False, bounded(str(part)), "")
    if part is None:
        return Check(name, None, "unknown", "")
    return Check(name, True, "good", "")


def bounded(text: str) -> str:
    """What a file says may be long; a reason is one sentence."""
    return text if len(text) <= REASON_CHARACTERS else f"{text[:REASON_CHARACTERS]} ..."
