# SPDX-License-Identifier: Apache-2.0
"""The gate's part of the page: bounds over pairs, panels, vetoes; gates that were run before there were any."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from report_page import Page, page
from test_gate_judge import ARMS, good, plan_of, play
from test_gate_vetoes import BROKEN, one_task_broken

from compress.gate.floor import task_floors
from compress.gate.judge import judge
from compress.gate.panel_verdict import judge_panel
from compress.gate.report import write_report
from compress.gate.spec import GateSpec
from compress.gate.stats import PairedTest
from compress.gate.verdict import Verdict, verdict_of
from compress.report.chart_bounds import bounds_chart

TEST = PairedTest(0.05, 0.05)
FURTHER = (
    judge_panel("robot_pose", "axis", TEST, [(False, True)] * 30, 200, {"candidate": 91.0, "baseline": 80.0}),
    judge_panel("light", "axis", TEST, [(True, True)] * 30, 200, {}),
    judge_panel("instruction_swap", "swap", TEST, [], 200, {}),
)


def gate(folder: Path, spec: GateSpec, tasks: int, solves=good, panels=()) -> Path:
    plan = plan_of(spec, tasks=tasks)
    rows = play(plan, solves)
    floors = task_floors(plan, rows)
    judgement = judge(plan, floors, rows)
    verdict = verdict_of(plan, floors, judgement, panels)
    write_report(folder, spec, *verdict, ARMS, plan, floors, judgement, rows, panels=panels)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gate(tmp_path_factory.mktemp("panels") / "gate", GateSpec(), 4, good, FURTHER)


@pytest.fixture(scope="module")
def whole(folder: Path) -> Page:
    return page(folder, folder.parent / "report.html")


def drawings(found: Page) -> list[str]:
    return [str(attributes["aria-labelledby"]).split("-")[0] for tag, attributes in found.tags if tag == "svg"]


def test_every_panel_has_a_row_with_its_numbers_and_its_outcome(folder: Path, whole: Page) -> None:
    data = json.loads((folder / "gate.json").read_text())
    assert [panel["outcome"] for panel in data["panels"]] == ["pass", "fail", "undecided", "not_run"]
    for panel in data["panels"]:
        assert panel["reason"] in whole.text
        assert f"{panel['pairs']} of {panel['planned']}" in whole.text
        bound = f"{100 * panel['difference']['lower']:+.1f}".replace("-", "\u2212")
        assert bound in whole.text or panel["outcome"] == "not_run"
    assert "91 / 80" in whole.text
    assert whole.word == "HOLD"
    assert "No veto: none of 1 suite and 4 tasks" in whole.text


def test_bounds_and_panels_are_drawn_with_their_margins_and_a_text_alternative(folder: Path, whole: Page) -> None:
    assert drawings(whole) == [
        "rates",
        "wealth",
        "bounds",
        "panel_rates",
        "panels",
        "bounds_robot_pose",
        "bounds_light",
    ]
    assert "margin: a pass is a band above \u221210.0" in whole.text
    assert "robot pose: fail, \u2212100.0" in whole.text
    ticks = [a for tag, a in whole.tags if tag == "line" and a.get("stroke") == "#b3261e"]
    assert len(ticks) == 4


def test_a_veto_is_said(tmp_path: Path) -> None:
    found = page(gate(tmp_path / "gate", BROKEN, 20, one_task_broken(3)), tmp_path / "out.html")
    assert found.word == "HOLD"
    assert re.search(r"Vetoed by task task_3: lost \d+, gained 0 of \d+ pairs", found.text)


def test_a_gate_from_before_there_were_panels_is_still_readable(folder: Path, tmp_path: Path) -> None:
    data = json.loads((folder / "gate.json").read_text())
    for name in ("panels", "vetoes"):
        del data[name]
    for name in ("path", "lower", "upper"):
        del data["paired"][name]
    (tmp_path / "gate").mkdir()
    (tmp_path / "gate/gate.json").write_text(json.dumps(data))
    found = page(tmp_path / "gate", tmp_path / "out.html")
    assert found.word == "HOLD"
    assert drawings(found) == ["rates", "wealth"]


def test_a_gate_that_ran_nothing_says_so_of_its_only_panel(tmp_path: Path) -> None:
    write_report(tmp_path / "gate", GateSpec(margin="strict"), Verdict.HOLD, "the simulator cannot start: no assets")
    found = page(tmp_path / "gate", tmp_path / "out.html")
    assert drawings(found) == ["panels"]
    assert "no pair was run" in found.text


def test_an_unchanged_bound_costs_no_points() -> None:
    drawn = bounds_chart("b", [(-1.0, 1.0)] * 400 + [(-0.02, 0.3)], 0.03, 0.0, 0.95)
    assert len(drawn) < 6000
    assert "between \u22122.0 and +30.0 points" in drawn
