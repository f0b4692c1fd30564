# SPDX-License-Identifier: Apache-2.0
"""The ceremony at the command line: keygen, trust add, seal by builder and releaser, verify, revoke."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import artifact_factory
import pytest

from compress import cli
from compress.verbs.keygen import ROLES
from runtime.__main__ import main as runtime_main
from runtime.contract.artifact import Artifact, read_artifact
from runtime.contract.conventions import FileRole, Verdict
from runtime.contract.manifest import GateSummary
from runtime.contract.statements import ReleaseStatement
from runtime.contract.trust_store import Role, TrustStore
from runtime.contract.write import ArtifactFile, extend_artifact

LIMITS = "d" * 64
GATE = {
    "verdict": "promote",
    "plan": {
        "tasks": [
            {"index": 0, "sentence": "put the red block left"},
            {"index": 2, "sentence": "put the blue block left"},
            {"index": 5, "sentence": "look away"},
        ]
    },
    "screening": [{"task": 0, "counts": True}, {"task": 2, "counts": True}, {"task": 5, "counts": False}],
}


class Desk:
    """Builder, releaser and station of one test, all through the command line."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.root, self.capsys = root, capsys
        self.trust, self.artifact = root / "trust", root / "artifact"
        self.key = {role: root / role / f"{role}.key.pem" for role in ROLES}

    def call(self, *arguments: object) -> tuple[int, dict[str, Any]]:
        code = cli.main([*map(str, arguments), "--json"])
        said = self.capsys.readouterr()
        return code, json.loads(said.out)

    def refused(self, reason: str, *arguments: object) -> None:
        code, data = self.call(*arguments)
        assert code == 2
        assert reason in data["error"]

    def release(self, *more: object) -> tuple[Any, ...]:
        return ("seal", self.artifact, "--releaser-key", self.key["releaser"], "--robot", "ur5e", *more)

    def verify(self) -> tuple[int, dict[str, Any]]:
        return self.call("verify", self.artifact, "--trust", self.trust)


def judged(folder: Path, gate: dict[str, Any], verdict: Verdict = Verdict.PROMOTE) -> Artifact:
    draft = artifact_factory.write_draft(folder)
    report = json.dumps(gate).encode()
    summary = GateSummary(
        verdict, "as good", draft.manifest.policy_id, "evidence/gate.json", hashlib.sha256(report).hexdigest()
    )
    return extend_artifact(draft, folder, {"evidence/gate.json": ArtifactFile(FileRole.EVIDENCE, report)}, summary)


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Desk:
    made = Desk(tmp_path, capsys)
    judged(made.artifact, GATE)
    for role in ROLES:
        assert made.call("keygen", "--role", role, "--out", tmp_path / role, "--name", f"{role} of the shop")[0] == 0
        assert made.call("trust", "add", tmp_path / role / f"{role}.trust.json", "--trust", made.trust)[0] == 0
    return made


@pytest.fixture
def released(desk: Desk) -> Desk:
    assert desk.call("seal", desk.artifact, "--builder-key", desk.key["builder"])[0] == 0
    assert desk.call(*desk.release("--limits-sha256", LIMITS))[0] == 0
    return desk


def test_roles_of_the_command_line_are_those_of_the_station() -> None:
    assert set(ROLES) == {role.value for role in Role}


def test_ceremony_ends_in_a_released_artifact(desk: Desk) -> None:
    assert desk.verify()[0] == 2
    assert desk.call("seal", desk.artifact, "--builder-key", desk.key["builder"])[0] == 0
    code, data = desk.verify()
    assert (code, data["builder"].split(" (")[0]) == (1, "builder of the shop")
    code, shown = desk.call(*desk.release("--limits-sha256", LIMITS, "--expires", "30d"))
    assert code == 0
    signed = ReleaseStatement.from_json(shown["payload"].encode())
    manifest = read_artifact(desk.artifact).manifest
    assert signed.tasks == ("put the red block left", "put the blue block left")
    assert signed.cameras == ("agentview", "wrist")
    assert (signed.robot, signed.limits_sha256, signed.artifact_id) == ("ur5e", LIMITS, manifest.artifact_id)
    assert (signed.expires - signed.begins).days == 30
    code, data = desk.verify()
    assert (code, data["release"]["serial"]) == (0, signed.serial)
    left = {path.name for path in desk.artifact.parent.iterdir()}
    assert left == {"artifact", "trust", "builder", "releaser"}, "a temporary file was left"


