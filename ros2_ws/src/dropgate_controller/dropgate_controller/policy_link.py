# SPDX-License-Identifier: Apache-2.0
"""The policy worker as the controller's tick wants it: ask, poll, and failures with a cause."""

from __future__ import annotations

from runtime.contract.guidance import Guidance
from runtime.control.observation import Snapshot
from runtime.control.policy_link import Answer, PolicyFailure
from runtime.errors import DropGateRuntimeError
from runtime.inference.messages import Failure
from runtime.inference.worker_client import PolicyWorker
from runtime.telemetry import StopCause


class WorkerLink:
    """`runtime.control.controller.PolicyLink` over a `PolicyWorker`. A dead worker is reported once per life."""

    def __init__(self, worker: PolicyWorker) -> None:
        self._worker = worker
        self._reported = False
        self.suspended = False  # while the worker is being started elsewhere: it is not thread-safe

    @property
    def in_flight(self) -> bool:
        """A question is out."""
        return self._worker.in_flight is not None

    def ask(self, snapshot: Snapshot, instruction: str, guidance: Guidance | None = None) -> None:
        """Send the question. Raises PolicyFailure."""
        try:
            self._worker.request(snapshot.inputs, instruction, snapshot.stamp_s, guidance)
        except DropGateRuntimeError as error:
            raise PolicyFailure(StopCause.POLICY_ERROR, str(error)) from error

    def answer(self) -> Answer | None:
        """The answer, if it is there. Raises PolicyFailure."""
        if self.suspended:
            return None
        found = self._worker.poll()
        if isinstance(found, Failure):
            raise PolicyFailure(StopCause.POLICY_ERROR, f"{found.error}: {found.text}")
        if found is not None:
            return Answer(found.chunk, found.infer_s)
        if not self._worker.alive and not self._reported:
            self._reported = True
            raise PolicyFailure(self._worker.cause, self._worker.died_because)
        return None

    def restarted(self) -> None:
        """A new life has begun."""
        self._reported = False
