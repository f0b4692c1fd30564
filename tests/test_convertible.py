# SPDX-License-Identifier: Apache-2.0
"""TensorRT's own builder, on the CPU: what it takes it takes in the graph's types, what it does not is named."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path

import export_factory as tiny
import graph_factory as graphs
import onnx
import pytest
from family_cases import NAMES, case

from compress.export import convertible
from compress.export.banned import refuse_banned, scan
from compress.export.convertible import CONVERTS, NOT_CHECKED, check, compare, examine
from compress.export.draft import export_draft
from compress.export.errors import ConvertError
from compress.export.proofs import CONVERTIBLE_FILE
from runtime.backends.tensorrt_build import BuildSettings, build, parse
from runtime.backends.tensorrt_library import TENSORRT_RTX, library
from runtime.contract.conventions import Precision
from runtime.errors import BackendError

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="tensorrt-rtx is not installed (Linux x86_64 only). Next: make install-dev",
)
TYPES = {"fp32": (graphs.FLOAT, "FLOAT"), "fp16": (graphs.HALF, "HALF"), "bf16": (graphs.BF16, "BF16")}
BANNED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "non_zero": (graphs.non_zero, r"node mask \(NonZero\): .*depends on the data"),
    "contrib": (graphs.contrib, r"node fast \(QuickGelu\): domain 'com\.microsoft'"),
    "rank_nine": (graphs.rank_nine, r"node patchify \(Reshape\): tensor nine has 9 axes, expected at most 8"),
    "attention": (graphs.attention, r"node fused \(Attention\): float32 Attention has no kernel"),
    "loop": (lambda path: graphs.loop(path, condition=False), r"node denoise \(Loop\): its condition is empty"),
}


def half(source: Path, target: Path) -> Path:
    """The same graph in float16, its inputs and outputs still float32."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(onnx.load(str(source)), keep_io_types=True), str(target))
    return target


@pytest.mark.parametrize("name", BANNED)
def test_banned_node_is_named_without_a_builder(tmp_path: Path, name: str) -> None:
    make, message = BANNED[name]
    with pytest.raises(ConvertError, match=message):
        refuse_banned(scan(make(tmp_path / "graph.onnx")), "graph.onnx")


@needs_rtx
@pytest.mark.parametrize("name", BANNED)
def test_what_is_banned_the_builder_refuses_too(tmp_path: Path, name: str) -> None:
    """The rule is no stricter than the builder: each of these fails there."""
    path = BANNED[name][0](tmp_path / "graph.onnx")
    with pytest.raises(BackendError, match=r"graph\.onnx: tensorrt_rtx .* cannot (parse|build) it"):
        build(parse(library(TENSORRT_RTX), path), BuildSettings())


@needs_rtx
@pytest.mark.parametrize("name", TYPES)
def test_layers_have_the_precision_of_the_graph(tmp_path: Path, name: str) -> None:
    kind, called = TYPES[name]
    found = examine(graphs.mlp(tmp_path / "mlp.onnx", kind), library(TENSORRT_RTX))
    assert found.status == CONVERTS
    assert found.multiplies == {"MATRIX_MULTIPLY": {called: 2}}
    assert set(found.dtypes) == {called, "FLOAT"}


@needs_rtx
def test_other_precision_than_was_asked_for_is_refused_with_its_nodes(tmp_path: Path) -> None:
    full = graphs.mlp(tmp_path / "mlp.onnx")
    with pytest.raises(ConvertError, match=r"node up multiplies in FLOAT; node down .* \(2 of 2\), expected HALF"):
        check(full, "require", Precision.FP16)
    assert check(full, "require", Precision.FP32).kept_float32 == {}


@needs_rtx
def test_what_stays_float32_in_half_precision_is_listed(tmp_path: Path) -> None:
    found = check(graphs.mlp(tmp_path / "mlp.onnx", graphs.HALF), "require", Precision.FP16)
    assert found.kept_float32 == {"Cast": 1}  # the one at the output; the other makes float16


