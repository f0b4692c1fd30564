# SPDX-License-Identifier: Apache-2.0
"""The report says what the evidence says, no more; it survives what users type and what disks lose."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import report_factory as factory
from report_page import Page, page

from compress.gate.spec import GateSpec
from compress.report import ReportError, build
from compress.report.evidence import IN_RUN, NAMES, collect
from compress.report.view_blocks import read_ranking
from compress.stages.probe import load_scores
from runtime.contract.artifact import load_manifest


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return page(factory.run_folder(), tmp_path_factory.mktemp("report") / "report.html")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return factory.copy_run(tmp_path / "run")


def test_the_verdict_and_its_reason_come_first_and_are_the_gates_own(whole: Page) -> None:
    data = json.loads((factory.run_folder() / IN_RUN["gate"]).read_text())
    start = whole.text.split("DropGate report of a run")[1].split("This page is for reading")[0]
    assert start.strip().startswith(data["verdict"].upper())
    assert data["reason"][1:] in start
    assert "language blocks 4 of 6" in start


def test_all_numbers_of_the_evidence_are_on_the_page(whole: Page) -> None:
    run = factory.run_folder()
    gate, parity, bench = (json.loads((run / IN_RUN[name]).read_text()) for name in ("gate", "parity", "bench"))
    for task in gate["tasks"]:
        assert f"{task['candidate']['successes']}/{task['candidate']['trials']}" in whole.text
        assert task["why"] in whole.text
    for dim in parity["dims"]:
        assert f"{dim['graph']:.3g}".replace("-", "\u2212") in whole.text
    for timing in bench["timings"]:
        assert f"{timing['p95_ms']:.3g}" in whole.text
    assert f"{bench['speedup']['candidate']:.2f} times as fast" in whole.text


def test_plan_and_scores_are_read_as_the_pipeline_reads_them() -> None:
    ranking = read_ranking(collect(factory.run_folder()))
    assert ranking.scores == load_scores(factory.run_folder() / IN_RUN["probe"])
    assert [len(plan.dropped) for plan in ranking.plans] == [2, 1]


def test_nothing_is_loaded_from_outside_and_nothing_is_executed(whole: Page) -> None:
    names = {tag for tag, _ in whole.tags}
    assert not names & {"script", "link", "iframe", "object", "embed", "form", "base"}
    for tag, attributes in whole.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href"):
            value = attributes.get(name)
            assert value is None or value.startswith("#" if tag == "a" else "data:image/png;base64,")


def test_a_script_in_an_instruction_stays_text(whole: Page) -> None:
    assert factory.NASTY in whole.text
    assert any(factory.NASTY in (attributes.get("alt") or "") for tag, attributes in whole.tags if tag == "img")


def test_every_drawing_has_a_text_alternative(whole: Page) -> None:
    ids = [attributes["id"] for _, attributes in whole.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))
    drawings = [attributes for tag, attributes in whole.tags if tag == "svg"]
    assert len(drawings) == 11  # rates, wealth, 2 x bounds, panels twice, latency, what ships, two stacks, recovery
    assert all(set(a["aria-labelledby"].split()) <= set(ids) for a in drawings)
    for axis in ("[%]", "[ms]", "optimizer step", "no unit", "pairs compared"):
        assert axis in whole.text


def test_digests_are_short_with_the_whole_in_the_title(whole: Page) -> None:
    policy = load_manifest(factory.run_folder() / "export/candidate")[0].policy_id
    assert policy in [attributes.get("title") for tag, attributes in whole.tags if tag == "abbr"]
    assert policy not in whole.text
    assert policy[:12] in whole.text


def test_the_same_evidence_gives_the_same_bytes_wherever_it_lies(run: Path, tmp_path: Path) -> None:
    first = build(factory.run_folder(), tmp_path / "a.html").read_bytes()
    assert build(run, tmp_path / "b.html").read_bytes() == first


@pytest.mark.parametrize("name", NAMES)
def test_missing_evidence_is_said(run: Path, tmp_path: Path, name: str) -> None:
    (run / IN_RUN[name]).unlink()
    found = page(run, tmp_path / "out.html")
    assert f"{name}.json is missing" in found.text
    assert (found.word == "NO VERDICT") == (name == "gate")


def test_without_gate_evidence_the_artifact_must_not_move_an_arm(run: Path, tmp_path: Path) -> None:
    shutil.rmtree(run / "gate")
    assert page(run, tmp_path / "out.html").text.count("o gate evidence: this artifact must not move an arm") == 2


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("content", [b"", b'{"a": NaN}', b'{"torn": [1, 2', b"[]", b"{}"])
def test_a_damaged_file_is_an_error_that_names_it(run: Path, tmp_path: Path, name: str, content: bytes) -> None:
    (run / IN_RUN[name]).write_bytes(content)
    with pytest.raises(ReportError, match=re.escape(str(run / IN_RUN[name]))):
        build(run, tmp_path / "out.html")
    assert not (tmp_path / "out.html").exists()


def test_a_gate_about_another_policy_is_no_verdict(run: Path, tmp_path: Path) -> None:
    path = run / IN_RUN["gate"]
    data = json.loads(path.read_text())
    data["arms"]["candidate"]["policy_id"] = "d" * 64
    path.write_text(json.dumps({**data, "verdict": "promote"}))
    found = page(run, tmp_path / "out.html")
    assert found.word == "NO VERDICT"
    assert "about policy dddddddddddd" in found.text


def test_a_plan_from_other_scores_is_said(run: Path, tmp_path: Path) -> None:
    path = run / IN_RUN["plan"]
    data = json.loads(path.read_text())
    data["plans"][0]["scores_digest"] = "e" * 64
    path.write_text(json.dumps(data))
    assert "made from other scores" in page(run, tmp_path / "out.html").text


def test_a_promoted_gate_promotes_and_a_broken_baseline_holds(run: Path, tmp_path: Path) -> None:
    shutil.rmtree(run / "gate")
    factory.gate(run / "gate", losses=0.0)
    assert page(run, tmp_path / "good.html").word == "PROMOTE"
    shutil.rmtree(run / "gate")
    factory.gate(run / "gate", spec=GateSpec(floor_gap=0.99), pictures=False)
    found = page(run, tmp_path / "bad.html")
    assert found.word == "HOLD"
    assert "No pairs were compared" in found.text


def test_a_sealed_artifact_names_itself_and_says_which_pictures_are_not_in_it(tmp_path: Path) -> None:
    artifact = factory.artifact(tmp_path / "artifact")
    found = page(artifact, tmp_path / "out.html")
    titles = [attributes.get("title") for tag, attributes in found.tags if tag == "abbr"]
    assert load_manifest(artifact)[0].artifact_id in titles
    assert "task0_state7.png is not here" in found.text
    with pytest.raises(ReportError, match="inside the artifact"):
        build(artifact, artifact / "report.html")
    weights = artifact / "tokenizer.json"
    weights.write_bytes(weights.read_bytes() + b" ")
    with pytest.raises(ReportError, match=r"tokenizer\.json"):
        build(artifact, tmp_path / "again.html")


def test_a_draft_says_that_it_is_one(run: Path, tmp_path: Path) -> None:
    found = page(run / "export/candidate", tmp_path / "out.html")
    assert found.word == "NO VERDICT"
    assert "This is a draft" in found.text


def test_a_folder_without_evidence_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="compress run RECIPE"):
        build(tmp_path, tmp_path / "out.html")


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd"])
def test_a_filmstrip_outside_the_gate_folder_is_refused(run: Path, tmp_path: Path, name: str) -> None:
    path = run / IN_RUN["gate"]
    data = json.loads(path.read_text())
    data["filmstrips"][0]["file"] = name
    path.write_text(json.dumps(data))
    with pytest.raises(ReportError, match="outside its own folder"):
        build(run, tmp_path / "out.html")
