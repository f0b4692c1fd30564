# SPDX-License-Identifier: Apache-2.0
"""The doctor tries things for real, survives what crashes, and every finding carries its fix."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from compress import cli, doctor
from compress.doctor import Check

CRASH = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"


def well(_: str) -> tuple[bool, str]:
    return True, "1.0"


def failing(*parts: str, said: str = "ModuleNotFoundError: No module named 'x'") -> doctor.Probe:
    return lambda code: (False, said) if any(part in code for part in parts) else (True, "1.0")


def by_name(checks: tuple[Check, ...]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def test_healthy_machine_is_ready(tmp_path: Path) -> None:
    checks = doctor.examine(tmp_path, well)
    assert {c.state for c in checks if c.name not in ("processor cores", "memory", "disk space")} == {"ok"}
    assert doctor.table([c for c in checks if c.state == "ok"])[-1].startswith("ready: compress run")


@pytest.mark.parametrize(
    ("code", "name", "fix"),
    [
        ("import torch", "torch", "make install"),
        ("import transformers", "transformers", "make install"),
        ("import onnxruntime", "onnx runtime", "make install"),
        ("import h5py", "file formats", "make install"),
        ("import mujoco", "offscreen GL", "MUJOCO_GL=osmesa or egl"),
        ("open_suite", "LIBERO", "make install"),
    ],
)
def test_what_is_missing_is_bad_and_has_a_fix(tmp_path: Path, code: str, name: str, fix: str) -> None:
    check = by_name(doctor.examine(tmp_path, failing(code)))[name]
    assert check.state == "bad"
    assert fix in check.fix
    assert any(f"fix: {check.fix}" in line for line in doctor.table([check]))
    assert doctor.table([check])[-1] == f"not ready: {name}"


@pytest.mark.parametrize(
    ("code", "name"), [("prepare_libero", "LIBERO assets"), ("checkpoint_path", "built-in policy")]
)
def test_what_not_every_run_needs_is_a_warning(tmp_path: Path, code: str, name: str) -> None:
    check = by_name(doctor.examine(tmp_path, failing(code)))[name]
    assert (check.state, bool(check.fix)) == ("warn", True)


def test_foreign_torchvision_is_found_behind_transformers() -> None:
    said = "RuntimeError: operator torchvision::nms does not exist"
    check = doctor.transformers_imports(failing("import transformers", "import torchvision", said=said))
    assert check.state == "bad"
    assert said in check.found
    assert check.fix.startswith("pip uninstall -y torchvision")


def test_absent_torchvision_is_not_blamed() -> None:
    probes = {
        "import transformers": "ImportError: broken",
        "import torchvision": "ModuleNotFoundError: No module named 'torchvision'",
    }
    check = doctor.transformers_imports(
        lambda code: next((False, said) for part, said in probes.items() if part in code)
    )
    assert check.found == "ImportError: broken"
    assert "torchvision" not in check.fix


def test_crash_is_a_finding() -> None:
    assert doctor.in_process(CRASH) == (False, "killed by signal 9: ")


def test_last_line_is_what_was_found() -> None:
    assert doctor.in_process("print('noise'); print('1.2.3')") == (True, "1.2.3")
    assert doctor.in_process("raise ValueError('why')") == (False, "ValueError: why")
    assert doctor.in_process("pass") == (True, "ok")


def test_question_on_stdin_is_not_waited_for() -> None:
    assert doctor.in_process("input('where are your datasets? ')")[1].startswith("EOFError")


def test_package_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert doctor.in_process("import compress.disk; print('here')") == (True, "here")


def test_full_disk_is_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "free_bytes", lambda _: 1_000_000)
    check = doctor.disk(tmp_path)
    assert (check.state, "1.0 MB free" in check.found, "--output" in check.fix) == ("bad", True, True)


def test_disk_of_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    assert "free at" in doctor.disk(tmp_path / "a" / "b").found


def test_this_machine_has_python_cores_and_memory() -> None:
    assert doctor.python_version().state == "ok"
    assert sys.prefix in doctor.python_version().found
    assert int(doctor.processors().found) >= 1
    assert "available" in doctor.memory().found


@pytest.mark.parametrize(("probe", "code"), [(well, 0), (failing("import torch\n"), 1)], ids=["healthy", "no torch"])
def test_exit_code_and_json(
    probe: doctor.Probe, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    real = doctor.examine
    monkeypatch.setattr(doctor, "examine", lambda folder: real(folder, probe))
    assert cli.main(["doctor", "--json", "--folder", str(tmp_path)]) == code
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is (code == 0)
    assert {check["state"] for check in found["checks"]} <= set(doctor.STATES)


@pytest.mark.sim
@pytest.mark.slow
def test_this_machine_draws_and_opens_libero(tmp_path: Path) -> None:
    for name, code in (("offscreen GL", doctor.MUJOCO), ("LIBERO", doctor.LIBERO)):
        check = doctor.tried(name, code, doctor.in_process, "")
        assert check.state == "ok", check


@pytest.mark.sim
@pytest.mark.slow
def test_renderer_that_does_not_exist_is_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "nonsense")
    check = doctor.tried("offscreen GL", doctor.MUJOCO, doctor.in_process, "the fix")
    assert (check.state, check.fix) == ("bad", "the fix")
    assert "nonsense" in check.found
