# SPDX-License-Identifier: Apache-2.0
"""What admits an artifact: everything together does; each single thing that is missing is named, and admits nothing."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from admission_factory import (
    ROBOT,
    TASK,
    Cell,
    demands,
    gate_json,
    make_cell,
    panel,
    rates,
    reread,
    write_policy,
    write_regression,
)  # fmt: skip
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from signing_factory import NOW, SERIAL, nothing_revoked, people, trusted

from runtime.contract.admission import Admission
from runtime.contract.admission_evidence import untouched
from runtime.contract.conventions import Verdict
from runtime.contract.decision_log import log_decision
from runtime.contract.dsse import sign
from runtime.contract.finding import Check
from runtime.contract.gate_report import parse_gate_report
from runtime.contract.manifest import SIGNATURES_DIR, GateSummary
from runtime.contract.regression import regression_folder
from runtime.contract.signed import SignedVerifier, describe, verify_signed
from runtime.contract.statements import RELEASE_TYPE
from runtime.contract.trust_store import Role
from runtime.contract.utc_time import format_utc
from runtime.errors import ArtifactError, ContractError, GateRefusedError, TrustError

pytest.importorskip("cryptography", reason="signatures need cryptography. Next: make install-dev")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a cell that admits."""
    folder = tmp_path_factory.mktemp("cell")
    make_cell(folder)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Cell:
    return make_cell(tmp_path_factory.mktemp("made"))


@pytest.fixture
def cell(made: Cell) -> Cell:
    """The same cell for every test, put right before it."""
    repair(made)
    return made


def repair(cell: Cell) -> None:
    cell.sign()
    for extra in (cell.artifact.root / SIGNATURES_DIR).glob("extra*"):
        extra.unlink()
    write_regression(cell.artifact)
    cell.believe(cell.who.trust())
    cell.policy.unlink(missing_ok=True)
    cell.demand()


def failed(admission: Admission) -> list[str]:
    return [check.name for check in admission.checks if check.ok is False]


def test_what_is_signed_judged_and_wanted_here_is_admitted_with_its_facts(cell: Cell) -> None:
    found = cell.ask()
    assert found.admitted, found.reasons
    assert found.reasons == ()
    assert all(check.ok is True for check in found.checks)
    facts = found.facts
    assert (facts["robot"], facts["release"], facts["limits_sha256"]) == (ROBOT, SERIAL, "d" * 64)
    assert facts["panels"]["robot_pose"] == {"lower": -0.02, "alpha": 0.05, "pairs": 100, "baseline_rate": 0.9}
    assert "the releaser" in facts["releaser"]
    json.dumps(found.to_json(), allow_nan=False)


def test_unknown_is_not_good_and_neither_is_nothing(cell: Cell) -> None:
    found = cell.ask()
    assert not replace(found, checks=()).admitted
    assert not replace(found, release=None).admitted
    assert not found.plus(Check("later", None, "unknown", "")).admitted
    assert not found.plus(Check("later", False, "bad", "good")).admitted
    assert found.plus(Check("later", True, "good", "")).admitted


def unlink_release(cell: Cell) -> None:
    (cell.artifact.root / SIGNATURES_DIR / "release.dsse.json").unlink()


def one_byte(cell: Cell, name: str) -> None:
    path = cell.artifact.root / SIGNATURES_DIR / name
    text = json.loads(path.read_text())
    sig = text["signatures"][0]["sig"]
    text["signatures"][0]["sig"] = ("B" if sig[0] == "A" else "A") + sig[1:]
    path.write_text(json.dumps(text, indent=2, sort_keys=True) + "\n")


def by_another_key(cell: Cell, role: str) -> None:
    """A key that the station does not know, or one that it knows in the other role."""
    stranger = people()
    replace(cell, who=replace(cell.who, **{role: getattr(stranger, role)})).sign()