def test_robot_says_the_same(released: Desk) -> None:
    trust = ["--trust", str(released.trust)]
    assert runtime_main(["verify", str(released.artifact), *trust, "--json"]) == 0
    assert json.loads(released.capsys.readouterr().out)["release"]["robot"] == "ur5e"
    (released.artifact / "signatures/release.dsse.json").unlink()
    assert runtime_main(["verify", str(released.artifact), *trust]) == 1
    shutil.rmtree(released.artifact / "signatures")
    assert runtime_main(["verify", str(released.artifact), *trust]) == 1
    assert "unsigned" in released.capsys.readouterr().err


def test_without_a_trust_store_origin_is_said_to_be_unknown(released: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    code, data = released.call("verify", released.artifact)
    assert code == 0
    assert "integrity only" in data["origin"]
    assert cli.main(["verify", str(released.artifact)]) == 0
    assert "integrity only, origin unknown" in capsys.readouterr().out
    assert runtime_main(["verify", str(released.artifact)]) == 0
    assert "integrity only" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["key", "artifact", "release"])
def test_what_is_revoked_is_refused(released: Desk, kind: str) -> None:
    facts = released.verify()[1]
    store = TrustStore.load(released.trust)
    identity = {
        "key": store.keys[0].keyid, "artifact": facts["artifact_id"], "release": facts["release"]["serial"]
    }[kind]  # fmt: skip
    command = ("revoke", "--trust", released.trust, f"--{kind}", identity, "--reason", "the key was on a lost laptop")
    assert released.call(*command)[1]["new"] is True
    code, data = released.verify()
    assert code == 2
    assert "revoked on this station" in data["problem"]
    assert released.call(*command)[1]["new"] is False
    lines = (released.trust / "revocations.jsonl").read_text().splitlines()
    assert [(json.loads(line)["id"], json.loads(line)["reason"]) for line in lines] == [
        (identity, "the key was on a lost laptop")
    ]


def test_revocations_add_up(released: Desk) -> None:
    for digit in "31f":
        assert released.call("revoke", "--trust", released.trust, "--key", digit * 64, "--reason", "x")[0] == 0
    assert TrustStore.load(released.trust).revoked.keys == ("1" * 64, "3" * 64, "f" * 64)
    assert released.verify()[0] == 0
    released.refused("SHA-256", "revoke", "--trust", released.trust, "--key", "x", "--reason", "x")
    released.refused("say why", "revoke", "--trust", released.trust, "--key", "2" * 64, "--reason", " ")


def test_signature_is_never_replaced_silently(released: Desk) -> None:
    envelope = released.artifact / "signatures/build.dsse.json"
    before = envelope.read_bytes()
    sign = ("seal", released.artifact, "--builder-key", released.key["builder"])
    released.refused("it stays", *sign)
    assert envelope.read_bytes() == before
    assert released.call(*sign, "--replace", "--dry-run")[1]["written"] is None
    assert envelope.read_bytes() == before
    assert released.call(*sign, "--replace")[0] == 0
    assert released.verify()[0] == 0


def test_held_artifact_is_not_released(desk: Desk) -> None:
    judged(desk.artifact, {**GATE, "verdict": "hold"}, Verdict.HOLD)
    assert desk.call("seal", desk.artifact, "--builder-key", desk.key["builder"])[0] == 0
    desk.refused("only a promoted artifact", *desk.release("--limits-sha256", LIMITS))


