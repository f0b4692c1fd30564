# SPDX-License-Identifier: Apache-2.0
"""The loop over stages: repeats what changed and nothing else, survives kills and full disks. Stages here are small."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from compress.disk import DiskFullError
from compress.pipeline import NAMES, STAGES, PipelineError, Stage, run_recipe
from compress.recipe import Recipe, parse_recipe
from compress.run_dir import Result
from compress.stages.context import Context, sections

REPO = Path(__file__).resolve().parent.parent


def recipe(folder: Path, **data: Any) -> Recipe:
    return parse_recipe({"name": "t", "output": str(folder / "run"), **data}, folder)


@dataclass
class Chain:
    """probe -> plan -> recover -> export, each writing what it reads, and a log of what ran."""

    ran: list[str] = field(default_factory=list)
    break_in: dict[str, BaseException] = field(default_factory=dict)
    outside: Path | None = None

    def stages(self) -> tuple[Stage, ...]:
        return (
            Stage("probe", (), lambda r: sections(r, "probe"), self.step("probe"), self.files),
            Stage("plan", ("probe",), lambda r: sections(r, "plan"), self.step("plan", "probe")),
            Stage("recover", ("plan",), lambda r: sections(r, "recover"), self.step("recover", "plan")),
            Stage(
                "export", ("recover/log.txt", "plan"), lambda r: sections(r, "export"), self.step("export", "recover")
            ),
        )

    def files(self, _: Recipe) -> dict[str, Path]:
        return {} if self.outside is None else {"model": self.outside}

    def step(self, name: str, *reads: str) -> Callable[[Context], Result]:
        def run(ctx: Context) -> Result:
            self.ran.append(name)
            text = "".join((ctx.of(other) / "out.txt").read_text() for other in reads)
            mine = {
                "probe": ctx.recipe.probe.samples,
                "plan": ctx.recipe.plan[0].keep,
                "recover": ctx.recipe.recover.steps,
            }
            (ctx.folder / "out.txt").write_text(f"{text}{name} {mine.get(name)}\n")
            (ctx.folder / "log.txt").write_text(f"{name}\n")
            if name in self.break_in:
                raise self.break_in.pop(name)
            return Result([ctx.folder / "out.txt", ctx.folder / "log.txt"], {"lines": text.count("\n") + 1})

        return run


def did(chain: Chain, made: Recipe, **options: Any) -> list[str]:
    chain.ran.clear()
    outcome = run_recipe(made, stages=chain.stages(), **options)
    assert list(outcome.done) == chain.ran
    return list(chain.ran)


ALL = ["probe", "plan", "recover", "export"]


def test_everything_runs_once(tmp_path: Path) -> None:
    chain = Chain()
    assert did(chain, recipe(tmp_path)) == ALL
    assert did(chain, recipe(tmp_path)) == []


@pytest.mark.parametrize(
    ("changed", "again"),
    [
        ({"probe": {"samples": 16}}, ALL),
        ({"plan": {"keep": 3}}, ["plan", "recover", "export"]),
        ({"recover": {"steps": 7}}, ["recover"]),  # export reads its log alone, and that came out the same
        ({"export": {"threads": 2}}, ["export"]),
        ({"gate": {"pairs": 7}}, []),
    ],
    ids=["probe", "plan", "recover", "export", "nothing"],
)
def test_changed_setting_redoes_what_depends_on_it(tmp_path: Path, changed: dict[str, Any], again: list[str]) -> None:
    chain = Chain()
    did(chain, recipe(tmp_path))
    assert did(chain, recipe(tmp_path, **changed)) == again


def test_changed_input_file_redoes_its_stage(tmp_path: Path) -> None:
    chain = Chain(outside=tmp_path / "weights")
    (tmp_path / "weights").write_text("a")
    did(chain, recipe(tmp_path))
    (tmp_path / "weights").write_text("b")
    assert did(chain, recipe(tmp_path)) == ["probe"]  # its result is the same: the chain stops there


def test_damaged_output_is_redone_and_restored(tmp_path: Path) -> None:
    chain = Chain()
    did(chain, recipe(tmp_path))
    victim = tmp_path / "run" / "plan" / "out.txt"
    before = victim.read_text()
    victim.write_text("tampered")
    assert did(chain, recipe(tmp_path)) == ["plan"]
    assert victim.read_text() == before


def test_until_stops_and_goes_on_later(tmp_path: Path) -> None:
    chain = Chain()
    assert did(chain, recipe(tmp_path), until="plan") == ["probe", "plan"]
    assert did(chain, recipe(tmp_path)) == ["recover", "export"]


def test_force_redoes_one_stage(tmp_path: Path) -> None:
    chain = Chain()
    did(chain, recipe(tmp_path))
    assert did(chain, recipe(tmp_path), force=["plan"]) == ["plan"]


@pytest.mark.parametrize("option", [{"until": "prob"}, {"force": ["sael"]}])
def test_unknown_stage_is_named(tmp_path: Path, option: dict[str, Any]) -> None:
    with pytest.raises(PipelineError, match=r"no stage '(prob|sael)'; the stages are: probe, plan, recover, export"):
        did(Chain(), recipe(tmp_path), **option)


@pytest.mark.parametrize("stage", ALL)
@pytest.mark.parametrize("trouble", [KeyboardInterrupt(), RuntimeError("boom")], ids=["ctrl-c", "error"])
def test_what_broke_is_redone_and_nothing_before_it(tmp_path: Path, stage: str, trouble: BaseException) -> None:
    chain = Chain(break_in={stage: trouble})
    with pytest.raises(type(trouble)):
        did(chain, recipe(tmp_path))
    assert not (tmp_path / "run" / stage / "receipt.json").exists()
    assert did(chain, recipe(tmp_path)) == ALL[ALL.index(stage) :]


def test_full_disk_is_named_and_finished_stages_stay(tmp_path: Path) -> None:
    chain = Chain(break_in={"recover": OSError(errno.ENOSPC, "No space left on device")})
    with pytest.raises(DiskFullError, match=r"run/recover: .* free, about .* needed"):
        did(chain, recipe(tmp_path))
    assert did(chain, recipe(tmp_path)) == ["recover", "export"]


def test_full_disk_in_the_receipt_writer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chain, written = Chain(), os.fsync

    def full(handle: int) -> None:
        if "recover" in chain.ran:
            raise OSError(errno.ENOSPC, "No space left on device")
        written(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFullError, match="disk full while writing"):
        did(chain, recipe(tmp_path))
    monkeypatch.undo()
    assert not list((tmp_path / "run").rglob("*.tmp"))
    assert did(chain, recipe(tmp_path)) == ["recover", "export"]


def test_no_room_is_refused_before_the_stage_starts(tmp_path: Path) -> None:
    chain = Chain()
    greedy = [replace(stage, space=10**18) if stage.name == "recover" else stage for stage in chain.stages()]
    with pytest.raises(DiskFullError):
        run_recipe(recipe(tmp_path), stages=greedy)
    assert chain.ran == ["probe", "plan"]


KILLED = """
import os, sys
from pathlib import Path
from compress.pipeline import Stage, run_recipe
from compress.recipe import parse_recipe
from compress.run_dir import Result

