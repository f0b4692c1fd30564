# SPDX-License-Identifier: Apache-2.0
"""The exported graph: the contract's signature, portable operators, no traces of the machine, the same bytes always."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import warnings
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import export_factory as tiny
import onnx
import pytest
import torch
from torch import Tensor, nn

from compress.export.convert import IR_VERSION
from compress.export.errors import ExportError
from compress.export.onnx_export import export_stage, graph_spec
from compress.export.options import OPSET, GraphOptions
from compress.models.base import ExportStage
from runtime.contract.artifact import read_artifact
from runtime.contract.conventions import Precision
from runtime.contract.graph import LINEAGE_METADATA, graph_for


class Toy(nn.Module):
    """An exportable module that takes no time."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 64)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(nn.functional.gelu(self.linear(x)))


class Eigenvalues(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.eigvalsh(x @ x.transpose(-1, -2))


class BooleanMask(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[x > 0]


class Branch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else 2 * x


def stage(module: nn.Module) -> ExportStage:
    return ExportStage("toy", module, {"x": torch.zeros(1, 64, 64)}, ("y",))


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.onnx*")}


def test_graph_has_the_signature_that_the_specs_imply() -> None:
    specs = tiny.model().specs()
    assert tiny.exported().spec == graph_for(specs["observation"], specs["action"], specs["prompt"])


def test_graph_declares_opset_and_ir_version() -> None:
    graph = onnx.load(str(tiny.exported().path), load_external_data=False)
    assert [(o.domain, o.version) for o in graph.opset_import] == [("", OPSET)]
    assert graph.ir_version == IR_VERSION


def test_weights_lie_outside_the_graph_file() -> None:
    made = tiny.exported()
    weights = sum(p.numel() * 4 for p in tiny.model().module.parameters())
    assert made.parameters_bytes >= 0.9 * weights
    assert made.path.stat().st_size < made.parameters_bytes


def test_graph_holds_no_path_and_no_stack_trace(repo: Path) -> None:
    made = tiny.exported()
    content = made.path.read_bytes() + made.data.read_bytes()
    for trace in (str(repo), sys.prefix, ".py", "site-packages", "stack_trace", "Traceback", str(tiny.folder())):
        assert trace.encode() not in content, f"{trace} leaked into the graph"


@dataclass(frozen=True)
class Exported:
    """One export of a module in training mode, with everything that was said on the way."""

    module: Toy
    folder: Path
    graph: onnx.ModelProto
    printed: str
    warned: list[warnings.WarningMessage]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    module, folder, said = Toy().train(), tmp_path_factory.mktemp("toy"), io.StringIO()
    with warnings.catch_warnings(record=True) as warned, redirect_stdout(said), redirect_stderr(said):
        made = export_stage(stage(module), folder, {LINEAGE_METADATA: "f" * 64})
    return Exported(module, folder, onnx.load(str(made.path), load_external_data=False), said.getvalue(), warned)


def test_metadata_holds_only_what_was_given(toy: Exported) -> None:
    assert {p.key: p.value for p in toy.graph.metadata_props} == {LINEAGE_METADATA: "f" * 64}
    assert not any(node.metadata_props or node.doc_string for node in toy.graph.graph.node)


def test_repeated_export_gives_the_same_bytes(toy: Exported, tmp_path: Path) -> None:
    export_stage(stage(toy.module), tmp_path, {LINEAGE_METADATA: "f" * 64})
    assert digests(tmp_path) == digests(toy.folder)
    assert set(digests(tmp_path)) == {"toy.onnx", "toy.onnx.data"}


def test_export_leaves_the_model_in_its_mode(toy: Exported) -> None:
    assert toy.module.training
    assert all(p.requires_grad for p in toy.module.parameters())


def test_training_only_operators_are_not_exported(toy: Exported) -> None:
    assert "Dropout" not in {node.op_type for node in toy.graph.graph.node}


def test_export_is_silent(toy: Exported) -> None:
    assert toy.printed == ""
    assert not toy.warned


@pytest.mark.slow
def test_export_in_another_process_gives_the_same_bytes(tmp_path: Path, repo: Path) -> None:
    code = (
        "import sys, pathlib; sys.path[:0] = sys.argv[1:3]; import export_factory as tiny;"
        "from compress.export.onnx_export import export_stage;"
        "small = tiny.trims();"
        "export_stage(small.stage, pathlib.Path(sys.argv[3]), {sys.argv[4]: sys.argv[5]}, rewrite=small.rewrite)"
    )
    identity = (LINEAGE_METADATA, read_artifact(tiny.draft()).manifest.lineage_id)
    command = [sys.executable, "-c", code, str(repo), str(repo / "tests"), str(tmp_path), *identity]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert (done.stdout, done.stderr) == ("", "")
    made = tiny.exported()
    assert digests(tmp_path) == {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in (made.path, made.data)}


def test_operator_without_onnx_form_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ExportError, match=r"operator aten\._linalg_eigh"):
        export_stage(stage(Eigenvalues()), tmp_path)
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")


def test_data_dependent_shape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="NonZero"):
        export_stage(stage(BooleanMask()), tmp_path)
    assert not list(tmp_path.iterdir())


def test_data_dependent_branch_is_refused_with_its_reason(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"cannot be traced.*GuardOnDataDependent"):
        export_stage(stage(Branch()), tmp_path)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"opset": 23}, "opset: found 23, expected one of"),
        ({"precision": Precision.INT8}, r"precision: found 'int8', expected one of \['fp32', 'fp16', 'bf16'\]"),
        ({"sampler": "rolled"}, "sampler: found 'rolled'"),
        ({"batch": "any"}, "batch: found 'any'"),
    ],
    ids=str,
)
def test_options_that_no_engine_takes_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ExportError, match=said):
        GraphOptions(**wrong)


@pytest.mark.parametrize("shape", [["length", 3], [1, "batch"]], ids=str)
def test_symbolic_shape_is_refused(tmp_path: Path, shape: list[Any]) -> None:
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "g", [value], [value])
    onnx.save(onnx.helper.make_model(graph), str(tmp_path / "g.onnx"))
    with pytest.raises(ExportError, match="static sizes"):
        graph_spec(tmp_path / "g.onnx")
