# SPDX-License-Identifier: Apache-2.0
"""What the loop asks of a policy that answers later, and how it hears that there is no answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from runtime.contract.chunk import ActionChunk
from runtime.contract.guidance import Guidance
from runtime.control.observation import Snapshot
from runtime.telemetry import StopCause


class PolicyFailure(Exception):
    """The policy gave no chunk; `cause` says whether it died, was too slow, or answered with an error."""

    def __init__(self, cause: StopCause, text: str) -> None:
        super().__init__(text)
        self.cause = cause


@dataclass(frozen=True)
class Answer:
    """A chunk and the time that its inference took [s]."""

    chunk: ActionChunk
    infer_s: float


class PolicyLink(Protocol):
    """A policy that answers later; one question at a time. Nothing here blocks."""

    @property
    def in_flight(self) -> bool:
        """A question is out."""

    def ask(self, snapshot: Snapshot, instruction: str, guidance: Guidance | None = None) -> None:
        """Send the question, and what is being executed meanwhile. Raises PolicyFailure."""

    def answer(self) -> Answer | None:
        """The answer, or None if it is not there yet. Raises PolicyFailure."""