def first(ctx):
    (ctx.folder / "a").write_text("a")
    return Result([ctx.folder / "a"])

def second(ctx):
    step = len(list(ctx.work.iterdir()))
    while step < 6:
        (ctx.work / f"step{step}").write_text("x")
        step += 1
        if step == 3 and sys.argv[2] == "hang":
            print("at 3", flush=True)
            sys.stdin.read()
    (ctx.folder / "b").write_text(f"took over at {os.environ['AT']}")
    return Result([ctx.folder / "b"])

stages = (Stage("first", (), lambda r: {}, first), Stage("second", ("first",), lambda r: {}, second))
run = run_recipe(parse_recipe({"name": "t", "output": sys.argv[1]}, Path()), stages=stages)
print(list(run.done), flush=True)
"""


def test_killed_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path / "run")]
    options: dict[str, Any] = {
        "cwd": REPO,
        "text": True,
        "stdout": subprocess.PIPE,
        "stdin": subprocess.PIPE,
        "env": {**os.environ, "AT": "3"},
    }
    child = subprocess.Popen([*command, "hang"], **options)
    assert child.stdout is not None
    assert child.stdout.readline() == "at 3\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    work = tmp_path / "run" / "second" / "work"
    assert len(list(work.iterdir())) == 3
    assert not (tmp_path / "run" / "second" / "receipt.json").exists()
    again = subprocess.run(
        [*command, "go"], input="", capture_output=True, text=True, cwd=REPO, env=options["env"], check=False
    )
    assert again.stdout == "['second']\n", again.stderr
    assert not work.exists()


def test_resolved_recipe_is_kept_in_the_folder(tmp_path: Path) -> None:
    made = recipe(tmp_path)
    did(Chain(), made)
    assert (tmp_path / "run" / "recipe.yaml").read_text() == made.to_yaml()


def test_list_of_stages_is_in_order() -> None:
    assert NAMES == ("data", "trim", "probe", "plan", "drop", "recover", "export", "gate", "report", "seal")
    for place, stage in enumerate(STAGES):
        assert {need.partition("/")[0] for need in stage.needs} <= set(NAMES[:place]), stage.name


def test_settings_of_stages_are_plain_data(tmp_path: Path) -> None:
    import json

    for stage in STAGES:
        settings = stage.settings(recipe(tmp_path))
        assert json.loads(json.dumps(settings)) == settings, stage.name


@pytest.mark.parametrize(
    ("changed", "decides"),
    [
        ({"plan": {"keep": 3}}, {"plan", "export"}),
        ({"plan": {"keep": 6, "part": "mlp"}}, {"probe", "plan", "export"}),
        ({"recover": {"steps": 7}}, {"recover", "export"}),
        ({"export": {"threads": 3}}, {"export"}),
        ({"gate": {"workers": 7}}, set()),
        ({"gate": {"pairs": 7}}, {"export", "gate"}),  # the draft names the recipe, with what it will be asked
        ({"name": "other"}, {"export"}),
        ({"output": "elsewhere"}, set()),
    ],
    ids=lambda value: str(sorted(value) if isinstance(value, set) else value)[:40],
)
def test_setting_decides_its_stages_and_no_other(tmp_path: Path, changed: dict[str, Any], decides: set[str]) -> None:
    base = {"plan": {"keep": 6}}
    before, after = recipe(tmp_path, **base), recipe(tmp_path, **{**base, **changed})
    assert {stage.name for stage in STAGES if stage.settings(before) != stage.settings(after)} == decides


@pytest.mark.parametrize("changed", [{"threads": 3}, {"trims": []}, {"tasks": "gate"}, {"opset": 21}], ids=str)
def test_a_latency_budget_depends_on_the_graph_that_will_ship(tmp_path: Path, changed: dict[str, Any]) -> None:
    base: dict[str, Any] = {"plan": {"role": "language", "latency_budget_ms": 10}}
    before, after = recipe(tmp_path, **base), recipe(tmp_path, **base, export=changed)
    assert {stage.name for stage in STAGES if stage.settings(before) != stage.settings(after)} == {"plan", "export"}
