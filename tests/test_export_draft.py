# SPDX-License-Identifier: Apache-2.0
"""A draft artifact says where it comes from, answers as torch does, and exists whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import export_factory as tiny
import numpy as np
import onnx_ir as ir
import pytest
import torch

from compress.export import draft as draft_module
from compress.export.draft import export_draft
from compress.export.errors import ExportError, ParityError
from compress.export.lineage import kept_stacks, lineage_of
from compress.export.onnx_export import ExportedGraph, graph_spec
from compress.export.options import GraphOptions
from compress.export.policy_files import normalization_ref, observation_of
from compress.export.proofs import PARITY_FILE
from compress.models.base import ExportStage, Surgery
from compress.models.reference import ReferenceVla
from compress.models.surgery import operate
from runtime.contract.artifact import read_artifact
from runtime.contract.conventions import ColourOrder, Layout, NormMethod, Precision
from runtime.contract.graph import LINEAGE_METADATA
from runtime.errors import GateRefusedError
from runtime.inference.golden import golden_parity, load_golden
from runtime.inference.policy import Policy


@pytest.fixture
def ready_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph that was exported once already, instead of the same export again."""

    def copy(stage: ExportStage, folder: Path, metadata: Any = None, *, rewrite: Any = None, **_: Any) -> ExportedGraph:
        made = tiny.exported()
        rewrite(ir.load(made.path))  # counts what the trim of the graph finds
        for path in (made.path, made.data):
            shutil.copy(path, folder)
        return replace(made, path=folder / made.path.name, data=folder / made.data.name)

    monkeypatch.setattr(draft_module, "export_stage", copy)


def write(folder: Path, model: ReferenceVla | None = None) -> Path:
    model = model or tiny.model()
    export_draft(model, tiny.samples(), folder, tiny.lineage(model))
    return folder


def test_draft_verifies_and_names_its_origin() -> None:
    manifest = read_artifact(tiny.draft()).manifest
    assert manifest.gate is None
    assert manifest.lineage.source.sha256 == tiny.model().identity()
    assert {s.name: s.kept for s in manifest.lineage.plan.stacks} == {"language": (0, 1, 2), "vision.siglip": (0, 1)}
    assert {"torch", "onnx", "onnxruntime"} <= {package.name for package in manifest.created_with}


def test_graph_carries_the_lineage_and_nothing_else() -> None:
    import onnx

    artifact = read_artifact(tiny.draft())
    graph = onnx.load(str(artifact.path("policy.onnx")), load_external_data=False)
    assert {p.key: p.value for p in graph.metadata_props} == {LINEAGE_METADATA: artifact.manifest.lineage_id}
    assert graph_spec(artifact.path("policy.onnx")) == artifact.manifest.policy.graph


def test_robot_path_answers_as_torch_does() -> None:
    model, samples = tiny.model(), tiny.samples()
    with Policy.load(tiny.draft(), allow_unsealed=True) as policy:
        assert golden_parity(policy).ok
        for sample in samples:
            given = observation_of(sample, policy.manifest.policy.observation)
            chunk = policy.infer(given, sample.instruction, 0.0).values
            np.testing.assert_allclose(chunk, model.chunk(model.collate([sample]))[0].numpy(), rtol=0, atol=1e-5)


def test_golden_file_holds_what_torch_answered() -> None:
    model = tiny.model()
    for golden, sample in zip(load_golden(read_artifact(tiny.draft())), tiny.samples(), strict=True):
        assert golden.instruction == sample.instruction
        np.testing.assert_array_equal(golden.observation["agentview"], sample.images["agentview"])
        torch.testing.assert_close(
            torch.tensor(golden.expected), model.chunk(model.collate([sample]))[0], rtol=0, atol=1e-6
        )


def test_draft_is_refused_for_motion() -> None:
    with pytest.raises(GateRefusedError, match="draft"):
        Policy.load(tiny.draft())


def test_parity_evidence_is_inside() -> None:
    report = json.loads((tiny.draft() / PARITY_FILE).read_text())
    assert report["passed"] is True
    assert report["graph"] <= report["limit"]


