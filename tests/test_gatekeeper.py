# SPDX-License-Identifier: Apache-2.0
"""Who may arm and begin, in each world: asked anew each time, written down before it counts, with every reason."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.ros]
pytest.importorskip("rclpy", reason="ros: rclpy not installed. Next: make install-ros")
pytest.importorskip("cryptography", reason="signatures need cryptography. Next: make install-dev")

from admission_factory import CAMERAS, ROBOT, TASK, Cell, make_cell, write_regression  # noqa: E402
from dropgate_controller import gatekeeper as module  # noqa: E402
from dropgate_controller.gatekeeper import Gatekeeper, note_refusal  # noqa: E402
from dropgate_controller.parameters import Camera, Station, World  # noqa: E402
from signing_factory import NOW, SERIAL, nothing_revoked  # noqa: E402

from runtime.contract.decision_log import FILE  # noqa: E402
from runtime.contract.finding import Check  # noqa: E402
from runtime.control.state import NotAllowed  # noqa: E402
from runtime.errors import GateRefusedError, TrustError  # noqa: E402
from runtime.safety.limits import CartesianLimits, Timing, limits_digest  # noqa: E402

LIMITS = CartesianLimits(0.5, 4.0, 8.0, 80.0, (-0.5, -0.5, 0.0), (0.5, 0.5, 0.8), 0.05, 0.3)
DIGEST = limits_digest(LIMITS, Timing())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Cell:
    return make_cell(tmp_path_factory.mktemp("cell"))


@pytest.fixture
def cell(made: Cell) -> Cell:
    """A cell whose release, regression, trust store and policy admit this station."""
    made.sign(limits_sha256=DIGEST)
    write_regression(made.artifact, limits=DIGEST)
    made.believe(made.who.trust())
    made.policy.unlink(missing_ok=True)
    made.demand()
    return made


class Door:
    """A gatekeeper, what it has written down, and a wall clock."""

    def __init__(self, cell: Cell, evidence: Path, world: World = World.REAL, **changes: Any) -> None:
        given: dict[str, Any] = dict.fromkeys(field.name for field in fields(Station))
        given |= {
            "robot": ROBOT, "enable_motion": world is not World.SHADOW, "simulated": world is World.SIMULATED,
            "trust_store": cell.trust, "station_policy": cell.policy, "evidence_dir": evidence, "limits": LIMITS,
            "timing": Timing(), "cameras": tuple(Camera(key, f"/{key}", "raw") for key in CAMERAS),
        }  # fmt: skip
        self.now: datetime = NOW
        self.file = evidence / FILE
        self.keeper = Gatekeeper(cell.artifact, Station(**(given | changes)), lambda: self.now)

    def ready(self) -> Gatekeeper:
        self.keeper.before_loading()
        self.keeper.loaded()
        return self.keeper

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.file.read_text().splitlines()] if self.file.exists() else []

    @property
    def said(self) -> list[tuple[str, bool]]:
        return [(line["when"], line["motion"]) for line in self.lines]


def test_a_real_arm_that_is_admitted_may_be_armed_and_begin_and_all_of_it_is_written_down(cell, tmp_path):
    door = Door(cell, tmp_path)
    keeper = door.ready()
    keeper.may_arm(worker_ready=True)
    keeper.may_begin(TASK)
    assert door.said == [("configure", True), ("arm", True), ("goal", True)]
    assert all(line["admitted"] and line["world"] == "real" and "refused" not in line for line in door.lines)
    assert [line.get("instruction") for line in door.lines] == [None, None, TASK]
    assert keeper.values == {
        "world": "real", "admission": "admitted", "refused": "", "release": SERIAL,
        "release expires at": "2027-02-25T20:00:00Z", "limits sha256": DIGEST, "decision log": str(tmp_path),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"robot": "ur10e"}, "ur10e"),
        ({"limits": replace(LIMITS, linear_m_s=0.6)}, "limits"),
        ({"timing": Timing(max_chunk_age_s=0.4)}, "limits"),
        ({"cameras": (Camera("agentview", "/a", "raw"),)}, "camera"),
        ({"trust_store": None}, "trust_store"),
        ({"station_policy": None}, "station_policy"),
    ],
)
def test_a_real_arm_that_is_not_admitted_is_not_configured_and_why_is_written_down(cell, tmp_path, changes, said):
    door = Door(cell, tmp_path, **changes)
    with pytest.raises(GateRefusedError, match="not admitted: .*" + said):
        door.keeper.before_loading()
    assert door.said == [("configure", False)]
    assert any(said in reason for reason in door.lines[0]["reasons"])
    assert said in door.keeper.values["admission"]


def test_an_engine_whose_golden_answers_are_others_moves_nothing(cell, tmp_path):
    door = Door(cell, tmp_path)
    door.keeper.before_loading()
    door.keeper.loaded(GateRefusedError("golden sample 2 is off by 0.3"))
    assert door.said == [("configure", False)]
    assert "off by 0.3" in door.keeper.values["admission"]
    with pytest.raises(NotAllowed, match=r"off by 0\.3"):
        door.keeper.may_begin(TASK)
    assert door.said[-1] == ("goal", False)


def test_a_worker_that_is_gone_is_no_reason_to_arm_and_a_new_one_is(cell, tmp_path):
    door = Door(cell, tmp_path)
    keeper = door.ready()
    with pytest.raises(NotAllowed, match="golden samples is gone"):
        keeper.may_arm(worker_ready=False)
    assert "is gone" in keeper.values["refused"]
    assert door.said[-1] == ("arm", False)
    assert any("is gone" in reason for reason in door.lines[-1]["reasons"])
    assert "refused" not in door.lines[-1], "what is among the reasons is not said twice"
    keeper.may_arm(worker_ready=True)
    assert keeper.refused == ""
    assert door.said[-1] == ("arm", True)


def test_arming_looks_at_the_disk_again_each_time(cell, tmp_path):
    door = Door(cell, tmp_path)
    keeper = door.ready()
    cell.believe(replace(cell.who.trust(), revoked=nothing_revoked(releases=(SERIAL,))))
    with pytest.raises(NotAllowed, match="revoked"):
        keeper.may_arm(worker_ready=True)
    cell.believe(cell.who.trust())
    keeper.may_arm(worker_ready=True)
    assert door.said == [("configure", True), ("arm", False), ("arm", True)]


def test_files_that_were_touched_since_they_were_verified_are_not_armed(tmp_path):
    cell = make_cell(tmp_path)
    cell.sign(limits_sha256=DIGEST)
    write_regression(cell.artifact, limits=DIGEST)
    door = Door(cell, tmp_path)
    keeper = door.ready()
    keeper.may_arm(worker_ready=True)
    (cell.artifact.root / "policy.onnx").touch()
    with pytest.raises(NotAllowed, match=r"touched since they were verified: policy\.onnx"):
        keeper.may_arm(worker_ready=True)
    assert door.said[-1] == ("arm", False)


def test_what_is_unknown_admits_nothing_though_it_names_no_reason(cell, tmp_path, monkeypatch):
    door = Door(cell, tmp_path)
    keeper = door.ready()
    admission = keeper.admission.plus(Check("later", None, "unknown", ""))
    monkeypatch.setattr(module, "decide", lambda *given: admission)
    with pytest.raises(NotAllowed, match="not admitted"):
        keeper.may_arm(worker_ready=True)
    assert door.said[-1] == ("arm", False)


def test_a_task_must_be_released_and_the_release_not_have_expired(cell, tmp_path):
    door = Door(cell, tmp_path)
    keeper = door.ready()
    keeper.may_arm(worker_ready=True)
    with pytest.raises(NotAllowed, match="'open the door' is not released"):
        keeper.may_begin("open the door")
    assert door.lines[-1]["instruction"] == "open the door"
    assert "is not released" in door.lines[-1]["refused"]
    assert keeper.refused == door.lines[-1]["refused"]
    door.now = NOW + timedelta(days=90)
    with pytest.raises(NotAllowed, match="expired"):
        keeper.may_begin(TASK)
    assert door.said[-2:] == [("goal", False), ("goal", False)]


def test_shadow_mode_asks_for_nothing_and_never_arms(cell, tmp_path):
    door = Door(cell, tmp_path, World.SHADOW, trust_store=None)
    keeper = door.ready()
    with pytest.raises(NotAllowed, match="shadow mode never arms"):
        keeper.may_arm(worker_ready=True)
    assert "shadow mode" in keeper.values["refused"]
    keeper.may_begin("anything")
    assert keeper.refused == ""
    assert door.said == [("configure", False), ("goal", False)]
    assert not any(line["admitted"] for line in door.lines)


def test_a_simulated_arm_needs_no_release_and_says_that_it_has_none(cell, tmp_path):
    door = Door(cell, tmp_path, World.SIMULATED, trust_store=None)
    keeper = door.ready()
    keeper.may_arm(worker_ready=False)
    keeper.may_begin("anything")
    assert door.said == [("configure", True), ("arm", True), ("goal", True)]
    assert not any(line["admitted"] for line in door.lines)
    assert {line["world"] for line in door.lines} == {"simulated"}


def test_a_simulated_arm_is_not_called_moving_where_its_engine_did_not_load(cell, tmp_path):
    door = Door(cell, tmp_path, World.SIMULATED)
    door.keeper.loaded(GateRefusedError("no engine"))
    assert door.said == [("configure", False)]


@pytest.mark.parametrize("world", list(World))
def test_what_cannot_be_written_down_is_not_allowed(cell, tmp_path, world):
    (tmp_path / "evidence").write_text("a file where the folder should be")
    door = Door(cell, tmp_path / "evidence", world)
    door.keeper.before_loading()
    with pytest.raises(TrustError, match="decision log"):
        door.keeper.loaded()
    with pytest.raises(NotAllowed, match="decision log"):
        door.keeper.may_begin(TASK)
    assert "decision log" in door.keeper.refused
    with pytest.raises(NotAllowed, match="shadow" if world is World.SHADOW else "decision log"):
        door.keeper.may_arm(worker_ready=True)


def test_an_artifact_that_cannot_be_read_is_written_down_too(tmp_path):
    note_refusal(tmp_path, ROBOT, ValueError("manifest.json is torn"))
    line = json.loads((tmp_path / FILE).read_text())
    assert (line["when"], line["admitted"], line["motion"]) == ("configure", False, False)
    assert line["reasons"] == ["manifest.json is torn"]
    assert line["facts"] == {"robot": ROBOT}
