# SPDX-License-Identifier: Apache-2.0
"""Panels from rows to verdict, on synthetic rows: no simulator."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import artifact_factory as factory
import pytest
from test_gate_judge import ARMS, good, plan_of, play, row

from compress.gate.floor import TaskFloor, task_floors
from compress.gate.jobs import Job, WorkerSetup
from compress.gate.judge import judge
from compress.gate.panel_fit import refusal, refused_panels, told
from compress.gate.panel_spec import PANELS
from compress.gate.panels import (
    judge_panels,
    panel_jobs,
    panel_scenes,
    panel_settled,
    panel_warnings,
    release_verdict,
    slowness,
)
from compress.gate.plan import GatePlan
from compress.gate.policies import PolicySource
from compress.gate.recheck import EvidenceMismatch, recheck
from compress.gate.report import write_report
from compress.gate.rows import IN_DISTRIBUTION, EpisodeRow, RowKey
from compress.gate.spec import GateSpec
from compress.gate.verdict import Verdict
from runtime.contract import panels as contract_panels
from runtime.contract.conventions import Verdict as Contract
from runtime.contract.gate_report import parse_gate_report
from runtime.contract.manifest import GateSummary

AXIS, SWAP = {"robot_pose": {"pairs": 60}}, {"instruction_swap": {"pairs": 60}}
Rows = dict[RowKey, EpisodeRow]


def played(spec: GateSpec, solves) -> tuple[GatePlan, tuple[TaskFloor, ...], Rows]:
    """A whole run of a good suite; `solves` decides the panels' episodes."""
    plan = plan_of(spec)
    rows = play(plan, good)
    floors = task_floors(plan, rows)
    assert floors is not None
    rows |= {job.key: row(job, solves(job)) for name in plan.panels for job in panel_jobs(plan, floors, name)}
    return plan, floors, rows


def released(spec: GateSpec, solves, refused: dict[str, str] | None = None):
    plan, floors, rows = played(spec, solves)
    judgement = judge(plan, floors, rows)
    panels = judge_panels(plan, floors, judgement, rows, refused or {})
    return release_verdict(plan, floors, judgement, panels), panels


def test_a_release_needs_the_suite_and_every_panel():
    (verdict, reason), panels = released(GateSpec(panels=AXIS | SWAP), lambda job: job.panel != "instruction_swap")
    assert verdict is Verdict.PROMOTE
    assert reason.endswith("panels passed: robot_pose, instruction_swap")
    assert [panel.kind for panel in panels] == ["axis", "swap"]


def test_a_candidate_that_only_fails_from_other_poses_is_held_although_the_suite_passes():
    (verdict, reason), panels = released(GateSpec(panels=AXIS), lambda job: job.arm == "baseline")
    assert verdict is Verdict.HOLD
    assert "robot_pose: worse by more than 0.1" in reason
    assert panels[0].outcome == "fail"
    assert len(panels[0].results) < 60, "it stopped early"


def test_a_candidate_that_still_does_the_old_task_under_a_wrong_sentence_is_the_worse_one():
    (verdict, reason), panels = released(GateSpec(panels=SWAP), lambda job: job.arm == "candidate")
    assert (verdict, panels[0].outcome) == (Verdict.HOLD, "fail")
    assert "instruction_swap: worse by more than 0.1" in reason
    entry = panels[0].entry()
    assert (entry["candidate"]["successes"], entry["baseline"]["rate"]) == (0, 1.0)
    assert entry["difference"]["upper"] < -0.1
    assert entry["steps_to_success"] == {"candidate": None, "baseline": None}
    better = released(GateSpec(panels=SWAP), lambda job: False)[1][0]
    assert better.outcome == "pass"


def test_a_crash_under_a_wrong_sentence_is_a_failure_and_not_obedience():
    plan, floors, rows = played(GateSpec(panels=SWAP), lambda job: False)
    crashed = {
        key: replace(r, error="RuntimeError: planted")
        if (key.panel, key.arm) == ("instruction_swap", "candidate") else r for key, r in rows.items()
    }  # fmt: skip
    judgement = judge(plan, floors, crashed)
    panels = judge_panels(plan, floors, judgement, crashed, {})
    assert (panels[0].outcome, panels[0].entry()["candidate"]["successes"]) == ("fail", 0)
    assert release_verdict(plan, floors, judgement, panels)[0] is Verdict.HOLD


def test_an_advisory_panel_is_reported_and_decides_nothing():
    spec = GateSpec(panels={"robot_pose": {"pairs": 60, "advisory": True}})
    (verdict, reason), panels = released(spec, lambda job: job.arm == "baseline")
    assert (verdict, panels[0].outcome) == (Verdict.PROMOTE, "fail")
    assert "panels passed" not in reason