# name -> (what is changed, the check that fails, words of the reason)
SPOILED: dict[str, tuple[Callable[[Cell], object], str, str]] = {
    "build signature changed": (lambda c: one_byte(c, "build.dsse.json"), "signatures", "does not fit"),
    "release signature changed": (lambda c: one_byte(c, "release.dsse.json"), "signatures", "does not fit"),
    "unknown builder": (lambda c: by_another_key(c, "builder"), "signatures", "unknown to this station"),
    "unknown releaser": (lambda c: by_another_key(c, "releaser"), "signatures", "unknown to this station"),
    "builder signs the release": (
        lambda c: replace(c, who=replace(c.who, releaser=c.who.builder)).sign(), "signatures", "only a releaser",
    ),
    "releaser signs the build": (
        lambda c: replace(c, who=replace(c.who, builder=c.who.releaser)).sign(), "signatures", "only a builder",
    ),
    "not released": (unlink_release, "release", "built, but not released"),
    "extra file among the signatures": (
        lambda c: (c.artifact.root / SIGNATURES_DIR / "extra.json").write_text("{}"), "signatures", "extra file",
    ),
    "another manifest": (lambda c: c.sign(manifest_sha256="a" * 64), "signatures", "another artifact"),
    "another gate report": (lambda c: c.sign(gate_sha256="a" * 64), "signatures", "gate_sha256"),
    "another robot": (lambda c: c.sign(robot="fr3"), "robot", "fr3"),
    "other limits": (lambda c: c.sign(limits_sha256="a" * 64), "limits", "a" * 64),
    "expired": (
        lambda c: c.sign(issued_at=format_utc(NOW - timedelta(days=2)), expires_at=format_utc(NOW)),
        "signatures", "expired",
    ),
    "from the future": (
        lambda c: c.sign(issued_at=format_utc(NOW + timedelta(days=1))), "signatures", "not yet valid",
    ),
    "older than the station allows": (
        lambda c: c.sign(issued_at=format_utc(NOW - timedelta(days=91))), "release age", "91.0 days ago",
    ),
    "releaser's key ended": (
        lambda c: c.believe(c.who.trust(keys=(
            trusted(c.who.builder, Role.BUILDER), trusted(c.who.releaser, Role.RELEASER, not_after=format_utc(NOW)),
        ))), "signatures", "ended",
    ),
    "builder's key revoked": (
        lambda c: c.believe(c.who.trust(revoked=nothing_revoked(keys=(c.who.builder.keyid,)))), "signatures", "revoked",
    ),
    "artifact revoked": (
        lambda c: c.believe(c.who.trust(revoked=nothing_revoked(artifacts=(c.artifact.manifest.artifact_id,)))),
        "signatures", "revoked",
    ),
    "release revoked": (
        lambda c: c.believe(c.who.trust(revoked=nothing_revoked(releases=(SERIAL,)))), "signatures", "revoked",
    ),
    "clock set back": (
        lambda c: c.believe(c.who.trust(revoked=nothing_revoked(updated_at=format_utc(NOW + timedelta(hours=1))))),
        "clock", "revocations of 2026-11-27T21:00:00Z",
    ),
    "smaller margin": (
        lambda c: c.demand(panels={"in_distribution": {"margin": 0.02, "alpha": 0.05, "min_pairs": 30}}),
        "panel in_distribution", "above -0.0200",
    ),
    "smaller alpha": (
        lambda c: c.demand(panels={"in_distribution": {"margin": 0.03, "alpha": 0.01, "min_pairs": 30}}),
        "panel in_distribution", "alpha 0.05",
    ),
    "more pairs": (
        lambda c: c.demand(panels={"in_distribution": {"margin": 0.03, "alpha": 0.05, "min_pairs": 101}}),
        "panel in_distribution", "from 100 pairs",
    ),
    "a panel that was not run": (
        lambda c: c.demand(panels={
            "in_distribution": {"margin": 0.03, "alpha": 0.05, "min_pairs": 30},
            "camera": {"margin": 0.1, "alpha": 0.05, "min_pairs": 30},
        }), "panel camera", "not run",
    ),
    "baseline too weak": (lambda c: c.demand(panels={
        "in_distribution": {"margin": 0.03, "alpha": 0.05, "min_pairs": 30, "min_baseline": 0.91},
    }), "baseline in_distribution", "0.900"),
    "regression missing": (
        lambda c: shutil.rmtree(regression_folder(c.artifact.root)), "simulation regression", "is not there",
    ),
    "regression failed": (
        lambda c: write_regression(c.artifact, verdict="fail"), "simulation regression", "verdict 'fail'",
    ),
    "regression of another artifact": (
        lambda c: write_regression(c.artifact, artifact_id="a" * 64), "simulation regression", "artifact_id",
    ),
    "regression with other limits": (
        lambda c: write_regression(c.artifact, limits="a" * 64), "simulation regression", "limits_sha256",
    ),
    "policy that others may write": (lambda c: c.policy.chmod(0o666), "station policy", "lets others write"),
    "policy missing": (lambda c: c.policy.unlink(), "station policy", "cannot be opened"),
    "policy of another schema": (
        lambda c: write_policy(c.policy, demands(schema="x")), "station policy", "dropgate.station_policy/1",
    ),
    "trust store that others may write": (lambda c: c.trust.chmod(0o777), "signatures", "expected no writing"),
    "trust store without revocations": (
        lambda c: (c.trust / "revoked.json").unlink(), "signatures", "revoked.json is not there",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", SPOILED)
def test_one_changed_thing_is_exactly_one_reason(cell: Cell, what: str) -> None:
    spoil, check, words = SPOILED[what]
    spoil(cell)
    try:
        found = cell.ask()
    finally:
        cell.trust.chmod(0o755)
    assert not found.admitted
    assert failed(found) == [check]
    assert words in found.reasons[0]


@pytest.mark.parametrize(
    ("change", "check"),
    [
        ({"robot": "fr3"}, ["robot", "simulation regression"]),  # it has its own regression too
        ({"cameras": ("agentview",)}, ["cameras"]),
        ({"cameras": ("agentview", "wrist", "side")}, ["cameras"]),
        ({"control_dt_s": 0.1}, ["control step"]),
        ({"limits_sha256": ""}, ["limits", "simulation regression"]),
    ],
)
def test_a_station_that_differs_from_the_release_is_named(cell: Cell, change: dict, check: list[str]) -> None:
    found = cell.with_facts(**change)
    assert failed(found) == check
    assert not found.admitted


def test_every_failure_is_named_at_once_also_behind_a_bad_signature(cell: Cell) -> None:
    cell.sign(robot="fr3", limits_sha256="a" * 64)
    cell.believe(cell.who.trust(revoked=nothing_revoked(releases=(SERIAL,))))
    cell.demand(panels={"in_distribution": {"margin": 0.01, "alpha": 0.05, "min_pairs": 500}})
    write_regression(cell.artifact, verdict="fail")
    found = cell.ask()
    assert failed(found) == ["signatures", "robot", "limits", "panel in_distribution", "simulation regression"]
    assert "revoked" in found.reasons[0]
    assert found.release is None


@pytest.mark.parametrize("missing", ["trust", "policy"])
def test_a_station_without_trust_store_or_policy_admits_nothing(cell: Cell, missing: str) -> None:
    found = cell.ask(**{missing: None})
    assert not found.admitted
    assert "is given" in found.reasons[0]


def test_a_verifier_wants_a_release_unless_it_is_told_otherwise(cell: Cell) -> None:
    manifest, data, there = cell.artifact.manifest, cell.artifact.manifest_bytes, cell.artifact.root / SIGNATURES_DIR
    strict = SignedVerifier(cell.who.trust(), lambda: NOW)
    strict.verify(manifest, data, there)
    unlink_release(cell)
    with pytest.raises(GateRefusedError, match="built, but not released"):
        strict.verify(manifest, data, there)
    replace(strict, require_release=False).verify(manifest, data, there)
    (there / "build.dsse.json").unlink()
    with pytest.raises(ArtifactError, match="unsigned"):
        replace(strict, require_release=False).verify(manifest, data, there)


def test_a_trusted_key_under_nonsense_is_a_refusal(cell: Cell) -> None:
    path = cell.artifact.root / SIGNATURES_DIR / "release.dsse.json"
    for payload in (b"{}", b"[]", b"not JSON", b'{"schema": "dropgate.release/2"}'):
        path.write_bytes(sign(RELEASE_TYPE, payload, cell.who.releaser).to_json())
        found = cell.ask()
        assert failed(found) == ["signatures"]
        assert "signed, but not valid" in found.reasons[0]


def test_what_lies_among_the_signatures_must_be_a_file_of_its_own(cell: Cell, tmp_path: Path) -> None:
    path = cell.artifact.root / SIGNATURES_DIR / "release.dsse.json"
    (tmp_path / "elsewhere").write_bytes(path.read_bytes())
    path.unlink()
    for make, reason in (
        (lambda: path.symlink_to(tmp_path / "elsewhere"), "found a link"),
        (lambda: path.symlink_to(tmp_path / "nowhere"), "found a link"),
        (lambda: os.link(tmp_path / "elsewhere", path), "second name"),
        (lambda: os.mkfifo(path), "no regular file"),
    ):
        make()
        found = cell.ask()
        path.unlink()
        assert failed(found) == ["signatures"]
        assert reason in found.reasons[0]


def test_people_are_told_who_vouches_and_what_is_missing(cell: Cell) -> None:
    def told() -> dict[str, object]:
        artifact = cell.artifact
        return describe(verify_signed(artifact.root, artifact.manifest, artifact.manifest_bytes, cell.who.trust(), NOW))

    whole = told()
    assert "the builder" in whole["builder"]
    assert "the releaser" in whole["releaser"]
    assert whole["release"]["serial"] == SERIAL
    unlink_release(cell)
    assert "--releaser-key" in told()["release"]
    assert "no signature was checked" in describe(None)["origin"]


def test_a_robot_that_can_be_simulated_must_be(tmp_path: Path, cell: Cell) -> None:
    cell.demand(require_regression=False)
    shutil.rmtree(regression_folder(cell.artifact.root))
    assert cell.ask().admitted, "of a ur5e there is no simulation: the station may say so"
    cell.sign(robot="libero_panda")
    found = cell.with_facts(robot="libero_panda")
    assert failed(found) == ["simulation regression"]


def test_a_revocation_list_of_the_first_second_there_is_does_not_end_the_decision(cell: Cell) -> None:
    first = "0001-01-01T00:00:00Z"
    cell.believe(replace(cell.who.trust(), revoked=replace(nothing_revoked(), updated_at=first)))
    assert cell.ask().admitted


# the gate's report ---------------------------------------------------------------------------------------------------


def old_report(**paired: object) -> dict[str, object]:
    made = {
        "outcome": "pass", "margin": 0.03, "alpha": 0.05, "pairs": 100, "budget": 800, "candidate": rates(90, 100),
        "baseline": rates(90, 100), "lost": 2, "gained": 2, "difference": 0.0,
    }  # fmt: skip
    return {**made, **paired}


def report_of(folder: Path, panels: list | None, paired: object = None, **gate: object) -> Admission:
    """The decision about an artifact with such a report; without `panels` an old one with `paired`."""
    cell = make_cell(folder, panels, **gate) if paired is None else None
    if cell is None:
        cell = make_cell_with_old_report(folder, paired)
    return cell.ask()


def make_cell_with_old_report(folder: Path, paired: object) -> Cell:
    import admission_factory

    def without_panels(policy_id: str, panels: object, **changes: object) -> bytes:
        content = json.loads(gate_json(policy_id, [], paired=paired, schema="dropgate.gate/1"))
        del content["panels"], content["vetoes"]
        return json.dumps(content).encode()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(admission_factory, "gate_json", without_panels)
        cell = make_cell(folder)
    cell.demand(panels={"in_distribution": {"margin": 0.03, "alpha": 0.05, "min_pairs": 30}})
    return cell


CONTRADICTIONS = {
    "more lost than pairs": {"lost": 101, "gained": 101},
    "counts that do not add up": {"candidate": rates(91, 100)},
    "trials that are not the pairs": {"baseline": rates(90, 99)},
    "bounds the wrong way round": {"difference": {"mean": 0.0, "lower": 0.1, "upper": -0.1}},
    "a bound above one": {"difference": {"mean": 0.0, "lower": -0.02, "upper": 1.5}},
    "text for a number": {"difference": {"mean": 0.0, "lower": "-0.02", "upper": 0.1}},
    "more pairs than planned": {"planned": 99},
    "an alpha of one": {"alpha": 1.0},
    "an unknown panel": {"name": "moonlight"},
    "an unknown outcome": {"outcome": "perhaps"},
    "a pass below its own margin": {"difference": {"mean": 0.0, "lower": -0.03, "upper": 0.1}},
    "a pass with a large loss": {"lost": 60, "gained": 2, "candidate": rates(32, 100)},
    "a failure above its own margin": {"outcome": "fail"},
    "no success": {"lost": 95, "gained": 0, "candidate": rates(-5, 100)},
}


@pytest.mark.parametrize("what", CONTRADICTIONS)
def test_a_report_that_contradicts_itself_is_refused(tmp_path: Path, what: str) -> None:
    entries = [panel("in_distribution"), panel("robot_pose") | CONTRADICTIONS[what]]
    found = make_cell(tmp_path, entries).ask()
    assert failed(found) == ["gate report"]
    assert "panels[1]" in found.reasons[0]
    assert "compress gate" in found.reasons[0]


def test_a_report_of_another_policy_verdict_or_order_is_refused(tmp_path: Path) -> None:
    arms = {"candidate": {"policy_id": "f" * 64}}
    swapped = make_cell(tmp_path / "a", None, arms=arms).ask()
    assert "another policy's report" in swapped.reasons[0]
    doubled = make_cell(tmp_path / "b", [panel("in_distribution"), panel("in_distribution")]).ask()
    assert "every name once" in doubled.reasons[0]
    headless = make_cell(tmp_path / "c", [panel("robot_pose"), panel("in_distribution")]).ask()
    assert "panels[0]" in headless.reasons[0]
    low = {"mean": 0.0, "lower": -0.1, "upper": 0.1}
    undecided = panel("in_distribution", outcome="undecided", difference=low)
    failing = make_cell(tmp_path / "d", [undecided, panel("robot_pose")]).ask()
    assert "as the verdict is promote" in failing.reasons[0]
    quiet = {"level": "task", "name": "stack", "lost": 1, "gained": 1, "pairs": 9, "p": 1.0, "p_holm": 1.0}
    assert make_cell(tmp_path / "e", None, vetoes=[{**quiet, "vetoed": False}]).ask().admitted
    vetoed = make_cell(tmp_path / "f", None, vetoes=[{**quiet, "vetoed": True}]).ask()
    assert "vetoes" in vetoed.reasons[0]
    assert "vetoes" in make_cell(tmp_path / "g", None, vetoes=None).ask().reasons[0], "nobody looked for one"


@pytest.mark.parametrize("schema", ["dropgate.gate/3", "dropgate.gate/", 2, None, ["dropgate.gate/2"]])
def test_a_report_of_a_later_or_no_schema_is_refused(tmp_path: Path, schema: object) -> None:
    found = make_cell(tmp_path, None, schema=schema).ask()
    assert failed(found) == ["gate report"]
    assert "expected one of ['dropgate.gate/2', 'dropgate.gate/1']" in found.reasons[0]


def test_a_new_report_without_its_panels_is_not_taken_for_an_old_one(tmp_path: Path) -> None:
    """Else whoever leaves the panels out would leave the vetoes out of sight too."""
    found = make_cell(tmp_path, [], paired=old_report()).ask()
    assert failed(found) == ["gate report"]
    assert "a list of 1 to 9 panels" in found.reasons[0]


def test_thresholds_of_the_report_decide_nothing(tmp_path: Path) -> None:
    """A gate that tested with a margin of 20 points passes itself, and not the station."""
    lax = panel("robot_pose", margin=0.2, difference={"mean": 0.0, "lower": -0.15, "upper": 0.1})
    assert failed(make_cell(tmp_path, [panel("in_distribution"), lax]).ask()) == ["panel robot_pose"]


def test_a_panel_that_was_not_run_is_missing(tmp_path: Path) -> None:
    nothing = {"mean": None, "lower": None, "upper": None}
    empty = panel(
        "robot_pose", pairs=0, outcome="not_run", candidate=rates(0, 0), baseline=rates(0, 0), lost=0, gained=0,
        difference=nothing,
    )  # fmt: skip
    found = make_cell(tmp_path, [panel("in_distribution"), empty]).ask()
    assert failed(found) == ["panel robot_pose"]
    assert "not run" in found.reasons[0]


def test_of_an_old_report_no_more_is_taken_than_its_passed_test_says(tmp_path: Path) -> None:
    cell = make_cell_with_old_report(tmp_path / "good", old_report())
    assert cell.ask().admitted
    cell.demand(panels={"in_distribution": {"margin": 0.0299, "alpha": 0.05, "min_pairs": 30}})
    assert failed(cell.ask()) == ["panel in_distribution"]
    cell.demand()
    found = cell.ask()
    assert failed(found) == ["panel robot_pose"]
    assert "from before panels" in found.reasons[0]
    undecided = make_cell_with_old_report(tmp_path / "undecided", old_report(outcome="undecided")).ask()
    assert failed(undecided) == ["gate report"], "it cannot have promoted"
    nothing = make_cell_with_old_report(tmp_path / "nothing", None).ask()
    assert failed(nothing) == ["gate report"]


def test_a_held_artifact_is_not_admitted_whoever_signs_it(tmp_path: Path) -> None:
    found = make_cell(tmp_path, verdict="hold").ask()
    assert not found.admitted
    assert "gate verdict" in failed(found)


def test_a_damaged_artifact_is_one_reason_and_the_rest_unknown(tmp_path: Path) -> None:
    cell = make_cell(tmp_path)
    with (cell.artifact.root / "policy.onnx").open("r+b") as stream:
        stream.write(b"\x00")
    found = cell.ask(artifact=reread(cell))
    assert failed(found) == ["artifact"]
    assert "policy.onnx" in found.reasons[0]
    assert not found.admitted


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
ID = "a" * 64


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(sorted(panel("robot_pose"))), JSON, st.sampled_from(["entry", "report", "difference", "baseline"])
)
def test_whatever_stands_in_a_report_is_an_answer_or_a_refusal(key: str, value: object, where: str) -> None:
    summary = GateSummary(Verdict.PROMOTE, "passed", ID, "evidence/gate.json", ID)
    entry = panel("robot_pose")
    report = json.loads(gate_json(ID, [panel("in_distribution"), entry]))
    place = {"entry": entry, "report": report}.get(where) or entry[where]
    place[key if where == "entry" else sorted(place)[len(key) % len(place)]] = value
    if where != "report":
        report["panels"][1] = entry
    try:
        found = parse_gate_report(json.dumps(report).encode(), summary, ID)
    except ContractError:
        return
    assert all(-1.0 <= result.lower <= result.upper <= 1.0 for result in found.panels.values())
    assert all(0 <= result.baseline <= result.pairs <= result.planned for result in found.panels.values())


# tasks ---------------------------------------------------------------------------------------------------------------


def test_only_released_tasks_may_begin_and_only_until_the_release_ends(cell: Cell) -> None:
    prompt = cell.artifact.manifest.policy.prompt
    found = cell.ask()
    assert found.objection(TASK, prompt, NOW) == ""
    assert found.objection(TASK.upper(), prompt, NOW) == "", "this policy reads lower case"
    assert found.objection(TASK.upper(), replace(prompt, lowercase=False), NOW) != ""
    assert "is not released; released: 'pick up the red cube'" in found.objection("open the safe", prompt, NOW)
    assert "expired" in found.objection(TASK, prompt, NOW + timedelta(days=90))
    assert "not admitted" in cell.with_facts(robot="fr3").objection(TASK, prompt, NOW)


def test_a_refused_task_is_told_some_of_the_released_ones(cell: Cell) -> None:
    def told(count: int) -> str:
        cell.sign(tasks=tuple(f"task {i}" for i in range(count)))
        return cell.ask().objection("open the safe", cell.artifact.manifest.policy.prompt, NOW)

    assert told(5).endswith("released: 'task 0', 'task 1', 'task 2', 'task 3', 'task 4'")
    assert told(7).endswith("'task 4' and 2 more")


# later ---------------------------------------------------------------------------------------------------------------


def test_files_that_were_touched_after_they_were_verified_are_named(tmp_path: Path) -> None:
    cell = make_cell(tmp_path)
    assert untouched(cell.artifact).ok
    for name in ("evidence/probe.json", "manifest.json"):
        path = cell.artifact.root / name
        path.write_bytes(path.read_bytes())
    found = untouched(cell.artifact)
    assert found.ok is False
    assert "evidence/probe.json, manifest.json" in found.reason


def test_decisions_are_appended_one_line_each_and_never_through_a_link(cell: Cell, tmp_path: Path) -> None:
    folder = tmp_path / "log"
    for when in ("configure", "arm"):
        path = log_decision(folder, when, NOW, cell.ask().to_json())
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["when"] for line in lines] == ["configure", "arm"]
    assert lines[0]["admitted"] is True
    assert lines[0]["at"] == "2026-11-27T20:00:00Z"
    path.unlink()
    (tmp_path / "elsewhere").write_text("")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(TrustError, match="decision log"):
        log_decision(folder, "arm", NOW, {})
    assert (tmp_path / "elsewhere").read_text() == ""


