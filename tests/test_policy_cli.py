# SPDX-License-Identifier: Apache-2.0
"""`python -m runtime`: exit codes, JSON for programs, one sentence for people; and what it needs to start."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from artifact_factory import judge, write_draft

from runtime.__main__ import main
from runtime.contract.artifact import Artifact
from runtime.contract.conventions import Verdict

BLOCKED = ("tokenizers", "onnxruntime", "safetensors", "torch", "transformers", "onnx", "jsonschema", "rclpy")
# a finder that refuses is stronger than sys.modules[name] = None: submodules are refused too
BLOCKER = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {BLOCKED!r}:
            raise ImportError("blocked: " + name)
sys.meta_path.insert(0, Refuse())
"""


@pytest.fixture(scope="module")
def draft(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return write_draft(tmp_path_factory.mktemp("artifact") / "draft")


def answer(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict]:
    code = main([*(str(argument) for argument in arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_verify_says_intact_and_names_the_artifact(draft: Artifact, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = answer(capsys, "verify", draft.root)
    assert (code, said["ok"], said["artifact_id"]) == (0, True, draft.manifest.artifact_id)


def test_verify_fails_on_a_changed_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    artifact = write_draft(tmp_path / "a")
    (artifact.root / "policy.onnx").write_bytes(b"")
    code, said = answer(capsys, "verify", artifact.root)
    assert (code, said["ok"], said["changed"]) == (1, False, ["policy.onnx"])


def test_verify_run_compares_golden_outputs(draft: Artifact, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = answer(capsys, "verify", "--run", "--threads", 1, draft.root)
    assert (code, said["golden"]["samples"]) == (0, 2)
    code, said = answer(capsys, "verify", "--run", "--backend", "fake", draft.root)
    assert (code, said["ok"]) == (1, False)


def test_inspect_names_verdict_and_blocks(draft: Artifact, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held = judge(draft, tmp_path / "h", Verdict.HOLD)
    assert main(["inspect", str(held.root)]) == 0
    text = capsys.readouterr().out
    for line in ("verdict: hold", "  language: 5 of 8", "  dx: -0.05 to 0.05 m, 0.05 per 1.0", held.manifest.policy_id):
        assert line in text
    code, said = answer(capsys, "inspect", draft.root)
    assert (code, said["gate"], said["lineage_id"]) == (0, None, draft.manifest.lineage_id)


def test_bench_accepts_drafts_and_reports_machine(draft: Artifact, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = answer(capsys, "bench", "--runs", 3, "--threads", 1, draft.root)
    (row,) = said["artifacts"]
    assert (code, row["runs"], said["threads"], row["artifact_id"]) == (0, 3, 1, draft.manifest.artifact_id)
    assert 0.0 < row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"] <= row["max_ms"]
    assert said["machine"]["cpus"] >= 1
    assert "no evidence/work.json" in row["no_floor"]


def test_refusal_is_one_sentence_on_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(tmp_path / "none")]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("runtime verify: ")
    assert captured.err.count("\n") == 1


def test_unknown_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["fly"])
    assert stopped.value.code == 2
    assert "invalid choice: 'fly'" in capsys.readouterr().err


def run_blocked(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", BLOCKER + code, *arguments],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parent.parent,
    )  # fmt: skip


def test_every_module_imports_with_numpy_alone() -> None:
    code = """
import importlib, pkgutil, runtime
names = [m.name for m in pkgutil.walk_packages(runtime.__path__, "runtime.") if m.name != "runtime.__main__"]
for name in names: importlib.import_module(name)
print(len(names))
"""
    result = run_blocked(code)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 20


def test_help_and_verify_need_numpy_alone(draft: Artifact) -> None:
    code = "import runtime.__main__; sys.exit(runtime.__main__.main(sys.argv[1:]))"
    shown = run_blocked(code, "--help")
    assert shown.returncode == 0, shown.stderr
    assert "verify" in shown.stdout
    checked = run_blocked(code, "verify", str(draft.root))
    assert checked.returncode == 0, checked.stderr
    assert "ok: True" in checked.stdout


def test_missing_library_is_named_with_its_install_command(draft: Artifact) -> None:
    code = "import runtime.__main__; sys.exit(runtime.__main__.main(sys.argv[1:]))"
    result = run_blocked(code, "verify", "--run", str(draft.root))
    assert result.returncode == 1
    assert "blocked: safetensors" in result.stderr
    assert "pip install -e" in result.stderr