def test_a_panel_on_which_the_baseline_fails_too_proves_nothing():
    (verdict, reason), panels = released(GateSpec(panels=AXIS), lambda job: False)
    assert panels[0].outcome == "pass", "not worse than a baseline that does nothing"
    assert verdict is Verdict.HOLD
    assert "the baseline itself manages 0 of" in reason
    assert "at least 20 %" in reason
    assert panel_warnings(panels) == [f"robot_pose: {reason.split('robot_pose: ')[1]}"]


def test_a_needed_panel_that_cannot_be_run_holds_and_says_why():
    spec = GateSpec(panels={"language": {}})
    (verdict, reason), panels = released(spec, lambda job: True, {"language": "candidate knows a closed list"})
    assert (verdict, panels[0].outcome) == (Verdict.HOLD, "not_run")
    assert "language: candidate knows a closed list" in reason


def test_a_missing_row_is_never_a_pass():
    plan, floors, rows = played(GateSpec(panels=AXIS), lambda job: True)
    scenes = panel_scenes(plan, floors, "robot_pose")
    assert panel_settled(plan, scenes, "robot_pose", rows)
    del rows[panel_jobs(plan, floors, "robot_pose")[5].key]
    assert not panel_settled(plan, scenes, "robot_pose", rows)
    judgement = judge(plan, floors, rows)
    panels = judge_panels(plan, floors, judgement, rows, {})
    assert (panels[0].outcome, len(panels[0].results)) == ("undecided", 2)
    assert release_verdict(plan, floors, judgement, panels)[0] is Verdict.HOLD


def test_rows_that_came_early_change_nothing():
    """Workers finish in any order: outcome, bounds and steps rest on the plan's order up to the decision."""
    plan, floors, rows = played(GateSpec(panels=AXIS), lambda job: (job.state * 7 + job.task) % 9 > 0)
    whole = judge_panels(plan, floors, judge(plan, floors, rows), rows, {})[0]
    jobs = panel_jobs(plan, floors, "robot_pose")
    arrived: Rows = {key: value for key, value in rows.items() if key.panel == "in_distribution"}
    order = jobs[:]
    random.Random(4).shuffle(order)
    for job in order:
        arrived[job.key] = rows[job.key]
        now = judge_panels(plan, floors, None, arrived, {})[0]
        if panel_settled(plan, panel_scenes(plan, floors, "robot_pose"), "robot_pose", arrived):
            break
    assert (now.outcome, now.results, now.lower, now.steps) == (whole.outcome, whole.results, whole.lower, whole.steps)


def test_a_fifth_longer_is_not_yet_a_warning_and_no_success_is_none():
    panel = released(GateSpec(panels=AXIS), lambda job: True)[1][0]
    for steps, warned in ((96.0, False), (96.5, True), (None, False)):
        assert bool(slowness(replace(panel, steps={"candidate": steps, "baseline": 80.0}))) == warned
    assert slowness(replace(panel, steps={"candidate": 96.5, "baseline": None})) == ""


def test_panels_use_only_tasks_that_count_and_never_the_suites_own_rows():
    plan, floors, rows = played(GateSpec(panels=AXIS), lambda job: True)
    fewer = tuple(replace(floor, counts=floor.task != 2) for floor in floors)
    assert {pair.task for pair, _ in panel_scenes(plan, fewer, "robot_pose")} == {0, 1, 3}
    own = {key: value for key, value in rows.items() if key.panel == "in_distribution"}
    assert judge_panels(plan, floors, None, own, {})[0].outcome == "not_run"
    assert "the suite itself did not pass" in judge_panels(plan, floors, None, own, {})[0].reason


def test_a_slower_candidate_is_warned_about_and_not_held():
    plan, floors, rows = played(GateSpec(panels=AXIS), lambda job: True)
    slow = {key: replace(r, steps=97) if key.arm == "candidate" else r for key, r in rows.items()}
    judgement = judge(plan, floors, slow)
    panels = judge_panels(plan, floors, judgement, slow, {})
    assert panel_warnings(panels) == ["robot_pose: median success takes 97 steps, 21 % more than 80"]
    assert release_verdict(plan, floors, judgement, panels)[0] is Verdict.PROMOTE
    assert panel_warnings(judge_panels(plan, floors, judgement, rows, {})) == []


def written(folder: Path, solves) -> Path:
    spec = GateSpec(panels=AXIS)
    plan, floors, rows = played(spec, solves)
    judgement = judge(plan, floors, rows)
    panels = judge_panels(plan, floors, judgement, rows, {})
    verdict, reason = release_verdict(plan, floors, judgement, panels)
    write_report(folder, spec, verdict, reason, ARMS, plan, floors, judgement, rows, panels=panels)
    return folder / "gate.json"