@needs_rtx
def test_fused_attention_builds_in_half_precision(tmp_path: Path) -> None:
    assert examine(graphs.attention(tmp_path / "a.onnx", graphs.HALF), library(TENSORRT_RTX)).dtypes["HALF"] > 0


@needs_rtx
def test_loop_body_is_counted(tmp_path: Path) -> None:
    found = examine(graphs.loop(tmp_path / "loop.onnx"), library(TENSORRT_RTX))
    assert found.multiplies == {"MATRIX_MULTIPLY": {"FLOAT": 1}}


@needs_rtx
@pytest.mark.parametrize("form", ["int4", "int8"])
def test_weights_quantised_by_dequantize_linear_convert(tmp_path: Path, form: str) -> None:
    found = examine(graphs.quantized(tmp_path / "q.onnx", form), library(TENSORRT_RTX))
    assert found.multiplies == {"MATRIX_MULTIPLY": {"FLOAT": 1}}
    assert found.dtypes[form.upper()] >= 1


@needs_rtx
def test_dynamic_int8_is_refused_with_its_node(tmp_path: Path) -> None:
    with pytest.raises(ConvertError, match=r"cannot parse it: node quantise \(DynamicQuantizeLinear\)"):
        examine(graphs.quantized(tmp_path / "q.onnx", "dynamic"), library(TENSORRT_RTX))


@needs_rtx
def test_layer_of_another_type_than_its_node_is_refused(tmp_path: Path) -> None:
    low, full = scan(graphs.mlp(tmp_path / "low.onnx", graphs.HALF)), graphs.mlp(tmp_path / "full.onnx")
    layers = tuple(parse(library(TENSORRT_RTX), full).layers())
    with pytest.raises(ConvertError, match=r"node up \(MatMul\) became FLOAT layer up, expected \['HALF'\]"):
        compare(low, layers, "low.onnx")


@needs_rtx
def test_multiplication_that_is_missing_is_refused(tmp_path: Path) -> None:
    path = graphs.mlp(tmp_path / "mlp.onnx")
    layers = [layer for layer in parse(library(TENSORRT_RTX), path).layers() if layer.node != "down"]
    with pytest.raises(ConvertError, match=r"multiplies as .*'FLOAT': 1.*, the graph as .*'FLOAT': 2"):
        compare(scan(path), layers, "mlp.onnx")


def test_file_that_is_no_graph_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "policy.onnx"
    path.write_bytes(b"not a graph")
    with pytest.raises(ConvertError, match=r"policy\.onnx: not a readable ONNX graph"):
        check(path)


@pytest.fixture
def without_rtx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `tensorrt_rtx` that cannot be imported comes first on the other process's path."""
    (tmp_path / "shadow").mkdir()
    (tmp_path / "shadow" / "tensorrt_rtx.py").write_text("raise ImportError('libnvinfer is missing')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "shadow"), prepend=":")


@pytest.mark.usefixtures("without_rtx")
def test_missing_builder_is_not_checked_and_never_a_pass(tmp_path: Path) -> None:
    path = graphs.mlp(tmp_path / "mlp.onnx")
    found = check(path, "auto")
    assert found.status == NOT_CHECKED
    message = "tensorrt_rtx is not importable (libnvinfer is missing); run: pip install tensorrt-rtx"
    assert found.why.startswith(message)
    with pytest.raises(ConvertError, match=re.escape(message)):
        check(path, "require")


def test_off_asks_nobody(tmp_path: Path) -> None:
    found = check(tmp_path / "not there", "off")
    assert (found.status, found.dtypes) == (NOT_CHECKED, {})
    assert "nobody asked" in found.why


def dying(folder: Path, monkeypatch: pytest.MonkeyPatch, cause: str) -> None:
    (folder / "shadow").mkdir()
    (folder / "shadow" / "tensorrt_rtx.py").write_text(f"import os, signal; os.kill(os.getpid(), signal.{cause})\n")
    monkeypatch.setenv("PYTHONPATH", str(folder / "shadow"), prepend=":")


def test_builder_that_crashes_is_no_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dying(tmp_path, monkeypatch, "SIGSEGV")
    with pytest.raises(ConvertError, match=r"mlp\.onnx: the builder's process ended with -11"):
        check(graphs.mlp(tmp_path / "mlp.onnx"))


def test_builder_that_was_killed_for_memory_is_not_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dying(tmp_path, monkeypatch, "SIGKILL")
    path = graphs.mlp(tmp_path / "mlp.onnx")
    assert check(path, "auto") == convertible.Convertibility(
        NOT_CHECKED, "the builder was killed, most likely for want of memory"
    )
    with pytest.raises(ConvertError, match="ended with -9"):
        check(path, "require")


def test_builder_that_hangs_is_no_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convertible, "TIMEOUT_S", 0.01)
    with pytest.raises(ConvertError, match="has not ended after"):
        check(graphs.mlp(tmp_path / "mlp.onnx"))