def test_a_torn_line_of_the_log_costs_itself_alone(tmp_path: Path) -> None:
    path = log_decision(tmp_path, "configure", NOW, {})
    path.write_bytes(path.read_bytes() + b'{"torn": ')
    log_decision(tmp_path, "arm", NOW, {})
    first, torn, last = path.read_text().splitlines()
    assert [json.loads(line)["when"] for line in (first, last)] == ["configure", "arm"]
    assert torn == '{"torn": '


def test_a_log_that_is_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "admission.jsonl")
    with pytest.raises(TrustError, match="no regular file"):
        log_decision(tmp_path, "arm", NOW, {})


# the station's policy ------------------------------------------------------------------------------------------------

WRONG = {
    "unknown panel": ({"panels": {"in_distribution": demands()["panels"]["robot_pose"], "moon": {}}}, "moon"),
    "no primary": ({"panels": {"robot_pose": demands()["panels"]["robot_pose"]}}, "in_distribution"),
    "no margin": ({"panels": {"in_distribution": {"alpha": 0.05, "min_pairs": 3}}}, "margin"),
    "margin of zero": ({"panels": {"in_distribution": {"margin": 0.0, "alpha": 0.05, "min_pairs": 3}}}, "margin"),
    "alpha of one": ({"panels": {"in_distribution": {"margin": 0.1, "alpha": 1.0, "min_pairs": 3}}}, "alpha"),
    "no pairs": ({"panels": {"in_distribution": {"margin": 0.1, "alpha": 0.1, "min_pairs": 0}}}, "min_pairs"),
    "baseline of zero": ({"min_baseline": 0.0}, "min_baseline"),
    "days as text": ({"max_release_days": "90"}, "max_release_days"),
    "regression as text": ({"require_regression": "no"}, "require_regression"),
    "another key": ({"override": True}, "override"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_policy_that_makes_no_sense_is_refused_with_the_example(cell: Cell, what: str) -> None:
    changes, words = WRONG[what]
    cell.demand(**changes)
    found = cell.ask()
    assert failed(found) == ["station policy"]
    assert words in found.reasons[0]
    assert "launch/config/station_policy.json" in found.reasons[0]


def test_one_pair_is_the_least_that_a_policy_may_ask_for(cell: Cell) -> None:
    for pairs, fine in ((1, True), (0, False)):
        cell.demand(panels={"in_distribution": {"margin": 0.03, "alpha": 0.05, "min_pairs": pairs}})
        assert cell.ask().admitted == fine


def test_a_policy_behind_a_link_is_refused(cell: Cell, tmp_path: Path) -> None:
    (tmp_path / "link.json").symlink_to(cell.policy)
    assert "not a link" in cell.ask(policy=tmp_path / "link.json").reasons[0]


def test_the_example_is_a_valid_policy_and_strict_by_default(repo: Path) -> None:
    from runtime.contract.station_policy import StationPolicy

    example = StationPolicy.from_json((repo / "launch/config/station_policy.json").read_bytes(), "example")
    assert example.require_regression
    assert example.panels["in_distribution"].margin == 0.03
    assert "robot_pose" in example.panels


# no combination ------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sets(st.sampled_from(sorted(SPOILED)), max_size=6), st.sampled_from([{}, {"robot": "fr3"}, {"cameras": ()}]))
def test_no_combination_with_a_failed_check_is_admitted(made: Cell, spoiled: set[str], change: dict) -> None:
    repair(made)
    try:
        for what in sorted(spoiled):
            try:
                SPOILED[what][0](made)
            except FileNotFoundError:  # another one has removed it already
                continue
        found = made.with_facts(**change)
    finally:
        made.trust.chmod(0o755)
    assert found.admitted == (not spoiled and not change)
    assert bool(found.reasons) == (not found.admitted)
