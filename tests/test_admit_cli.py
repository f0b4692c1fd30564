# SPDX-License-Identifier: Apache-2.0
"""`python -m runtime admit`: the controller's decision as a table and as JSON, with exit codes that scripts can use."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest
from admission_factory import LIMITS, ROBOT, Cell, make_cell, write_regression
from signing_factory import nothing_revoked, trusted

from runtime.__main__ import main
from runtime.contract.regression import regression_folder
from runtime.contract.trust_store import Role
from runtime.contract.utc_time import format_utc, utc_now

pytest.importorskip("cryptography", reason="signatures need cryptography. Next: make install-dev")


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Cell:
    """Signed by the machine's own clock."""
    made = make_cell(tmp_path_factory.mktemp("cell"))
    made.sign(issued_at=format_utc(utc_now()), expires_at=format_utc(utc_now() + timedelta(days=1)))
    believe(made)
    return made


def believe(cell: Cell, **revoked: tuple[str, ...]) -> None:
    ends = format_utc(utc_now() + timedelta(days=1))
    keys = ((cell.who.builder, Role.BUILDER), (cell.who.releaser, Role.RELEASER))
    listed = tuple(trusted(signer, role, not_after=ends) for signer, role in keys)
    cell.believe(cell.who.trust(keys=listed, revoked=nothing_revoked(updated_at=format_utc(utc_now()), **revoked)))


def ask(cell: Cell, *more: str, robot: str = ROBOT) -> int:
    where = [str(cell.artifact.root), "--trust", str(cell.trust), "--policy", str(cell.policy)]
    return main(["admit", *where, "--robot", robot, "--threads", "1", *more])


def test_an_admitted_artifact_is_a_table_of_checks_with_golden_parity_run_here(
    cell: Cell, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(cell) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "admitted"
    assert all(line.startswith("ok ") for line in lines[:-1])
    assert any("golden parity" in line and "2 samples" in line for line in lines)


def test_a_refusal_names_found_and_expected_and_runs_no_engine(cell: Cell, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(cell, "--json", robot="fr3") == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["admitted"] is False
    states = {check["name"]: check["state"] for check in answer["checks"]}
    assert states["robot"] == "failed"
    assert states["golden parity"] == "unknown"
    assert "fr3 here; expected ur5e, which the release names" in answer["reasons"][0]


def test_limits_and_cameras_can_be_given_and_count(cell: Cell, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(cell, "--limits-sha256", "a" * 64) == 1
    assert ask(cell, "--camera", "agentview") == 1
    assert ask(cell, "--limits-sha256", LIMITS, "--camera", "wrist", "--camera", "agentview") == 0
    regression_folder(cell.artifact.root).joinpath("regression.json").unlink()
    capsys.readouterr()
    assert ask(cell) == 1
    assert "FAILED  limits" in capsys.readouterr().out
    write_regression(cell.artifact)


def test_a_revoked_artifact_and_one_that_is_not_there_are_refused(
    cell: Cell, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    believe(cell, artifacts=(cell.artifact.manifest.artifact_id,))
    assert ask(cell) == 1
    assert "was revoked on this station" in capsys.readouterr().out
    believe(cell)
    policy = ["--trust", str(cell.trust), "--policy", str(cell.policy), "--robot", ROBOT]
    assert main(["admit", str(tmp_path / "nothing"), *policy]) == 1
    assert "manifest.json" in capsys.readouterr().out


def test_a_command_without_its_station_is_a_usage_error(cell: Cell, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["admit", str(cell.artifact.root), "--robot", ROBOT])
    assert end.value.code == 2
    assert "--trust" in capsys.readouterr().err


@pytest.mark.parametrize("right", [True, False])
def test_golden_samples_are_answered_again_where_it_is_wanted(tmp_path: Path, right: bool) -> None:
    """Also by a provider that the manifest lists: what counts is the engine that is installed here."""
    import numpy as np
    from artifact_factory import artifact_files, judge, observation, write_draft

    from runtime.contract.conventions import FileRole, Verdict
    from runtime.contract.write import ArtifactFile
    from runtime.errors import BackendError
    from runtime.inference.golden import dump_golden
    from runtime.inference.proven import load_proven

    files = artifact_files()
    if not right:
        wrong = dump_golden([observation(seed) for seed in (1, 2)], np.zeros((2, 8, 7), np.float32))
        files["golden.safetensors"] = ArtifactFile(FileRole.GOLDEN, wrong)
    root = judge(write_draft(tmp_path / "draft", files=files), tmp_path / "artifact", Verdict.PROMOTE).root
    policy, proof = load_proven(root, threads=1)
    policy.close()
    assert proof is None
    if right:
        policy, proof = load_proven(root, threads=1, again=True)
        policy.close()
        assert proof is not None
        assert proof.samples == 2
    else:
        with pytest.raises(BackendError, match="of the golden samples differs"):
            load_proven(root, threads=1, again=True)


def test_what_builder_and_releaser_sign_with_the_tools_is_admitted_until_it_is_revoked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole way from the command line: keys, trust, both signatures, the decision, the revocation."""
    from admission_factory import TASK, demands, gate_json, write_policy
    from artifact_factory import judge, write_draft

    from compress import cli
    from runtime.contract.conventions import Verdict

    def compress(*arguments: object) -> None:
        assert cli.main([*map(str, arguments), "--json"]) == 0, capsys.readouterr().out

    draft = write_draft(tmp_path / "draft")
    report = gate_json(
        draft.manifest.policy_id,
        None,
        plan={"tasks": [{"index": 0, "sentence": TASK}]},
        screening=[{"task": 0, "counts": True}],
    )
    artifact = judge(draft, tmp_path / "artifact", Verdict.PROMOTE, report=report)
    trust, policy = tmp_path / "trust", write_policy(tmp_path / "station_policy.json", demands())
    for role in ("builder", "releaser"):
        compress("keygen", "--role", role, "--out", tmp_path / role, "--name", role)
        compress("trust", "add", tmp_path / role / f"{role}.trust.json", "--trust", trust)
    compress("seal", artifact.root, "--builder-key", tmp_path / "builder" / "builder.key.pem")
    key, regression = tmp_path / "releaser" / "releaser.key.pem", write_regression(artifact)
    compress("seal", artifact.root, "--releaser-key", key, "--robot", ROBOT, "--regression", regression)
    capsys.readouterr()
    ask = ["admit", str(artifact.root), "--trust", str(trust), "--policy", str(policy), "--robot", ROBOT, "--json"]
    assert main([*ask, "--threads", "1"]) == 0, capsys.readouterr().out
    facts = json.loads(capsys.readouterr().out)["facts"]
    compress("revoke", "--trust", trust, "--release", facts["release"], "--reason", "the lens was changed")
    capsys.readouterr()
    assert main(ask) == 1
    (reason,) = json.loads(capsys.readouterr().out)["reasons"]
    assert "was revoked" in reason
