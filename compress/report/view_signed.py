# SPDX-License-Identifier: Apache-2.0
"""Signatures for a person: who built it, who let it move which robot, until when; or that nobody did."""

from __future__ import annotations

from dataclasses import dataclass

from compress.report import signed_state as state
from compress.report.evidence import Evidence
from compress.report.view_head import Fact
from runtime.contract.statements import ReleaseStatement
from runtime.contract.trust_store import TrustedKey

CHECK = "compress report ARTIFACT --trust DIR --output page.html"
AFTERWARDS = "Signatures are made over the finished artifact, so a page inside it, or made before it, cannot show them."


@dataclass(frozen=True)
class Signatures:
    """What the page shows.

    Attributes:
        word: RELEASED, BUILT, NOT RELEASED, NOT SIGNED, REFUSED or NOT CHECKED.
        sentence: what that means, for the head of the page.
        next: command, or empty.
        facts: rows of the table; empty unless something was vouched for.
        tasks: sentences that the release names.
    """

    word: str
    sentence: str
    next: str = ""
    facts: tuple[Fact, ...] = ()
    tasks: tuple[str, ...] = ()


def signatures(evidence: Evidence) -> Signatures:
    """Nothing is checked again."""
    found = evidence.signed
    if found.state == state.NO_ARTIFACT:
        what = {"run": "a run folder", "gate": "a gate folder"}.get(evidence.kind, "this")
        return Signatures("NOT SIGNED", f"Not signed: {what} is no sealed artifact. {AFTERWARDS}", CHECK)
    if found.state == state.UNCHECKED:
        there = "There are signatures, which were not checked" if found.present else "There are no signatures"
        return Signatures(
            "NOT CHECKED" if found.present else "NOT SIGNED", f"{there}: origin unknown. {AFTERWARDS}", CHECK
        )
    where = f"Checked at {found.checked_at} against {found.store}"
    if found.state == state.UNSIGNED:
        return Signatures(
            "NOT SIGNED", f"Not signed. {where}: {found.reason}.", "compress seal ARTIFACT --builder-key KEY"
        )
    if found.state == state.REFUSED or found.signed is None:
        return Signatures("REFUSED", f"The signatures are refused. {where}: {found.reason}.")
    build, release = found.signed.build, found.signed.release
    facts = [
        Fact("built by", _name(found.signed.builder), _key(found.signed.builder)),
        Fact("signed at", build.signed_at),
    ]
    if release is None:
        sentence = f"Built by {_name(found.signed.builder)}, but not released: no robot may move with it. {where}."
        again = "compress seal ARTIFACT --releaser-key KEY --robot NAME --regression FILE"
        return Signatures("BUILT, NOT RELEASED", sentence, again, tuple(facts))
    releaser = found.signed.releaser
    facts += [Fact("released by", _name(releaser), _key(releaser)), *_released(release)]
    sentence = (
        f"Released by {_name(releaser)} for {release.robot}, {len(release.tasks)} "
        f"task{'' if len(release.tasks) == 1 else 's'}, until {release.expires_at}. {where}."
    )
    return Signatures("RELEASED", sentence, "", tuple(facts), release.tasks)


def _released(release: ReleaseStatement) -> list[Fact]:
    return [
        Fact("for the robot", release.robot),
        Fact("issued at", release.issued_at),
        Fact("until", release.expires_at),
        Fact("limits of the filter", "", release.limits_sha256),
        Fact("control step", f"{release.control_dt_s:g} s"),
        Fact("cameras", ", ".join(release.cameras)),
        Fact("gate evidence", release.verdict.value, release.gate_sha256),
        Fact("serial", release.serial),
    ]


def _name(key: TrustedKey | None) -> str:
    return "unknown" if key is None else f"{key.name} ({key.role.value}, key ends {key.not_after})"


def _key(key: TrustedKey | None) -> str:
    return "" if key is None else key.keyid
