# SPDX-License-Identifier: Apache-2.0
"""Artifacts in the gate: what does not fit the simulation is refused, what fits runs in the robot's own runtime."""

from __future__ import annotations

from dataclasses import replace

import artifact_factory as factory
import pytest

from compress.gate.policies import UnusablePolicy, artifact_source, misfits
from compress.gate.rows import read_rows
from compress.gate.sim_gate import run_gate
from compress.gate.spec import GateSpec
from compress.gate.verdict import Verdict
from runtime.contract.conventions import ActionKind, GripperSign, Layout, Orientation
from runtime.contract.graph import graph_for
from runtime.contract.policy_spec import PolicySpec
from runtime.contract.spec import ObservationSpec
from runtime.contract.write import ArtifactFile

SPEC = GateSpec(tasks=(0,), pairs=2, floor_states=1, max_steps=16, panels={}, filmstrips=0, workers=1, states=3)


def fitting(horizon: int = 8, dt_s: float = 0.05, image=None, action=None) -> PolicySpec:
    images = tuple(
        factory.image_spec(k, **{"height": 32, "width": 32, **(image or {})}) for k in ("agentview", "wrist")
    )
    observation = ObservationSpec(images, factory.state_spec(), max_skew_s=0.05)
    old = factory.policy_spec()
    acts = factory.action_spec(horizon=horizon, dt_s=dt_s, **(action or {}))
    prompt = factory.prompt_spec(max_tokens=16)
    return replace(old, observation=observation, action=acts, prompt=prompt, graph=graph_for(observation, acts, prompt))


def test_a_policy_with_liberos_conventions_fits():
    assert misfits(fitting(), GateSpec()) == []


@pytest.mark.parametrize(
    ("policy", "named"),
    [
        (fitting(image={"layout": Layout.CHW}), "layout"),
        (fitting(image={"orientation": Orientation.AS_CAMERA}), "as_camera"),
        (fitting(image={"width": 48}), "square"),
        (fitting(dt_s=0.1), "dt_s"),
        (fitting(horizon=4), "horizon"),
        (fitting(action={"gripper": GripperSign.POSITIVE_OPENS}), "gripper"),
        (fitting(action={"kind": ActionKind.VELOCITY}), "action kind"),
    ],
)
def test_each_convention_that_differs_is_named(policy, named):
    found = misfits(policy, GateSpec())
    assert found
    assert all(named in line for line in found)


def test_an_artifact_made_for_other_images_is_refused(tmp_path):
    factory.write_draft(tmp_path / "draft")
    with pytest.raises(UnusablePolicy, match="does not fit"):
        artifact_source(tmp_path / "draft", GateSpec())


def test_a_damaged_artifact_is_an_error(tmp_path):
    factory.write_draft(tmp_path / "draft")
    (tmp_path / "draft" / "policy.onnx").write_bytes(b"x")
    report = run_gate(tmp_path / "draft", tmp_path / "draft", SPEC, tmp_path / "run")
    assert (report.verdict, report.exit_code) == (Verdict.ERROR, 2)
    assert "policy.onnx" in report.reason


@pytest.mark.sim
@pytest.mark.slow
def test_a_draft_runs_through_the_robots_runtime_and_a_useless_baseline_holds(tmp_path):
    spec = fitting()
    files = factory.artifact_files()
    files["policy.onnx"] = ArtifactFile(files["policy.onnx"].role, factory.onnx_bytes(spec))
    draft = factory.write_draft(tmp_path / "draft", policy=spec, files=files)
    report = run_gate(tmp_path / "draft", tmp_path / "draft", SPEC, tmp_path / "run")
    assert (report.verdict, report.candidate_id) == (Verdict.HOLD, draft.manifest.policy_id)
    assert "baseline itself is broken" in report.reason
    (row,) = [row for row in read_rows(tmp_path / "run" / "episodes.jsonl") if row.arm == "baseline"]
    assert (row.error, row.steps, row.queries) == ("", 16, 2)
    assert row.infer_s > 0