@needs_rtx
def test_policy_converts_in_both_precisions(tmp_path: Path) -> None:
    full = check(tiny.exported().path, "require")
    assert set(full.dtypes) == {"BOOL", "FLOAT", "INT32", "INT64"}
    low = check(half(tiny.exported().path, tmp_path / "half.onnx"), "require")
    assert low.dtypes["FLOAT"] == 1  # the cast of the actions, and nothing else
    assert low.multiplies["MATRIX_MULTIPLY"] == {"HALF": full.multiplies["MATRIX_MULTIPLY"]["FLOAT"]}


@needs_rtx
def test_draft_carries_the_builder_s_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ready_graph(monkeypatch)
    said: list[str] = []
    model = tiny.model()
    export_draft(
        model, tiny.samples(), tmp_path / "d", tiny.lineage(model), said.append, convertibility="require"
    )  # fmt: skip
    evidence = json.loads((tmp_path / "d" / CONVERTIBLE_FILE).read_text())
    assert (evidence["status"], evidence["builder"].split()[0]) == (CONVERTS, "tensorrt_rtx")
    assert any(line.startswith("TensorRT: tensorrt_rtx") for line in said)
    assert json.loads((tiny.draft() / CONVERTIBLE_FILE).read_text())["status"] == NOT_CHECKED


def test_draft_of_a_graph_that_does_not_convert_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ready_graph(monkeypatch)
    monkeypatch.setattr(convertible, "scan", lambda path: scan(graphs.non_zero(tmp_path / "nz.onnx")))
    model = tiny.model()
    with pytest.raises(ConvertError, match=r"node mask \(NonZero\)"):
        export_draft(model, tiny.samples(), tmp_path / "d", tiny.lineage(model), convertibility="auto")
    assert not (tmp_path / "d").exists()


def ready_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph that this process exported once already."""
    import shutil
    from dataclasses import replace

    from compress.export import draft

    tiny.draft()  # before anything is replaced

    def copy(stage, folder, metadata=None, **_):
        made = tiny.exported()
        for path in (made.path, made.data):
            shutil.copy(path, folder)
        return replace(made, path=folder / made.path.name, data=folder / made.data.name)

    monkeypatch.setattr(draft, "export_stage", copy)


@needs_rtx
@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_family_converts_in_half_precision(name: str, tmp_path: Path) -> None:
    """In float32 the conformance suite asks the builder for every family, after a cut."""
    from compress.export.onnx_export import export_stage

    graph = export_stage(case(name).make(0).stages()[0], tmp_path)
    found = check(half(graph.path, tmp_path / "half.onnx"), "require")
    assert found.dtypes["FLOAT"] == 1
    assert set(found.multiplies["MATRIX_MULTIPLY"]) == {"HALF"}
