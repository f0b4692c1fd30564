# SPDX-License-Identifier: Apache-2.0
"""One plan, four ways to run it, in the real simulator: one process, shards with a SIGKILL, a server that dies, Ray."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import artifact_factory as factory
import pytest
from gate_doubles import Obedient, ZeroMotion, source
from test_gate_artifacts import fitting
from test_gate_run import BAD

from compress.gate.jobs import Job, WorkerSetup
from compress.gate.made_with import FILE, MixedSettings
from compress.gate.merge import merge
from compress.gate.plan import Pair
from compress.gate.policies import PolicySource, UnusablePolicy
from compress.gate.replay import CannotReplay, replay, spread
from compress.gate.rows import EpisodeRow, read_rows
from compress.gate.run_shard import run_shard
from compress.gate.served_engine import ServedEngine, asking
from compress.gate.shard import ROWS, SHARDS, Shard
from compress.gate.sim_gate import gate_policies
from compress.gate.spec import GateSpec
from compress.gate.workers import WorkerPool, child_environment
from runtime.contract.write import ArtifactFile

pytestmark = [pytest.mark.sim, pytest.mark.slow]
TESTS = Path(__file__).parent
SPEC = replace(BAD, alpha=0.45, filmstrips=0, workers=1)  # a loss in each pair decides after two or three
VICTIM = "1/2"
SHARD = """
import sys
sys.path.insert(0, {tests!r})
from test_gate_engines import run_one
run_one(sys.argv[1], sys.argv[2])
"""


def arms() -> dict[str, PolicySource]:
    return {"candidate": source(ZeroMotion), "baseline": source(Obedient)}


def run_one(folder: str, shard: str) -> None:
    if shard == VICTIM:
        seen: list[object] = []

        def stand_still(step) -> None:  # after two rows, until it is killed: it cannot end first
            seen.append(step)
            if len(seen) == 2:
                os.kill(os.getpid(), signal.SIGSTOP)

        run_shard(arms(), SPEC, Path(folder), Shard.parse(shard), stand_still)
    else:
        run_shard(arms(), SPEC, Path(folder), Shard.parse(shard))


def outcomes(rows) -> dict:
    return {row.key: (row.success, row.steps, row.queries, row.error, row.actions) for row in rows}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The gate in one process: its folder and its report."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, gate_policies(*arms().values(), SPEC, folder)


def test_two_shards_of_which_one_is_killed_give_the_verdict_of_one_process(tmp_path, whole):
    command = [sys.executable, "-c", SHARD.format(tests=str(TESTS)), str(tmp_path)]
    first, second = (subprocess.Popen([*command, f"{i}/2"], env=child_environment(os.environ)) for i in (1, 2))
    log = tmp_path / SHARDS / "1-of-2" / ROWS
    deadline = time.monotonic() + 300
    while not log.exists() or log.read_bytes().count(b"\n") < 2:
        assert first.poll() is None, "the shard ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.wait()
    before = read_rows(log)
    with log.open("ab") as stream:
        stream.write(b'{"torn')
    assert second.wait() == 0
    done = run_shard(arms(), SPEC, tmp_path, Shard(1, 2))
    assert done.settled
    assert read_rows(log)[: len(before)] == before
    report = merge(tmp_path)
    _, expected = whole
    assert (report.verdict, report.reason) == (expected.verdict, expected.reason)
    assert report.data["paired"] == expected.data["paired"]
    assert report.data["plan_digest"] == expected.data["plan_digest"]
    common = outcomes(read_rows(whole[0] / ROWS))
    rows = [row for path in tmp_path.glob(f"{SHARDS}/*/{ROWS}") for row in read_rows(path)]
    assert all(common[key] == value for key, value in outcomes(rows).items() if key in common)


def test_a_shard_with_other_settings_does_not_even_start(tmp_path, whole, monkeypatch):
    shard = tmp_path / SHARDS / "2-of-2"
    shard.mkdir(parents=True)
    settings = json.loads((whole[0] / FILE).read_text())
    settings["compared"]["renderer"] = "another"
    (shard / FILE).write_text(json.dumps(settings))
    with pytest.raises(MixedSettings, match="renderer"):
        run_shard(arms(), SPEC, tmp_path, Shard(1, 2))
    assert read_rows(tmp_path / SHARDS / "1-of-2" / ROWS) == ()


def test_a_replayed_log_reproduces_and_a_wrong_log_shows_its_flip_rate(tmp_path, whole):
    import shutil

    folder = tmp_path / "log"
    shutil.copytree(whole[0], folder)
    found = replay(folder, 2, sources=arms())
    assert found.reproduces, found.sentence()
    assert found.episodes == 2
    assert not found.changed
    assert "reproduces: 2 of 2" in found.sentence()

    logged = [row for row in read_rows(folder / ROWS) if row.arm in ("candidate", "baseline")]
    lie = next(row for row in spread(logged, 3) if row.arm == "baseline")
    text = (folder / ROWS).read_text().splitlines()
    told = [json.dumps(replace(lie, success=not lie.success).to_json(), sort_keys=True)]
    kept = [line for line in text if EpisodeRow.from_json(json.loads(line)).key != lie.key]
    (folder / ROWS).write_text("\n".join(kept + told) + "\n")
    settings = json.loads((folder / FILE).read_text())
    settings["compared"]["versions"]["mujoco"] = "3.7.0"
    (folder / FILE).write_text(json.dumps(settings))
    found = replay(folder, 3, sources=arms())
    assert [flip.row.key for flip in found.flips] == [lie.key]
    assert "1 of 3 outcomes flip (33 %" in found.sentence()
    assert any("versions.mujoco" in line for line in found.changed)
    assert json.loads((folder / "replay.json").read_text())["flip_rate"] == pytest.approx(1 / 3)
    with pytest.raises(CannotReplay, match="baseline of this log is no artifact"):
        replay(folder, 3)


@pytest.fixture(scope="module")
def draft(tmp_path_factory) -> Path:
    """An artifact with LIBERO's conventions; it solves nothing."""
    spec, folder = fitting(), tmp_path_factory.mktemp("artifact") / "draft"
    files = factory.artifact_files()
    files["policy.onnx"] = ArtifactFile(files["policy.onnx"].role, factory.onnx_bytes(spec))
    factory.write_draft(folder, policy=spec, files=files)
    return folder


