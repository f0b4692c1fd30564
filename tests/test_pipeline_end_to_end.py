# SPDX-License-Identifier: Apache-2.0
"""Recipe in, two proven drafts out: the real stages on a tiny random policy and real HDF5 files."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pipeline_factory
import pytest

pytest.importorskip("torch", reason="needs torch; make install")

from compress import cli
from compress.pipeline import NAMES
from compress.plan import load_plans
from compress.recipe import load_recipe
from compress.stages.probe import load_scores

pytestmark = pytest.mark.slow
REPO = Path(__file__).resolve().parent.parent
UP_TO_EXPORT = ["data", "trim", "probe", "plan", "drop", "recover", "export"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    pipeline_factory.checkpoint(folder / "policy")
    pipeline_factory.demos(folder / "demos")
    return folder


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    code = cli.main([*arguments, "--json", "--quiet"])
    return code, json.loads(capsys.readouterr().out)


def recipe(root: Path, **changed: Any) -> Path:
    return pipeline_factory.write(root / "recipe.yaml", pipeline_factory.data(root, **changed))


def test_run_makes_two_proven_drafts_and_does_it_once(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, run = recipe(root), root / "run"
    code, found = call(capsys, "run", str(path), "--until", "export")
    assert code == 0, found
    assert found["done"] == UP_TO_EXPORT

    scores = load_scores(run / "probe" / "probe.json")[0]
    plan = load_plans(run / "plan" / "plan.json")[0]
    assert sorted(plan.dropped) == sorted(scores.order()[:3])
    assert load_recipe(run / "recipe.yaml") == load_recipe(path)
    for draft, kept in (("candidate", 3), ("baseline", 6)):
        manifest = json.loads((run / "export" / draft / "manifest.json").read_text())
        stacks = {stack["name"]: stack for stack in manifest["lineage"]["plan"]["stacks"]}
        assert (len(stacks["language"]["kept"]), stacks["language"]["original_depth"]) == (kept, 6)
        assert cli.main(["verify", str(run / "export" / draft)]) == 1
        asked = json.loads((run / "export" / draft / "evidence" / "convertible.json").read_text())
        has_rtx = importlib.util.find_spec("tensorrt_rtx") is not None
        assert asked["status"] == ("converts" if draft == "candidate" and has_rtx else "not checked")
    capsys.readouterr()

    code, found = call(capsys, "run", str(path), "--until", "export")
    assert (code, found["done"]) == (0, [])
    assert cli.main(["run", str(path), "--until", "export"]) == 0
    assert capsys.readouterr().out.startswith(f"nothing to do: {run} is complete up to `export`\n")

    code, found = call(capsys, "drop", str(recipe(root, plan={"keep": 2})))
    assert (code, found["done"]) == (0, ["plan", "drop"])  # no new probe for another amount
    assert cli.main(["plan", str(path), "--keep", "5,1", "--quiet"]) == 0
    maps = [line for line in capsys.readouterr().out.splitlines() if "keep " in line]
    assert [line.split("keep ")[1][0] for line in maps[-2:]] == ["5", "1"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"model": {"checkpoint": "/nowhere"}},
            "no checkpoint folder at /nowhere: give a checkpoint folder, or `builtin`",
        ),
        ({"data": {"path": "/nowhere"}}, "/nowhere: no such file or folder"),
        ({"plan": {"keep": 30}}, "keep is 30, but language has 6 blocks; possible here: [1, 2, 3, 4, 5, 6]"),
        ({"plan": {"role": "action", "keep": 1}}, "action"),
    ],
    ids=["model", "data", "amount", "stack"],
)
def test_what_cannot_be_run_is_one_sentence(
    root: Path, changed: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, found = call(capsys, "plan", str(recipe(root, output=str(root / "other"), **changed)))
    assert code == 2
    assert message in found["error"]


def test_ctrl_c_in_training_keeps_the_checkpoint(root: Path) -> None:
    spec = pipeline_factory.data(root)["recover"]
    path = recipe(root, output=str(root / "stopped"), recover={**spec, "steps": 1_000_000, "checkpoint_s": 0.01})
    command = [sys.executable, "-m", "compress", "recover", str(path)]
    child = subprocess.Popen(
        command, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ}
    )
    assert child.stderr is not None
    for line in child.stderr:
        if "recover  (" in line:
            break
    checkpoint = root / "stopped" / "recover" / "work" / "checkpoint.pt"
    while not checkpoint.exists() and child.poll() is None:
        os.sched_yield()
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=300)
    assert child.returncode == 130, err
    assert f"finished work is kept in {root / 'stopped'}. Resume with: compress recover {path}" in err
    assert checkpoint.exists()
    assert (root / "stopped" / "drop" / "receipt.json").exists()
    assert not (root / "stopped" / "recover" / "receipt.json").exists()


@pytest.mark.sim
def test_whole_run_holds_an_untrained_policy_and_seals_it_as_held(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = {"tasks": [0], "pairs": 1, "floor_states": 1, "panels": {}, "filmstrips": 0}
    gate = {**small, "max_steps": 8, "open_loop": 4, "workers": 1}
    path = recipe(root, output=str(root / "whole"), gate=gate)
    code, found = call(capsys, "run", str(path))
    assert (code, found["verdict"]) == (1, "hold"), found
    assert found["done"][-3:] == ["gate", "report", "seal"]
    artifact = Path(found["artifact"])
    for name in ("evidence/gate.json", "evidence/probe.json", "recipe.yaml", "report.html", "bom.cdx.json"):
        assert (artifact / name).is_file()
    code, checked = call(capsys, "verify", str(artifact))
    assert (code, checked["intact"], checked["verdict"]) == (1, True, "hold")
    code, again = call(capsys, "run", str(path))
    assert (code, again["done"], again["verdict"]) == (1, [], "hold")


@pytest.mark.sim
def test_a_run_that_is_killed_in_every_stage_ends_in_the_same_policy(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """SIGKILL as each stage begins, with all its children: the next start goes on, and nothing finished is repeated."""
    small = {"tasks": [0], "pairs": 1, "floor_states": 1, "panels": {}, "filmstrips": 0}
    gate = {**small, "max_steps": 8, "open_loop": 4, "workers": 1}
    path = recipe(root, output=str(root / "killed"), gate=gate)
    for number, stage in enumerate(NAMES, start=1):
        child = subprocess.Popen(
            [sys.executable, "-m", "compress", "run", str(path)], cwd=REPO, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        assert child.stderr is not None
        begun = []
        for line in child.stderr:
            begun += [line.split()[1]] if line.split(" ")[0].endswith(f"/{len(NAMES)}") else []
            if begun[-1:] == [stage]:
                break
        os.killpg(child.pid, signal.SIGKILL)
        child.communicate(timeout=300)
        assert begun == list(NAMES[max(0, number - 2) : number]), "the killed stage, then the next one"
        finished = [name for name in NAMES if (root / "killed" / name / "receipt.json").exists()]
        assert finished == list(NAMES[: number - 1])

    code, found = call(capsys, "run", str(path))
    assert (code, found["verdict"], found["done"]) == (1, "hold", ["seal"])
    undisturbed = recipe(root, output=str(root / "undisturbed"))
    code, other = call(capsys, "run", str(undisturbed), "--until", "recover")
    assert code == 0
    facts = [run["stages"]["recover"]["facts"] for run in (found, other)]
    assert facts[0]["loss_after"] == facts[1]["loss_after"]
