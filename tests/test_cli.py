# SPDX-License-Identifier: Apache-2.0
"""The command line: exit codes, one sentence per error, one JSON object, and nothing heavy before it is needed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import artifact_factory
import pytest

from compress import cli
from compress.pipeline import NAMES
from compress.verbs.run import STAGE_VERBS
from runtime.contract.conventions import Verdict

REPO = Path(__file__).resolve().parent.parent
VERBS = (
    "run", *STAGE_VERBS, "convert", "import", "data", "gate", "bench", "verify", "keygen", "seal", "trust", "revoke",
    "report", "doctor", "reference",
)  # fmt: skip


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = cli.main(list(arguments))
    said = capsys.readouterr()
    return code, said.out, said.err


def as_json(text: str) -> dict[str, Any]:
    found = json.loads(text)
    assert isinstance(found, dict)
    return found


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(f"name: t\nmodel: {{checkpoint: {tmp_path}/none}}\noutput: {tmp_path}/run\n")
    return path


def test_help_names_every_verb_and_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["--help"])
    text = capsys.readouterr().out
    assert end.value.code == 0
    assert all(re.search(rf"^    {verb}\b", text, flags=re.MULTILINE) for verb in VERBS)
    assert "0 ok or promote, 1 hold, 2 error, 130 interrupted" in text


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main([verb, "--help"])
    assert end.value.code == 0
    assert "usage: compress" in capsys.readouterr().out


def test_stage_verbs_are_stages() -> None:
    assert set(STAGE_VERBS) | {"gate", "report"} <= set(NAMES)


def test_help_needs_the_standard_library_only() -> None:
    blocked = ("torch", "numpy", "yaml", "rich", "scipy", "h5py", "transformers", "onnxruntime", "mujoco", "libero")
    block = f"import sys\nfor name in {blocked!r}: sys.modules[name] = None\n"
    code = f"{block}from compress.cli import main\nmain(['run', '--help'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("arguments", [[], ["runn"], ["run"], ["verify"], ["run", "a", "--unknown"]])
def test_usage_error_is_two(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 2
    assert "usage: compress" in capsys.readouterr().err


def test_missing_recipe_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(capsys, "run", "nowhere.yaml")
    assert (code, out) == (2, "")
    assert err.startswith("compress run: nowhere.yaml: cannot be read (No such file or directory); ")
    assert (err.count("\n"), err[-1]) == (1, "\n")


def test_error_as_json_is_one_object_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call(capsys, "run", "nowhere.yaml", "--json")
    found = as_json(out)
    assert code == found["exit_code"] == 2
    assert (found["ok"], found["verb"]) == (False, "run")
    assert "nowhere.yaml" in found["error"]
    assert "Traceback" not in err


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--debug", "run", "nowhere.yaml"], ["run", "nowhere.yaml", "--debug"]):
        code, _, err = call(capsys, *arguments)
        assert code == 2
        assert "Traceback" in err


def test_typo_in_recipe_reaches_the_user(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("name: x\nprobe: {sampels: 3}\n")
    code, _, err = call(capsys, "run", str(path))
    assert code == 2
    assert "did you mean `probe.samples`?" in err


def test_unknown_stage_reaches_the_user(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, "run", str(recipe), "--until", "prob")
    assert code == 2
    assert "no stage 'prob'; the stages are: data, trim, probe, plan" in err


def test_library_error_is_named_and_leads_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.sentence(KeyError("x")) == "KeyError: 'x'. Next: the same command with --debug shows where"
    assert cli.sentence(ModuleNotFoundError("No module named 'torch'")).endswith(
        "Next: compress doctor (it lists what is missing and how to install it)"
    )
    assert cli.sentence(OSError(2, "No such file", "f")) == "[Errno 2] No such file: 'f'"
    assert cli.sentence(ValueError("a\n  b")).startswith("ValueError: a b.")


@pytest.mark.parametrize(("verdict", "code"), [(Verdict.PROMOTE, 0), (Verdict.HOLD, 1)])
def test_verify_exits_by_verdict(
    tmp_path: Path, verdict: Verdict, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact_factory.judge(artifact_factory.write_draft(tmp_path / "draft"), tmp_path / "a", verdict)
    found, out, _ = call(capsys, "verify", str(tmp_path / "a"), "--json")
    assert found == code
    assert as_json(out)["verdict"] == verdict.value
    assert as_json(out)["intact"] is True


def test_verify_of_a_draft_is_a_hold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    artifact_factory.write_draft(tmp_path / "draft")
    code, out, _ = call(capsys, "verify", str(tmp_path / "draft"))
    assert code == 1
    assert "draft: no gate verdict yet; run: compress gate" in out


def test_verify_of_a_damaged_artifact_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    artifact_factory.judge(artifact_factory.write_draft(tmp_path / "draft"), tmp_path / "a", Verdict.PROMOTE)
    with (tmp_path / "a" / "policy.onnx").open("ab") as stream:
        stream.write(b"x")
    code, out, _ = call(capsys, "verify", str(tmp_path / "a"))
    assert code == 2
    assert "damaged" in out
    assert "policy.onnx" in out


def test_verify_of_nothing_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, "verify", str(tmp_path / "none"))
    assert code == 2
    assert str(tmp_path / "none") in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gate"], "gate needs RECIPE, or both --candidate DIR and --baseline DIR"),
        (["gate", "--candidate", "a"], "gate needs RECIPE, or both --candidate DIR and --baseline DIR"),
        (["gate", "r.yaml", "--pairs", "3"], "give RECIPE alone, or --candidate and --baseline"),
        (["gate", "r.yaml", "--candidate", "a"], "give RECIPE alone"),
        (
            ["gate", "--candidate", "a", "--baseline", "b", "--margin", "2"],
            "`margin` is 2.0, expected a number between 0 and 0.5",
        ),
    ],
)
def test_gate_says_what_it_needs(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, *arguments)
    assert code == 2
    assert message in err


def test_report_of_nothing_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, "report", str(tmp_path), "--out", str(tmp_path / "r.html"))
    assert code == 2
    assert "expected a run folder" in err
    assert not (tmp_path / "r.html").exists()


def test_resume_command_does_not_force_again() -> None:
    assert cli._without_force(["run", "r", "--force", "recover", "--json"], takes_value=True) == ["run", "r", "--json"]
    assert cli._without_force(["run", "r", "--force=plan"], takes_value=True) == ["run", "r"]
    assert cli._without_force(["plan", "--force", "r"], takes_value=False) == ["plan", "r"]


INTERRUPTED = """
import sys, time
import compress.pipeline as p
from compress.run_dir import Result
def slow(ctx):
    print("library chatter")
    print("started", file=sys.stderr, flush=True)
    time.sleep(60)
p.STAGES = (p.Stage("data", (), lambda r: {}, slow),)
import functools
p.run_recipe = functools.partial(p.run_recipe, stages=p.STAGES)
from compress.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl-c", "terminate"])
def test_interrupted_run_says_what_is_kept_and_how_to_go_on(recipe: Path, number: signal.Signals, code: int) -> None:
    command = [sys.executable, "-c", INTERRUPTED, "run", str(recipe), "--json", "--quiet"]
    child = subprocess.Popen(
        command, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ}
    )
    assert child.stderr is not None
    lines = [child.stderr.readline(), child.stderr.readline()]
    assert sorted(lines) == ["library chatter\n", "started\n"] or "started\n" in lines
    child.send_signal(number)
    out, err = child.communicate(timeout=120)
    assert child.returncode == code
    found = as_json(out)
    assert found["exit_code"] == code
    assert found["kept"] == str(recipe.parent / "run")
    assert f"Resume with: compress run {recipe}" in err
    assert "Traceback" not in err