USELESS = GateSpec(
    tasks=(0,), pairs=2, floor_states=2, max_steps=24, panels={}, filmstrips=0, workers=1, states=6,
    image_size=32,
)  # fmt: skip


def served_arms(draft: Path) -> dict[str, PolicySource]:
    return {arm: PolicySource(arm * 4, artifact=str(draft), image_size=32) for arm in ("candidate", "baseline")}


def test_a_server_that_is_killed_mid_run_loses_nothing_and_changes_nothing(tmp_path, draft):
    engines = []

    def engine(*args):
        engines.append(ServedEngine(*args))
        return engines[0]

    def kill_once(step) -> None:
        if len(killed) < 1 and step.row.arm == "baseline":
            killed.append(engines[0].server_pid)
            os.kill(killed[0], signal.SIGKILL)

    killed: list[int] = []
    local = gate_policies(*served_arms(draft).values(), USELESS, tmp_path / "local")
    served = gate_policies(*served_arms(draft).values(), USELESS, tmp_path / "served", kill_once, engine)
    assert killed
    assert (served.verdict, served.reason) == (local.verdict, local.reason)
    there, here = (outcomes(read_rows(tmp_path / name / ROWS)) for name in ("served", "local"))
    assert there == here
    assert all(error == "" for _, _, _, error, _ in there.values())


def test_without_a_server_nothing_is_learned_about_the_policy(tmp_path, draft):
    setup = WorkerSetup("dropgate_tabletop", "", 32, 8, 1, asking(served_arms(draft), tmp_path, patience_s=0.5))
    rows: list[object] = []
    job = Job.of("candidate", "candidate", Pair(0, 0, 0), 8)
    pool = WorkerPool(setup, 1, 60.0, tmp_path / "logs", {0: "task"})
    with pool, pytest.raises(UnusablePolicy, match="compress gate serve"):
        pool.run([job], rows.append)
    assert rows == []


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed. Next: pip install -e .[ray]")
def test_a_ray_cluster_of_which_a_worker_is_killed_gives_the_verdict_of_one_process(tmp_path, whole):
    from compress.gate.ray_engine import RayEngine

    engines, killed = [], []

    def engine(*args):
        engines.append(RayEngine(*args))
        return engines[0]

    def kill_once(step) -> None:
        if not killed and step.phase == "pairs" and len(engines[0].pids) == 2:
            killed.extend(engines[0].pids[:1])
            os.kill(killed[0], signal.SIGKILL)

    report = gate_policies(*arms().values(), replace(SPEC, workers=2), tmp_path, kill_once, engine)
    _, expected = whole
    assert killed
    assert (report.verdict, report.reason) == (expected.verdict, expected.reason)
    assert report.data["paired"] == expected.data["paired"]
    rows = read_rows(tmp_path / ROWS)
    assert len({row.key for row in rows}) == len(rows)
    common = outcomes(read_rows(whole[0] / ROWS))
    assert all(common[key] == value for key, value in outcomes(rows).items() if key in common)
    assert max(row.attempts for row in rows) == 2


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed. Next: pip install -e .[ray]")
def test_an_artifact_reaches_a_ray_worker_by_its_digest_only(tmp_path, draft, monkeypatch):
    """The actor's own methods, without a cluster: what crosses is names, bytes and digests."""
    import tempfile

    from compress.digests import files_under, of_path
    from compress.gate.ray_worker import Simulator

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    digest, actor = of_path(draft), Simulator()
    assert actor.lacks(digest)
    with pytest.raises(ValueError, match="inside the artifact"):
        actor.take("../escaped", b"x")
    for path in files_under(draft):
        data = path.read_bytes()
        actor.take(path.relative_to(draft).as_posix(), data[:100])
        actor.take(path.relative_to(draft).as_posix(), data[100:])
    kept = Path(actor.keep(digest))
    assert of_path(kept) == digest
    assert not Simulator().lacks(digest)
    (kept / "policy.onnx").write_bytes(b"damaged")
    assert actor.lacks(digest)
    actor.take("policy.onnx", b"forged")
    with pytest.raises(ValueError, match="expected"):
        actor.keep(digest)