def test_the_verdict_with_its_panels_can_be_recomputed_and_a_forged_one_not(tmp_path):
    data = json.loads(written(tmp_path, lambda job: job.arm == "baseline").read_text())
    assert [panel["name"] for panel in data["panels"]] == ["in_distribution", "robot_pose"]
    assert (data["schema"], data["verdict"]) == ("dropgate.gate/2", "hold")
    assert recheck(tmp_path) == (Verdict.HOLD, data["reason"])
    for forged in ({"verdict": "promote"}, {"reason": "fine"}):
        (tmp_path / "gate.json").write_text(json.dumps({**data, **forged}))
        with pytest.raises(EvidenceMismatch, match="the rows say hold"):
            recheck(tmp_path)


@pytest.mark.parametrize("list_", ["panels", "vetoes"])
def test_a_forged_number_that_a_station_would_decide_by_is_found(tmp_path, list_):
    data = json.loads(written(tmp_path, lambda job: True).read_text())
    assert recheck(tmp_path) == (Verdict.PROMOTE, data["reason"])
    forged = {"panels": {"difference": {**data["panels"][-1]["difference"], "lower": -0.001}}, "vetoes": {"p": 0.5}}
    entries = [*data[list_][:-1], {**data[list_][-1], **forged[list_]}]
    for wrong in (entries, data[list_][:-1], [*data[list_], data[list_][0]]):
        (tmp_path / "gate.json").write_text(json.dumps({**data, list_: wrong}))
        with pytest.raises(EvidenceMismatch, match=f"other {list_}"):
            recheck(tmp_path)


@pytest.mark.parametrize("good_panel", [True, False])
def test_what_the_gate_writes_the_robot_reads_to_the_same_numbers(tmp_path, good_panel):
    path = written(tmp_path, lambda job: good_panel or job.arm == "baseline")
    data = json.loads(path.read_text())
    summary = GateSummary(Contract(data["verdict"]), data["reason"], "a" * 64, "evidence/gate.json", "b" * 64)
    found = parse_gate_report(path.read_bytes(), summary, "c" * 64)
    assert not found.derived
    for entry in data["panels"]:
        read, difference = found.panels[entry["name"]], entry["difference"]
        assert (read.lower, read.upper, read.outcome) == (difference["lower"], difference["upper"], entry["outcome"])
        assert (read.pairs, read.baseline) == (entry["pairs"], entry["baseline"]["successes"])
    screened = {floor["task"] for floor in data["screening"] if floor["counts"]}  # as `compress seal` reads them
    assert screened == {task["index"] for task in data["plan"]["tasks"] if task["sentence"]}


def test_every_panel_that_a_gate_can_run_is_one_that_a_station_may_demand():
    assert {IN_DISTRIBUTION, *PANELS} == set(contract_panels.PANELS)


def test_jobs_and_setups_cross_the_socket_whole():
    plan = plan_of(GateSpec(panels=AXIS | SWAP))
    floors = tuple(TaskFloor(t.index, t.name, 1, 0, 1, "expert", True, "") for t in plan.tasks)
    for name in plan.panels:
        for job in panel_jobs(plan, floors, name)[:4]:
            assert Job.from_json(json.loads(json.dumps(job.to_json()))) == job
            assert job.key.panel == name == job.lost("suite", "task", "crash").panel
    setup = WorkerSetup("suite", "", 32, 8, 2, {}, {"robot_pose": 0.15})
    assert WorkerSetup.from_json(json.loads(json.dumps(setup.to_json()))) == setup


@pytest.fixture(scope="module")
def closed(tmp_path_factory) -> PolicySource:
    """An artifact exported for a closed list of sentences."""
    folder = tmp_path_factory.mktemp("closed") / "artifact"
    prompt = factory.prompt_spec(tasks=("do 0", "do 1"))
    policy = replace(factory.policy_spec(), prompt=prompt)
    factory.write_draft(folder, policy=policy)
    return PolicySource("c" * 64, artifact=str(folder))


def test_a_closed_list_of_sentences_refuses_the_panels_that_say_something_else(closed):
    assert refusal(closed, ["do 0"]) == ""
    assert "closed list of tasks" in refusal(closed, ["do 0", "do 7"])
    plan = plan_of(GateSpec(panels=SWAP | AXIS), tasks=2)
    assert told(plan, "instruction_swap") == ["do 0", "do 1"]
    assert refused_panels(plan, {"candidate": closed}) == {}
    plan = plan_of(GateSpec(panels=SWAP | AXIS), tasks=4)
    assert list(refused_panels(plan, {"candidate": closed})) == ["instruction_swap"]
    language = refused_panels(plan_of(GateSpec(panels={"language": {}})), {})
    assert "no verb" in language["language"]
