# SPDX-License-Identifier: Apache-2.0
"""The path from rows to verdict, on synthetic rows: no simulator."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from compress.gate.floor import recording_jobs, replay_jobs, screening_jobs, task_floors
from compress.gate.jobs import Job
from compress.gate.judge import counted_pairs, judge, pair_jobs
from compress.gate.panels import judge_panels
from compress.gate.plan import GatePlan, PlanMismatch, SuiteTask, make_plan
from compress.gate.policies import PolicySource
from compress.gate.recheck import EvidenceMismatch, recheck
from compress.gate.report import write_report
from compress.gate.rows import EpisodeRow, RowKey
from compress.gate.spec import GateSpec
from compress.gate.stats import Outcome
from compress.gate.verdict import Verdict, unfit_for_proof, verdict_of

ARMS = {"candidate": PolicySource("c" * 64, artifact="/c"), "baseline": PolicySource("b" * 64, artifact="/b")}
Solves = Callable[[Job], bool]


def plan_of(spec: GateSpec, tasks: int = 4, states: int = 50) -> GatePlan:
    suite = tuple(SuiteTask(i, f"task_{i}", f"do {i}", states, 150) for i in range(tasks))
    return make_plan(spec, suite, {name: source.identity for name, source in ARMS.items()})


def row(job: Job, success: bool, error: str = "") -> EpisodeRow:
    actions = ((0.0,) * 7,) if job.arm == "expert" else ()
    return EpisodeRow(
        "suite", job.task, f"task_{job.task}", job.state, job.seed, job.arm, job.policy, job.told, success, 80, 10, 1.0,
        0.1, error, 1, actions, job.panel,
    )  # fmt: skip


def play(plan: GatePlan, solves: Solves, shuffle: int | None = None) -> dict[RowKey, EpisodeRow]:
    """All rows of a whole run; with `shuffle`, pair rows arrive in a random order."""
    rows: dict[RowKey, EpisodeRow] = {}

    def add(jobs: list[Job]) -> None:
        rows.update({job.key: row(job, solves(job)) for job in jobs})

    add(screening_jobs(plan))
    while jobs := recording_jobs(plan, rows):
        add(jobs)
    add(replay_jobs(plan, rows))
    jobs = pair_jobs(plan, task_floors(plan, rows))
    if shuffle is not None:
        random.Random(shuffle).shuffle(jobs)
    add(jobs)
    return rows


def good(job: Job) -> bool:
    return job.arm != "blind"


def verdict(plan: GatePlan, rows) -> tuple[Verdict, str]:
    floors = task_floors(plan, rows)
    return verdict_of(plan, floors, None if unfit_for_proof(plan, floors) else judge(plan, floors, rows))


def test_an_equal_candidate_is_promoted():
    plan = plan_of(GateSpec())
    assert verdict(plan, play(plan, good))[0] is Verdict.PROMOTE


def test_a_candidate_that_never_succeeds_is_held_early():
    plan = plan_of(GateSpec())
    rows = play(plan, lambda job: good(job) and job.arm != "candidate")
    judgement = judge(plan, task_floors(plan, rows), rows)
    assert judgement.decision.outcome is Outcome.FAIL
    assert judgement.decision.pairs < 15
    assert "worse than the baseline" in verdict(plan, rows)[1]


@pytest.mark.parametrize("seed", range(3))
def test_the_verdict_does_not_depend_on_the_order_of_arrival(seed):
    plan = plan_of(GateSpec())
    luck = random.Random(seed)
    lost = {pair for pair in plan.order if luck.random() < 0.15}

    def solves(job: Job) -> bool:
        return good(job) and not (job.arm == "candidate" and (job.task, job.state, job.seed) in lost)

    floors = task_floors(plan, play(plan, solves))
    final = judge(plan, floors, play(plan, solves))
    for shuffle in range(2):
        rows: dict[RowKey, EpisodeRow] = {}
        seen = None
        for count, (key, value) in enumerate(play(plan, solves, shuffle).items()):
            rows[key] = value
            if count % 9:
                continue
            now = judge(plan, floors, rows)
            if now.decision.outcome is not Outcome.UNDECIDED:
                seen = seen or now
        assert seen is not None or final.decision.outcome is Outcome.UNDECIDED
        assert seen is None or (seen.decision, seen.pairs, seen.results) == (final.decision, final.pairs, final.results)


def test_a_row_that_came_early_waits_for_those_before_it():
    plan = plan_of(GateSpec())
    whole = play(plan, good)
    floors = task_floors(plan, whole)
    first = counted_pairs(plan, floors)[0]
    late = {
        key: value
        for key, value in whole.items()
        if (key.arm, key.task, key.state) != ("candidate", first.task, first.state)
    }
    judgement = judge(plan, floors, late)
    assert (judgement.decision.pairs, judgement.missing) == (0, 100)
    assert not judgement.decided


def test_missing_rows_hold():
    plan = plan_of(GateSpec())
    rows = dict(list(play(plan, good).items())[:-160])
    found = verdict(plan, rows)
    assert found[0] is Verdict.HOLD
    assert "missing" in found[1]


def test_a_comparison_that_was_not_run_or_rests_on_a_broken_baseline_holds():
    plan = plan_of(GateSpec())
    rows = play(plan, good)
    floors = task_floors(plan, rows)
    passed = judge(plan, floors, rows)
    assert verdict_of(plan, floors, None) == (Verdict.HOLD, "the paired comparison was not run")
    broken = tuple(replace(floor, baseline=0) for floor in floors)
    assert verdict_of(plan, floors, passed)[0] is Verdict.PROMOTE
    assert verdict_of(plan, broken, passed)[0] is Verdict.HOLD


def test_the_reason_counts_each_policys_own_successes():
    plan = plan_of(GateSpec(pairs=20))
    first = plan.order[0]
    rows = play(
        plan, lambda job: good(job) and (job.arm, job.task, job.state) != ("candidate", first.task, first.state)
    )
    assert "candidate 19/20, baseline 20/20" in verdict(plan, rows)[1]


def test_an_undecided_budget_holds():
    plan = plan_of(GateSpec(pairs=20))
    assert verdict(plan, play(plan, good)) == (Verdict.HOLD, verdict(plan, play(plan, good))[1])
    assert "undecided after the budget of 20 pairs" in verdict(plan, play(plan, good))[1]


def test_few_scenes_are_judged_as_a_stream_so_running_them_all_proves_little():
    plan = plan_of(GateSpec(pairs=16), tasks=4, states=4)
    rows = play(plan, good)
    judgement = judge(plan, task_floors(plan, rows), rows)
    assert judgement.test.population is None
    assert judgement.decision.outcome is Outcome.UNDECIDED


def test_a_task_that_a_blind_replay_solves_does_not_count():
    plan = plan_of(GateSpec())
    rows = play(plan, lambda job: job.arm != "blind" or job.task in (0, 1))
    floors = task_floors(plan, rows)
    assert [floor.counts for floor in floors] == [False, False, True, True]
    assert {pair.task for pair in counted_pairs(plan, floors)} == {2, 3}
    assert judge(plan, floors, rows).test.population == 100


def test_no_task_that_counts_holds_even_a_perfect_candidate():
    plan = plan_of(GateSpec())
    found = verdict(plan, play(plan, lambda job: True))
    assert found[0] is Verdict.HOLD
    assert "no task counts as proof" in found[1]


def test_a_broken_baseline_holds_a_perfect_candidate():
    plan = plan_of(GateSpec())
    found = verdict(plan, play(plan, lambda job: good(job) and not (job.arm == "baseline" and job.state % 3)))
    assert found[0] is Verdict.HOLD
    assert "baseline itself is broken" in found[1]


def test_what_the_expert_cannot_record_is_recorded_from_the_baseline():
    plan = plan_of(GateSpec(), tasks=1)
    rows = play(plan, lambda job: good(job) and (job.arm, job.policy) != ("expert", "expert"))
    (floor,) = task_floors(plan, rows)
    assert floor.recorded.startswith("baseline")
    assert floor.counts


def test_a_task_without_any_recording_does_not_count():
    plan = plan_of(GateSpec(), tasks=2)
    rows = play(plan, lambda job: good(job) and not (job.arm == "expert" and job.task == 0))
    floors = task_floors(plan, rows)
    assert [floor.counts for floor in floors] == [False, True]
    assert "unknown" in floors[0].why


def test_screening_with_a_missing_row_says_nothing():
    plan = plan_of(GateSpec())
    rows = play(plan, good)
    for arm in ("baseline", "blind", "expert"):
        gone = next(
            key
            for key in rows
            if key.arm == arm and (arm != "baseline" or (key.task, key.state) in {p[:2] for p in plan.screen[0]})
        )
        assert task_floors(plan, {key: value for key, value in rows.items() if key != gone}) is None


def report(folder, solves: Solves, spec: GateSpec | None = None):
    spec = spec or GateSpec()
    plan = plan_of(spec)
    rows = play(plan, solves)
    floors = task_floors(plan, rows)
    judgement = None if unfit_for_proof(plan, floors) else judge(plan, floors, rows)
    panels, found = judge_panels(plan, floors, judgement, rows, {}), verdict_of(plan, floors, judgement)
    return write_report(folder, spec, *found, ARMS, plan, floors, judgement, rows, panels=panels)


@pytest.mark.parametrize(
    ("solves", "code"), [(good, 0), (lambda job: good(job) and job.arm != "candidate", 1), (lambda job: True, 1)]
)
def test_the_verdict_can_be_recomputed_from_the_evidence_alone(tmp_path, solves, code):
    written = report(tmp_path, solves)
    assert written.exit_code == code
    assert recheck(tmp_path) == (written.verdict, written.reason)


def test_evidence_that_says_something_else_than_its_rows_is_found(tmp_path):
    report(tmp_path, lambda job: good(job) and job.arm != "candidate")
    data = json.loads((tmp_path / "gate.json").read_text())
    (tmp_path / "gate.json").write_text(json.dumps({**data, "verdict": "promote"}))
    with pytest.raises(EvidenceMismatch, match="the rows say hold"):
        recheck(tmp_path)
    edited = {**data["plan"], "order": sorted(data["plan"]["order"])}
    (tmp_path / "gate.json").write_text(json.dumps({**data, "plan": edited}))
    with pytest.raises(PlanMismatch, match="order"):
        recheck(tmp_path)
    (tmp_path / "gate.json").write_text(json.dumps({**data, "plan": None, "verdict": "promote"}))
    with pytest.raises(EvidenceMismatch, match="without a plan"):
        recheck(tmp_path)


def test_the_report_says_whom_it_is_about_and_holds_all_numbers(tmp_path):
    written = report(tmp_path, good)
    data = json.loads(written.path.read_text())
    assert (written.candidate_id, data["arms"]["candidate"]["policy_id"]) == ("c" * 64, "c" * 64)
    assert data["paired"]["candidate"] == data["paired"]["baseline"]
    assert data["paired"]["log_e_pass"] >= data["paired"]["threshold_log_e"]
    assert len(data["paired"]["path_log_e"]) == data["paired"]["pairs"]
    assert sum(task["pairs"] for task in data["tasks"]) == data["paired"]["pairs"]
    assert {"mujoco", "robosuite", "hf-libero"} <= set(data["versions"])
    page = (tmp_path / "gate.md").read_text()
    assert page.startswith("# Gate: PROMOTE")
    assert data["plan_digest"] in page


def test_an_error_writes_nothing_into_a_folder_that_may_be_anothers(tmp_path):
    written = write_report(tmp_path, GateSpec(), Verdict.ERROR, "asked wrongly")
    assert (written.exit_code, list(tmp_path.iterdir())) == (2, [])