@pytest.mark.parametrize(
    ("gate", "reason"),
    [
        ({**GATE, "verdict": "hold"}, "says 'hold'"),
        ({"verdict": "promote"}, "names no judged tasks"),
        ({**GATE, "screening": []}, "names no judged tasks"),
        ({**GATE, "screening": [{"task": 0, "counts": "yes"}, {"task": 2}, 5]}, "names no judged tasks"),
        ({**GATE, "plan": {"tasks": [{"index": 0}]}}, "names no judged tasks"),
    ],
)
def test_report_that_does_not_say_what_was_judged_is_not_released(
    desk: Desk, gate: dict[str, Any], reason: str
) -> None:
    judged(desk.artifact, gate)
    assert desk.call("seal", desk.artifact, "--builder-key", desk.key["builder"])[0] == 0
    desk.refused(reason, *desk.release("--limits-sha256", LIMITS))


def test_a_task_that_proved_nothing_is_not_released(desk: Desk) -> None:
    """Its pairs were never run: the plan names it, the verdict is not about it."""
    judged(desk.artifact, GATE)
    assert desk.call("seal", desk.artifact, "--builder-key", desk.key["builder"])[0] == 0
    payload = json.loads(desk.call(*desk.release("--limits-sha256", LIMITS, "--dry-run"))[1]["payload"])
    assert payload["tasks"] == ["put the red block left", "put the blue block left"]


def test_one_person_cannot_be_both(desk: Desk) -> None:
    desk.refused("the builder signs first", *desk.release("--limits-sha256", LIMITS))
    builder = desk.key["builder"]
    assert desk.call("seal", desk.artifact, "--builder-key", builder)[0] == 0
    same = ("seal", desk.artifact, "--releaser-key", builder, "--robot", "ur5e", "--limits-sha256", LIMITS)
    desk.refused("signed the build", *same)


def regression(desk: Desk, **changes: Any) -> Path:
    manifest = read_artifact(desk.artifact).manifest
    data = {
        "schema": "dropgate.regression/1", "artifact_id": manifest.artifact_id, "policy_id": manifest.policy_id,
        "robot": "ur5e", "verdict": "pass", "limits_sha256": "e" * 64, **changes,
    }  # fmt: skip
    path = desk.root / "regression.json"
    path.write_text(json.dumps({name: value for name, value in data.items() if value is not None}))
    return path


def test_limits_come_from_the_regression(desk: Desk) -> None:
    assert desk.call("seal", desk.artifact, "--builder-key", desk.key["builder"])[0] == 0
    assert desk.call(*desk.release("--regression", regression(desk)))[0] == 0
    assert desk.verify()[1]["release"]["limits_sha256"] == "e" * 64


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"verdict": "fail"}, "verdict 'fail'"),
        ({"robot": "fr3"}, "robot 'fr3'"),
        ({"artifact_id": "f" * 64}, "artifact_id"),
        ({"limits_sha256": None}, "has no limits_sha256"),
    ],
)
def test_regression_of_something_else_is_refused(desk: Desk, changes: dict[str, Any], reason: str) -> None:
    assert desk.call("seal", desk.artifact, "--builder-key", desk.key["builder"])[0] == 0
    desk.refused(reason, *desk.release("--regression", regression(desk, **changes)))


def test_damaged_artifact_is_not_signed(desk: Desk) -> None:
    with (desk.artifact / "policy.onnx").open("ab") as stream:
        stream.write(b"x")
    desk.refused("changed: policy.onnx", "seal", desk.artifact, "--builder-key", desk.key["builder"])
    assert not (desk.artifact / "signatures").exists()


def test_options_of_a_release_do_not_belong_to_a_build(desk: Desk) -> None:
    desk.refused("--robot", "seal", desk.artifact, "--builder-key", desk.key["builder"], "--robot", "ur5e")
    desk.refused("needs --robot", "seal", desk.artifact, "--releaser-key", desk.key["releaser"])