def test_no_path_of_this_machine_is_inside(repo: Path) -> None:
    for path in tiny.draft().rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            for trace in (str(repo), "site-packages", str(tiny.folder())):
                assert trace.encode() not in content, f"{trace} leaked into {path.name}"


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A draft in float16 with an open batch."""
    model, folder = tiny.model(), tmp_path_factory.mktemp("half") / "draft"
    options = GraphOptions(precision=Precision.FP16, batch="dynamic")
    export_draft(model, tiny.samples(), folder, tiny.lineage(model), options=options)
    return folder


def test_half_precision_draft_says_so_and_the_runtime_runs_it(half: Path) -> None:
    manifest = read_artifact(half).manifest
    assert (manifest.policy.engine.precision, manifest.policy.engine.batch) == (Precision.FP16, 1)
    with Policy.load(half, allow_unsealed=True) as policy:
        assert golden_parity(policy).ok


def test_golden_tolerance_of_half_precision_is_measured_and_recorded(half: Path) -> None:
    report, golden = json.loads((half / PARITY_FILE).read_text()), read_artifact(half).manifest.golden
    scales = {dim.name: dim.scale for dim in tiny.model().specs()["action"].dims}
    measured = 2 * max(dim["torch_own"] / scales[dim["name"]] for dim in report["dims"])
    assert golden.max_abs == report["golden_tolerance"] == pytest.approx(measured)
    assert golden.max_abs > 5 * read_artifact(tiny.draft()).manifest.golden.max_abs
    assert report["batches"] == [1, len(report["observations"])]


@pytest.mark.usefixtures("ready_graph")
def test_same_model_gives_the_same_artifact(tmp_path: Path) -> None:
    first, second = read_artifact(write(tmp_path / "a")), read_artifact(write(tmp_path / "b"))
    assert first.manifest.artifact_id == second.manifest.artifact_id


@pytest.mark.usefixtures("ready_graph")
def test_newer_draft_replaces_an_older_one(tmp_path: Path) -> None:
    write(tmp_path / "draft")
    write(tmp_path / "draft")
    assert [p.name for p in tmp_path.iterdir()] == ["draft"]


def test_foreign_folder_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("three years")
    with pytest.raises(ExportError, match="will not be overwritten"):
        write(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "three years"


@pytest.mark.usefixtures("ready_graph")
@pytest.mark.parametrize("sync", [1, 3, 6, 9])
def test_full_disk_leaves_the_older_draft_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sync: int) -> None:
    before = read_artifact(shutil.copytree(tiny.draft(), tmp_path / "draft")).manifest.artifact_id
    fill_disk_at(monkeypatch, sync)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "draft")
    assert [p.name for p in tmp_path.iterdir()] == ["draft"]
    assert read_artifact(tmp_path / "draft").manifest.artifact_id == before


def fill_disk_at(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """From the `number`th sync on, the disk is full."""
    calls, real = [0], os.fsync

    def fsync(descriptor: int) -> None:
        calls[0] += 1
        if calls[0] >= number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.usefixtures("ready_graph")
def test_wrong_graph_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ParityError, match="does not compute"):
        write(tmp_path / "draft", tiny.model(seed=1))
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("ready_graph")
def test_specs_that_contradict_the_model_are_found_by_the_runtime(tmp_path: Path) -> None:
    class Brighter(ReferenceVla):
        """Its specs tell the robot another image mean than it was trained with."""

        def specs(self) -> dict[str, Any]:
            specs = super().specs()
            images = tuple(replace(image, mean=(0.4, 0.5, 0.5)) for image in specs["observation"].images)
            return {**specs, "observation": replace(specs["observation"], images=images)}

    model = Brighter(tiny.config(), tiny.normalizers(), tiny.tokenizer_json())
    with pytest.raises(ParityError, match=r"compare collate\(\) with specs\(\)"):
        write(tmp_path / "draft", model)
    assert not list(tmp_path.iterdir())


def test_two_stages_are_refused(tmp_path: Path) -> None:
    class TwoStages(ReferenceVla):
        def stages(self) -> tuple[ExportStage, ...]:
            (stage,) = super().stages()
            return (replace(stage, name="prefix"), replace(stage, name="step"))

    with pytest.raises(ExportError, match=r"\['prefix', 'step'\], expected one named 'policy'"):
        write(tmp_path / "draft", TwoStages(tiny.config(), tiny.normalizers(), tiny.tokenizer_json()))


def test_kept_blocks_are_read_off_the_live_model() -> None:
    model = tiny.model()
    wanted = Surgery(3, (0, 2))
    operate(model.module, model.groups[0], Surgery.none(3), wanted)
    model.record_surgery({"language": wanted})
    language, _ = kept_stacks(model)
    assert (language.name, language.original_depth, language.kept) == ("language", 3, (0, 2))


def test_record_of_surgery_that_was_not_done_is_refused() -> None:
    model = tiny.model()
    model.record_surgery({"language": Surgery(3, (0, 2))})
    with pytest.raises(ExportError, match="has 3 blocks, its surgery record keeps 2"):
        kept_stacks(model)


def test_lineage_with_unknown_keys_is_refused() -> None:
    model = tiny.model()
    with pytest.raises(ExportError, match="author"):
        lineage_of(model, {**tiny.lineage(model), "author": "me"})


def test_normalization_method_is_read_from_tensor_names() -> None:
    ref = normalization_ref(tiny.normalizers().to_bytes())
    assert (ref.state, ref.action) == (NormMethod.Q01_Q99, NormMethod.Q01_Q99)


def test_observation_follows_layout_and_colour_order() -> None:
    sample, spec = tiny.samples(1)[0], tiny.model().specs()["observation"]
    image = replace(spec.images[0], layout=Layout.CHW, colour_order=ColourOrder.BGR)
    made = observation_of(sample, replace(spec, images=(image, *spec.images[1:])))
    np.testing.assert_array_equal(made["agentview"][0], sample.images["agentview"][..., 2])
    assert made["agentview"].shape == image.shape
