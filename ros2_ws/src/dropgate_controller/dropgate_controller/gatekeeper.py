# SPDX-License-Identifier: Apache-2.0
"""May the arm be armed, may this task begin? Asked at configure, at every arming and at every goal; each answer is
written down before it counts.

A real arm needs `runtime.contract.admission`, and nothing overrides it. Shadow mode needs nothing and can never arm. A
simulated arm needs no release, because a release rests on what it does; its commands go where no real arm listens.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from dropgate_controller.parameters import Station, World
from runtime.contract.admission import GOLDEN, Admission, StationFacts
from runtime.contract.admission_evidence import decide, untouched
from runtime.contract.artifact import Artifact
from runtime.contract.decision_log import log_decision
from runtime.contract.finding import Check
from runtime.contract.utc_time import utc_now
from runtime.control.state import NotAllowed
from runtime.errors import DropGateRuntimeError, GateRefusedError
from runtime.safety.limits import limits_digest


class Gatekeeper:
    """Of one configuration: its artifact, its station, and the last decision."""

    def __init__(self, artifact: Artifact, station: Station, now: Callable[[], datetime] = utc_now) -> None:
        self._artifact, self._station, self._now = artifact, station, now
        self._facts = StationFacts(
            robot=station.robot,
            limits_sha256=limits_digest(station.limits, station.timing),
            cameras=tuple(camera.key for camera in station.cameras),
            control_dt_s=artifact.manifest.policy.action.dt_s,
        )
        self.admission = self._decide()
        self.refused = ""  # why the last arming or goal was not allowed
        self.tell: Callable[[dict[str, Any]], None] = lambda decision: None  # hears every decision once it is logged

    @property
    def world(self) -> World:
        """What hears the commands."""
        return self._station.world

    @property
    def values(self) -> dict[str, str]:
        """For diagnostics."""
        facts = self.admission.facts
        said = "admitted" if self.admission.admitted else "; ".join(self.admission.reasons)
        return {
            "world": self.world.value,
            "admission": said,
            "refused": self.refused,
            "release": str(facts.get("release", "")),
            "release expires at": str(facts.get("expires_at", "")),
            "limits sha256": self._facts.limits_sha256,
            "decision log": str(self._station.evidence_dir),
        }

    def before_loading(self) -> None:
        """All that can be known without running the policy. Raises GateRefusedError: a real arm, not admitted."""
        if self.world is World.REAL and not self.admission.admitted:
            self._log("configure", motion=False)
            raise GateRefusedError("not admitted: " + "; ".join(self.admission.reasons))

    def loaded(self, why_not: DropGateRuntimeError | None = None) -> None:
        """The worker has answered the golden samples (it is asked to where a real arm moves), or why it has not.

        Raises:
            runtime.errors.TrustError: the decision cannot be written down.
        """
        if self.world is World.REAL:
            self.admission = self.admission.plus(_golden(why_not))
        self._log("configure", motion=why_not is None and self.world is not World.SHADOW)

    def may_arm(self, worker_ready: bool) -> None:
        """Everything again, from the disk. Raises NotAllowed with every reason."""
        if self.world is World.SHADOW:
            self.refused = "shadow mode never arms: give the task directly (~/run_task), nothing is sent to the robot"
            raise NotAllowed(self.refused)
        if self.world is World.REAL:
            gone = None if worker_ready else GateRefusedError("the worker that answered the golden samples is gone")
            self.admission = self._decide().plus(untouched(self._artifact), _golden(gone))
            self._settle("arm", "; ".join(self.admission.reasons))
            return
        files = untouched(self._artifact)
        self._settle("arm", "" if files.ok else files.reason)

    def may_begin(self, instruction: str) -> None:
        """A goal's sentence must be released, and the release not have expired meanwhile. Raises NotAllowed."""
        why = ""
        if self.world is World.REAL:
            why = self.admission.objection(instruction, self._artifact.manifest.policy.prompt, self._now())
        self._settle("goal", why, instruction)

    def _decide(self) -> Admission:
        station = self._station
        return decide(self._artifact, station.trust_store, station.station_policy, self._facts, self._now())

    def _settle(self, when: str, why: str, instruction: str = "") -> None:
        """Write the decision down; what cannot be written down is not allowed."""
        motion = self.world is not World.SHADOW and not why
        motion &= self.world is not World.REAL or self.admission.admitted
        try:
            self._log(when, motion, why, instruction)
        except DropGateRuntimeError as error:
            why = str(error)
        self.refused = why
        if why or (not motion and self.world is not World.SHADOW):
            raise NotAllowed(why or "not admitted")

    def _log(self, when: str, motion: bool, why: str = "", instruction: str = "") -> None:
        decision = self.admission.to_json() | {"world": self.world.value, "motion": motion}
        if why and why not in decision["reasons"]:
            decision["refused"] = why
        if instruction:
            decision["instruction"] = instruction
        log_decision(self._station.evidence_dir, when, self._now(), decision)
        reasons = [why] if why else [] if motion else list(decision["reasons"])
        self.tell({"when": when, "motion": motion, "reasons": reasons, "instruction": instruction})


def note_refusal(folder: Path, robot: str, error: Exception) -> None:
    """An artifact or a station that could not even be read: written down too. Raises TrustError."""
    facts = {"robot": robot}
    log_decision(
        folder, "configure", utc_now(), {"admitted": False, "motion": False, "reasons": [str(error)], "facts": facts}
    )


def _golden(why_not: DropGateRuntimeError | None) -> Check:
    if why_not is None:
        return Check(GOLDEN, True, "this very engine answered the golden samples within tolerance", "")
    return Check(GOLDEN, False, str(why_not), "the answers in golden.safetensors, from this very engine")