def test_private_key_is_its_owners_alone(desk: Desk) -> None:
    key = desk.key["builder"]
    assert key.stat().st_mode & 0o777 == 0o600
    assert key.parent.stat().st_mode & 0o777 == 0o700
    desk.refused("is there already", "keygen", "--role", "builder", "--out", key.parent)
    key.chmod(0o640)
    desk.refused("chmod 600", "seal", desk.artifact, "--builder-key", key)
    key.chmod(0o600)
    link = desk.root / "link.pem"
    link.symlink_to(key)
    desk.refused("is a link", "seal", desk.artifact, "--builder-key", link)


def test_encrypted_key_signs_with_its_passphrase(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = desk.root / "passphrase"
    secret.write_text("correct horse\n")
    secret.chmod(0o600)
    folder = desk.root / "locked"
    assert desk.call("keygen", "--role", "builder", "--out", folder, "--passphrase-file", secret)[1]["encrypted"]
    assert b"ENCRYPTED" in (folder / "builder.key.pem").read_bytes()
    sign = ("seal", desk.artifact, "--builder-key", folder / "builder.key.pem")
    desk.refused("needs --passphrase", *sign)
    monkeypatch.setenv("PASS", "wrong")
    desk.refused("no private key that can be read", *sign, "--passphrase-env", "PASS")
    monkeypatch.delenv("PASS")
    desk.refused("empty or not set", *sign, "--passphrase-env", "PASS")
    assert desk.call(*sign, "--passphrase-file", secret)[0] == 0
    secret.chmod(0o644)
    desk.refused("chmod 600", *sign, "--replace", "--passphrase-file", secret)


def test_store_is_written_safely_under_any_umask(desk: Desk) -> None:
    before = os.umask(0o000)
    try:
        folder, trust = desk.root / "other", desk.root / "station2"
        assert desk.call("keygen", "--role", "builder", "--out", folder)[0] == 0
        assert desk.call("trust", "add", folder / "builder.trust.json", "--trust", trust)[0] == 0
    finally:
        os.umask(before)
    code, data = desk.call("trust", "list", "--trust", trust)
    assert code == 0
    assert [key["role"] for key in data["keys"]] == ["builder"]
    assert data["revoked"]["keys"] == []


def test_known_and_revoked_keys_are_not_added(desk: Desk) -> None:
    entry = desk.root / "builder/builder.trust.json"
    desk.refused("knows this key already", "trust", "add", entry, "--trust", desk.trust)
    data = json.loads(entry.read_text())
    other = desk.root / "entry.json"
    other.write_text(json.dumps({**data, "role": "releaser"}))
    desk.refused("one key has one role", "trust", "add", other, "--trust", desk.trust)
    other.write_text(json.dumps({**data, "keyid": "0" * 64}))
    desk.refused("the SHA-256 of its public_key", "trust", "add", other, "--trust", desk.trust)
    assert desk.call("keygen", "--role", "builder", "--out", desk.root / "third")[0] == 0
    third = desk.root / "third/builder.trust.json"
    keyid = json.loads(third.read_text())["keyid"]
    assert desk.call("revoke", "--trust", desk.trust, "--key", keyid, "--reason", "never used")[0] == 0
    desk.refused("was revoked here", "trust", "add", third, "--trust", desk.trust)


def test_lost_revocations_are_not_an_empty_list(desk: Desk) -> None:
    (desk.trust / "revoked.json").unlink()
    desk.refused("revoked.json is not there", "trust", "list", "--trust", desk.trust)
    desk.refused("revoked.json is not there", "revoke", "--trust", desk.trust, "--key", "0" * 64, "--reason", "x")
    assert desk.verify()[0] == 2


def test_new_verdict_takes_the_signatures_away(released: Desk) -> None:
    """They were about the old manifest."""
    judged(released.artifact, {**GATE, "note": "again"})
    code, data = released.verify()
    assert code == 2
    assert "unsigned" in data["problem"]
