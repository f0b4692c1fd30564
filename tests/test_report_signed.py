# SPDX-License-Identifier: Apache-2.0
"""The page says who built and released an artifact, for which robot and until when; or, clearly, that nobody did."""

from __future__ import annotations

import dataclasses
import json
import re
from datetime import timedelta
from pathlib import Path

import artifact_factory
import pytest
import signing_factory as signing
from report_page import page
from test_gate_judge import good, plan_of, play

from compress import cli
from compress.gate.floor import task_floors
from compress.gate.judge import judge
from compress.gate.policies import PolicySource
from compress.gate.report import write_report
from compress.gate.spec import GateSpec
from compress.gate.verdict import verdict_of
from compress.report import ReportError
from runtime.contract.artifact import load_manifest
from runtime.contract.conventions import Verdict
from runtime.contract.manifest import SIGNATURES_DIR
from runtime.contract.statements import RELEASE_FILE
from runtime.contract.utc_time import format_utc
from runtime.errors import TrustError

NASTY = "put <script>alert('1')</script> & \"block\" in the tray"
SPEC = GateSpec(panels={})


@pytest.fixture(scope="module")
def who() -> signing.People:
    return signing.people()


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    """A promoted artifact with the gate's real report, not signed yet."""
    folder = tmp_path / "artifact"
    files = {name: file for name, file in artifact_factory.artifact_files().items() if "evidence" not in name}
    draft = artifact_factory.write_draft(folder, files=files)
    arms = {"candidate": PolicySource(draft.manifest.policy_id), "baseline": PolicySource("b" * 64)}
    plan = plan_of(SPEC)
    plan = dataclasses.replace(plan, arms={name: source.identity for name, source in arms.items()})
    rows = play(plan, good)
    floors = task_floors(plan, rows)
    judgement = judge(plan, floors, rows)
    write_report(tmp_path / "gate", SPEC, *verdict_of(plan, floors, judgement, ()), arms, plan, floors, judgement, rows)
    artifact_factory.judge(draft, folder, Verdict.PROMOTE, report=(tmp_path / "gate/gate.json").read_bytes())
    return folder


@pytest.fixture
def trust(tmp_path: Path, who: signing.People) -> Path:
    return signing.write_trust(tmp_path / "trust", who.trust())


def said(found) -> str:
    """The verdict box's word on signatures."""
    return re.search(r"Signatures: ([A-Z, ]+)\.", found.text)[1]


def test_a_release_is_shown_with_robot_tasks_limits_and_its_end(
    sealed: Path, tmp_path: Path, trust: Path, who: signing.People
) -> None:
    release = signing.release_statement(*load_manifest(sealed), tasks=("pick up the red cube", NASTY))
    signing.write_signatures(sealed, who, release=release)
    found = page(sealed, tmp_path / "out.html", trust=trust, now=signing.NOW)
    assert said(found) == "RELEASED"
    for value in (
        release.robot,
        release.serial,
        release.issued_at,
        release.expires_at,
        *release.tasks,
        *release.cameras,
    ):
        assert value in found.text
    assert f"{release.control_dt_s:g} s" in found.text
    titles = [attributes.get("title") for tag, attributes in found.tags if tag == "abbr"]
    assert {release.limits_sha256, release.gate_sha256, who.builder.keyid, who.releaser.keyid} <= set(titles)
    assert f"Checked at {format_utc(signing.NOW)}" in found.text
    assert "the releaser (releaser" in found.text
    assert not [tag for tag, _ in found.tags if tag == "script"]


def test_without_a_trust_store_nothing_is_believed(sealed: Path, tmp_path: Path, who: signing.People) -> None:
    assert said(page(sealed, tmp_path / "a.html")) == "NOT SIGNED"
    signing.write_signatures(sealed, who)
    found = page(sealed, tmp_path / "b.html")
    assert said(found) == "NOT CHECKED"
    assert "compress report ARTIFACT --trust DIR" in found.text
    assert "ur5e" not in found.text


def test_an_unsigned_artifact_is_said_to_be_unsigned(sealed: Path, tmp_path: Path, trust: Path) -> None:
    found = page(sealed, tmp_path / "out.html", trust=trust, now=signing.NOW)
    assert said(found) == "NOT SIGNED"
    assert "Not signed. Checked at" in found.text


def test_a_build_alone_releases_nothing(sealed: Path, tmp_path: Path, trust: Path, who: signing.People) -> None:
    signing.write_signatures(sealed, who)
    (sealed / SIGNATURES_DIR / RELEASE_FILE).unlink()
    found = page(sealed, tmp_path / "out.html", trust=trust, now=signing.NOW)
    assert said(found) == "BUILT, NOT RELEASED"
    assert "no robot may move with it" in found.text


@pytest.mark.parametrize("why", ["expired", "revoked", "stranger"])
def test_a_signature_that_does_not_count_is_refused_with_its_reason(
    sealed: Path, tmp_path: Path, who: signing.People, why: str
) -> None:
    signing.write_signatures(sealed, who)
    now = signing.NOW + timedelta(days=91 if why == "expired" else 0)
    revoked = signing.nothing_revoked(releases=(signing.SERIAL,) if why == "revoked" else ())
    store = (signing.people() if why == "stranger" else who).trust(revoked=revoked)
    found = page(sealed, tmp_path / "out.html", trust=signing.write_trust(tmp_path / "store", store), now=now)
    assert said(found) == "REFUSED"
    assert {"expired": "expired at", "revoked": "was revoked", "stranger": "unknown to this station"}[why] in found.text
    assert "Released for these tasks" not in found.text


def test_a_store_that_others_may_write_makes_no_page(sealed: Path, tmp_path: Path, trust: Path) -> None:
    trust.chmod(0o777)
    with pytest.raises(TrustError):
        page(sealed, tmp_path / "out.html", trust=trust, now=signing.NOW)
    assert not (tmp_path / "out.html").exists()


def test_a_gate_folder_is_never_signed(sealed: Path, tmp_path: Path, trust: Path) -> None:
    found = page(tmp_path / "gate", tmp_path / "out.html", trust=trust, now=signing.NOW)
    assert said(found) == "NOT SIGNED"
    assert "a gate folder is no sealed artifact" in found.text


def test_the_verb_takes_a_trust_store_and_an_output(
    sealed: Path, tmp_path: Path, trust: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "page.html"
    assert cli.main(["report", str(sealed), "--trust", str(trust), "--output", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["report"] == str(out)
    assert "NOT SIGNED" in out.read_text()


def test_a_page_is_not_written_into_the_artifact(sealed: Path, trust: Path) -> None:
    with pytest.raises(ReportError, match="inside the artifact"):
        page(sealed, sealed / "out.html", trust=trust, now=signing.NOW)
