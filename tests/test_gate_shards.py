# SPDX-License-Identifier: Apache-2.0
"""Shards of a gate, on synthetic rows: who runs what, what is one gate run and what is not. No simulator."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_gate_judge import good, plan_of, play, row, verdict

from compress.gate.floor import recording_jobs, replay_jobs, screening_jobs, task_floors
from compress.gate.jobs import Job
from compress.gate.judge import pair_jobs
from compress.gate.made_with import FILE, SCHEMA, MixedSettings, declare, differences
from compress.gate.merge import MergeRefused, merge
from compress.gate.panel_spec import PanelSpec
from compress.gate.panels import panel_jobs
from compress.gate.plan import PlanMismatch, register
from compress.gate.recheck import recheck
from compress.gate.rows import RowKey, RowLog, read_rows
from compress.gate.shard import ROWS, SHARDS, BadShard, Shard, ShardLog
from compress.gate.spec import GateSpec
from compress.gate.verdict import Verdict

SMALL = PanelSpec(pairs=20, margin=0.3)  # so wide that so few pairs can decide
SPEC = GateSpec(pairs=40, panels={"robot_pose": SMALL, "instruction_swap": SMALL})


def all_jobs(plan) -> list[Job]:
    rows = play(plan, good)
    floors = task_floors(plan, rows)
    panels = [job for name in plan.panels for job in panel_jobs(plan, floors, name)]
    recorded = [Job.of("expert", "expert", pair, 9) for pairs in plan.record.values() for pair in pairs]
    return [
        *recorded,
        *screening_jobs(plan),
        *replay_jobs(plan, rows),
        *pair_jobs(plan, floors),
        *panels,
    ]


PLAN = plan_of(SPEC, tasks=5, states=30)
JOBS = all_jobs(PLAN)


@given(of=st.integers(1, 40), seed=st.integers(0, 5))
def test_shards_are_disjoint_and_complete_whatever_the_order_of_asking(of, seed):
    shuffled = random.Random(seed).sample(JOBS, len(JOBS))
    shares = [Shard(i, of).owned(PLAN, JOBS) for i in range(1, of + 1)]
    assert sorted(job.key for share in shares for job in share) == sorted(job.key for job in JOBS)
    for index, share in enumerate(shares, start=1):
        assert {job.key for job in Shard(index, of).owned(PLAN, shuffled)} == {job.key for job in share}


@given(of=st.integers(2, 40))
def test_all_that_both_policies_do_in_a_scene_belongs_to_one_shard(of):
    owner: dict[object, set[int]] = {}
    for index in range(1, of + 1):
        for job in Shard(index, of).owned(PLAN, JOBS):
            together = job.task if job.arm in ("expert", "blind") else (job.task, job.state)
            owner.setdefault(together, set()).add(index)
    assert {len(shards) for shards in owner.values()} == {1}


@given(of=st.integers(1, 20))
def test_no_shard_has_more_than_one_scene_more_than_another(of):
    scenes = [Job.of("baseline", "baseline", pair, 9) for pair in PLAN.order]
    sizes = [len(Shard(i, of).owned(PLAN, scenes)) for i in range(1, of + 1)]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("text", ["0/2", "3/2", "2", "1/0", "-1/2", "a/b", "1/2/3"])
def test_what_is_no_share_is_refused(text):
    with pytest.raises(BadShard, match="expected I/N"):
        Shard.parse(text)


def whole(solves=good) -> dict:
    """All rows of a run, those of the panels too: no policy obeys a wrong sentence."""
    rows = play(PLAN, solves)
    floors = task_floors(PLAN, rows)
    jobs = [job for name in PLAN.panels for job in panel_jobs(PLAN, floors, name)]
    return rows | {job.key: row(job, job.panel != "instruction_swap") for job in jobs}


def settings(**changes) -> dict:
    compared = {"plan_digest": PLAN.digest(), "renderer": "osmesa", "versions": {"mujoco": "3.8.0"}, "batch": 1}
    return {"schema": SCHEMA, "compared": {**compared, **changes}, "where": {"artifacts": {}}}


def write_shards(folder: Path, rows: dict, of: int = 3, plan=PLAN, made_with=settings) -> None:
    """What `of` shards leave behind, recordings included."""
    register(plan, folder / "plan.json")
    jobs = {job.key: job for job in [*all_jobs(plan), *recording_jobs(plan, {})]}
    for index in range(1, of + 1):
        own = folder / SHARDS / Shard(index, of).name
        declare(own / FILE, made_with())
        with RowLog(own / ROWS) as log:
            for job in Shard(index, of).owned(plan, [jobs[key] for key in rows]):
                log.append(rows[job.key])


@pytest.mark.parametrize("of", [1, 2, 7])
@pytest.mark.parametrize("rate", [0.0, 0.4])
def test_the_merged_verdict_is_that_of_one_process(tmp_path, of, rate):
    luck = random.Random(3)
    lost = {pair for pair in PLAN.order if luck.random() < rate}
    rows = whole(lambda job: good(job) and not (job.arm == "candidate" and (job.task, job.state, job.seed) in lost))
    write_shards(tmp_path, rows, of)
    report = merge(tmp_path)
    found, reason = verdict(PLAN, rows)
    passed = "" if rate else "; panels passed: robot_pose, instruction_swap"
    assert (report.verdict, report.reason) == (found, reason + passed)
    assert report.verdict is (Verdict.HOLD if rate else Verdict.PROMOTE)
    assert recheck(tmp_path) == (report.verdict, report.reason)
    assert sum(json.loads((tmp_path / "merge.json").read_text())["shards"].values()) == len(rows)


def test_episodes_whose_settings_are_gone_are_not_taken_for_ones_made_with_these(tmp_path):
    declare(tmp_path / FILE, settings())
    with RowLog(tmp_path / ROWS) as log:
        declare(tmp_path / FILE, settings())
        job = JOBS[0]
        log.append(row(job, True))
    (tmp_path / FILE).unlink()
    with pytest.raises(MixedSettings, match=r"has episodes, but settings.json is gone.*new folder"):
        declare(tmp_path / FILE, settings(renderer="egl"))
    assert not (tmp_path / FILE).exists()


def test_a_missing_shard_is_a_hold_or_a_refusal_and_never_a_pass(tmp_path):
    import shutil

    write_shards(tmp_path, play(PLAN, good), of=3)
    shutil.rmtree(tmp_path / SHARDS / "2-of-3")
    with pytest.raises(MergeRefused, match="screening is not complete"):
        merge(tmp_path)
    other = tmp_path / "other"
    rows = play(PLAN, good)
    undecided = {key: value for key, value in rows.items() if key.arm != "candidate" or (key.task + key.state) % 2}
    write_shards(other, undecided, of=1)
    report = merge(other)
    assert report.verdict is Verdict.HOLD
    assert "pairs are missing" in report.reason


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"plan_digest": "f" * 64}, "plan_digest"),
        ({"renderer": "egl"}, 'renderer: "osmesa" and "egl"|renderer: "egl" and "osmesa"'),
        ({"versions": {"mujoco": "3.7.0"}}, "versions.mujoco"),
        ({"arms": {"candidate": {"policy_id": "x"}}}, "arms"),
        ({"protocol": {"panels": {"camera": 5}}}, "protocol"),
        ({"code": "1"}, "code"),
        ({"batch": 4}, "batch"),
    ],
)
def test_mixed_settings_are_refused_by_name(tmp_path, change, named):
    write_shards(tmp_path, play(PLAN, good))
    odd = tmp_path / SHARDS / "2-of-3" / FILE
    odd.write_text(json.dumps(settings(**change)))
    with pytest.raises(MixedSettings, match=named):
        merge(tmp_path)
    with pytest.raises(MixedSettings, match=named):
        ShardLog(tmp_path, Shard(1, 3))
    with pytest.raises(MixedSettings, match=named):
        declare(odd, settings())


def test_an_episode_with_two_outcomes_is_refused_and_a_repeated_one_is_not(tmp_path):
    rows = whole()
    write_shards(tmp_path, rows)
    first = read_rows(tmp_path / SHARDS / "1-of-3" / ROWS)[0]
    with RowLog(tmp_path / SHARDS / "2-of-3" / ROWS) as log:
        log.append(replace(first, wall_s=99.0))
    assert merge(tmp_path).verdict is Verdict.PROMOTE
    with RowLog(tmp_path / SHARDS / "3-of-3" / ROWS) as log:
        log.append(replace(first, success=not first.success))
    with pytest.raises(MergeRefused, match="success"):
        merge(tmp_path)


def test_a_pair_whose_sides_come_from_two_shards_is_refused(tmp_path):
    rows = play(PLAN, good)
    write_shards(tmp_path, rows, of=2)
    path = tmp_path / SHARDS / "1-of-2" / ROWS
    lines = path.read_bytes().splitlines(keepends=True)
    torn = next(line for line in lines if json.loads(line)["arm"] == "candidate")
    path.write_bytes(b"".join(line for line in lines if line != torn))
    with (tmp_path / SHARDS / "2-of-2" / ROWS).open("ab") as stream:
        stream.write(torn)
    with pytest.raises(MergeRefused, match="torn apart"):
        merge(tmp_path)


def test_rows_of_another_plan_are_refused(tmp_path):
    write_shards(tmp_path, play(PLAN, good))
    (tmp_path / "plan.json").unlink()
    register(plan_of(replace(SPEC, order_seed=9), tasks=5, states=30), tmp_path / "plan.json")
    with pytest.raises(PlanMismatch, match="were run for"):
        merge(tmp_path)


def test_answers_computed_several_at_a_time_promote_nothing(tmp_path):
    write_shards(tmp_path, whole(), made_with=lambda: settings(batch=4))
    report = merge(tmp_path)
    assert report.verdict is Verdict.HOLD
    assert "4 at a time" in report.reason


def test_a_shard_sees_what_the_others_have_finished_and_writes_only_its_own(tmp_path):
    rows = play(PLAN, good)
    write_shards(tmp_path, rows, of=2)
    before = (tmp_path / SHARDS / "2-of-2" / ROWS).read_bytes()
    job = Job.of("candidate", "candidate", PLAN.order[-1], 9)
    with ShardLog(tmp_path, Shard(1, 2)) as log:
        assert set(log.rows) == set(rows)
        assert log.own < len(rows)
        log.append(row(job, True))
        with RowLog(tmp_path / SHARDS / "2-of-2" / ROWS) as neighbour:
            neighbour.append(row(replace(job, state=-1), True))
        log.refresh()
        assert RowKey("candidate", "candidate", job.task, -1, job.seed, job.task) in log.rows
    assert (tmp_path / SHARDS / "2-of-2" / ROWS).read_bytes().startswith(before)


def test_an_empty_folder_is_refused_with_the_next_command(tmp_path):
    with pytest.raises(MergeRefused, match="compress gate run --shard"):
        merge(tmp_path)


def test_differences_name_each_leaf_with_both_values():
    one, other = {"a": {"b": 1, "c": [1]}, "d": 1}, {"a": {"b": 2, "c": [1]}, "e": None}
    assert list(differences(one, other)) == ["a.b: 1 and 2", "d: 1 and null"]
