# SPDX-License-Identifier: Apache-2.0
"""Artifact to engine on the station: one build, proved, or none. Real RTX builds; the proof stands for the GPU."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from artifact_factory import artifact_files, policy_spec, write_draft
from engine_factory import PROOF, STATION, builder, needs_rtx

from runtime.__main__ import main
from runtime.backends import tensorrt_build
from runtime.backends.engine_cache import PLAN, EngineCache
from runtime.backends.engine_key import engine_key
from runtime.backends.shipped_engines import refuse_shipped_engines
from runtime.backends.tensorrt_build import BuildSettings, build, parse
from runtime.backends.tensorrt_library import TENSORRT_RTX, create, library
from runtime.backends.tensorrt_targets import check_version, install_command, target, targets
from runtime.contract.artifact import Artifact
from runtime.contract.conventions import FileRole
from runtime.contract.write import ArtifactFile
from runtime.errors import ArtifactError, BackendError, ContractError
from runtime.inference.engine_build import build_engine, private_copy

LEVEL_5 = BuildSettings(optimization_level=5)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return write_draft(tmp_path_factory.mktemp("artifact") / "draft")


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "engines")


def silent(line: str) -> None:
    del line


@needs_rtx
def test_engine_is_built_once_and_then_found(artifact: Artifact, cache: EngineCache) -> None:
    said: list[str] = []
    first, fresh = build_engine(artifact.root, cache, builder(), BuildSettings(), said.append)
    again, rebuilt = build_engine(artifact.root, cache, builder(), BuildSettings(), silent)
    assert (fresh, rebuilt, again.plan) == (True, False, first.plan)
    assert (first.record.proof, first.record.plan_bytes) == (PROOF, len(first.plan))
    assert [file.name for file in first.record.key.model] == ["policy.onnx"]
    assert any("building 41 layers for NVIDIA RTX 4000" in line for line in said)


@needs_rtx
def test_other_settings_build_another_engine_and_are_chosen(artifact: Artifact, cache: EngineCache) -> None:
    here = builder()
    build_engine(artifact.root, cache, here, BuildSettings(), silent)
    other, fresh = build_engine(artifact.root, cache, here, LEVEL_5, silent)
    assert fresh
    assert cache.chosen(other.record.key).record.key.settings == LEVEL_5
    build_engine(artifact.root, cache, here, BuildSettings(), silent)
    assert cache.chosen(other.record.key).record.key.settings == BuildSettings()


@needs_rtx
def test_engine_that_disagrees_is_thrown_away(artifact: Artifact, cache: EngineCache) -> None:
    seen: list[bytes] = []

    def disagrees(given: Artifact, plan: bytes) -> object:
        seen.append(plan)
        return replace(PROOF, worst=0.02, worst_dim="gripper")

    with pytest.raises(
        BackendError, match=r"differs from the golden outputs by 2\.00e-02 in gripper, expected at most"
    ):
        build_engine(artifact.root, cache, builder(disagrees), BuildSettings(), silent)
    graph = policy_spec().graph
    wanted = engine_key(artifact.path(graph.file), graph, builder().station, BuildSettings())
    assert cache.find(wanted) is None
    with pytest.raises(BackendError, match="no engine for this model"):
        cache.chosen(wanted)
    assert not [path for path in cache.root.rglob("*") if path.is_file() and path.read_bytes() == seen[0]]


@needs_rtx
@pytest.mark.parametrize("crash", [RuntimeError("the GPU fell off the bus"), KeyboardInterrupt()])
def test_proof_that_breaks_off_leaves_nothing(artifact: Artifact, cache: EngineCache, crash: BaseException) -> None:
    def breaks(given: Artifact, plan: bytes) -> object:
        raise crash

    with pytest.raises(type(crash)):
        build_engine(artifact.root, cache, builder(breaks), BuildSettings(), silent)
    assert cache.records() == []
    assert build_engine(artifact.root, cache, builder(), BuildSettings(), silent)[1]


@needs_rtx
def test_damaged_entry_is_built_again_and_said(artifact: Artifact, cache: EngineCache) -> None:
    first, _ = build_engine(artifact.root, cache, builder(), BuildSettings(), silent)
    path = cache.root / first.record.key.digest / PLAN
    path.write_bytes(first.plan[:-1])
    said: list[str] = []
    again, fresh = build_engine(artifact.root, cache, builder(), BuildSettings(), said.append)
    assert fresh
    assert cache.find(again.record.key) is not None
    assert any("removing it and building again" in line for line in said)


@needs_rtx
def test_second_build_waits_for_the_first_and_finds_its_engine(artifact: Artifact, cache: EngineCache) -> None:
    """Locks are per descriptor, so two threads compete as two processes do. Nobody sleeps: the first is held in its
    proof until the second has said that it waits."""
    waits, answers = threading.Event(), {}

    def held(given: Artifact, plan: bytes) -> object:
        assert waits.wait(60)
        return PROOF

    def second_says(line: str) -> None:
        if "waiting for it to end" in line:
            assert f"process {os.getpid()} builds here" in line
            waits.set()

    def first() -> None:
        answers["first"] = build_engine(artifact.root, cache, builder(held), BuildSettings(), started)

    begun = threading.Event()

    def started(line: str) -> None:
        begun.set()  # the first line is said under the lock

    thread = threading.Thread(target=first)
    thread.start()
    assert begun.wait(60)
    answers["second"] = build_engine(artifact.root, cache, builder(), BuildSettings(), second_says)
    thread.join(60)
    assert (answers["first"][1], answers["second"][1]) == (True, False)
    assert answers["first"][0].plan == answers["second"][0].plan


BUILD = """
import os, signal, sys
from pathlib import Path
from engine_factory import builder
from runtime.backends.engine_cache import EngineCache
from runtime.backends.tensorrt_build import BuildSettings
from runtime.inference.engine_build import build_engine
def dies(artifact, plan): os.kill(os.getpid(), signal.SIGKILL)
prove = dies if sys.argv[3] == "dies" else None
print(build_engine(sys.argv[1], EngineCache(Path(sys.argv[2])), builder(prove), BuildSettings(), print)[1])
"""


def build_in_process(artifact: Artifact, cache: EngineCache, how: str) -> subprocess.Popen[str]:
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parent.parent)])
    command = [sys.executable, "-c", BUILD, str(artifact.root), str(cache.root), how]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": paths}, stdout=subprocess.PIPE, text=True)


@needs_rtx
def test_killed_build_is_swept_up_by_the_next(artifact: Artifact, cache: EngineCache) -> None:
    killed = build_in_process(artifact, cache, "dies")
    killed.communicate(timeout=120)
    assert killed.returncode == -signal.SIGKILL
    assert cache.records() == []
    assert build_engine(artifact.root, cache, builder(), BuildSettings(), silent)[1]
    assert not list(cache.root.glob(".staging-*"))


@needs_rtx
def test_two_processes_at_once_build_one_engine(artifact: Artifact, cache: EngineCache) -> None:
    both = [build_in_process(artifact, cache, "proves") for _ in range(2)]
    built = [process.communicate(timeout=120)[0].splitlines()[-1] for process in both]
    assert sorted(built) == ["False", "True"]


@needs_rtx
def test_timings_of_an_earlier_build_are_handed_to_the_builder(
    artifact: Artifact, cache: EngineCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runtime.inference import engine_build

    given: list[bytes] = []

    def build_and_tell(parsed, settings, timing, shapes):
        given.append(timing)
        return replace(tensorrt_build.build(parsed, settings, timing, shapes), timing=b"")

    build_engine(artifact.root, cache, builder(), BuildSettings(), silent)
    kept = cache.timing(builder().station, silent)
    monkeypatch.setattr(engine_build, "build", build_and_tell)
    build_engine(artifact.root, cache, builder(), LEVEL_5, silent)
    build_engine(artifact.root, cache, builder(), BuildSettings(timing_cache=False), silent)
    assert kept != b""
    assert given == [kept, b""]


SHIPPED = {
    "by name": {"model.plan": ArtifactFile(FileRole.EVIDENCE, b"0" * 64)},
    "by its first bytes": {"evidence/notes.json": ArtifactFile(FileRole.EVIDENCE, b"ftrt" + b"\0" * 60)},
}


@pytest.mark.parametrize("name", SHIPPED)
def test_artifact_that_brings_an_engine_is_refused(tmp_path: Path, name: str) -> None:
    brought = write_draft(tmp_path / "a", files={**artifact_files(), **SHIPPED[name]})
    with pytest.raises(ArtifactError, match="is a serialised engine, expected none: engines are built on the station"):
        refuse_shipped_engines(brought.root, brought.manifest)


@needs_rtx
def test_real_plan_under_an_innocent_name_is_refused(tmp_path: Path, artifact: Artifact, cache: EngineCache) -> None:
    built, _ = build_engine(artifact.root, cache, builder(), BuildSettings(), silent)
    files = {**artifact_files(), "evidence/probe.json": ArtifactFile(FileRole.EVIDENCE, built.plan)}
    brought = write_draft(tmp_path / "a", files=files)
    with pytest.raises(ArtifactError, match=r"probe\.json: is a serialised engine"):
        build_engine(brought.root, cache, builder(), BuildSettings(), silent)


def test_graph_with_an_embedded_engine_is_refused(tmp_path: Path) -> None:
    from onnx import helper, load_from_string

    files = artifact_files()
    graph = load_from_string(files["policy.onnx"].content)
    graph.graph.node.append(
        helper.make_node("EPContext", [], ["unused"], domain="com.microsoft", ep_cache_context=b"x")
    )
    graph.graph.doc_string = "x" * ((1 << 20) - 200)  # the name lies across two blocks
    brought = write_draft(tmp_path / "a")
    (brought.root / "policy.onnx").write_bytes(graph.SerializeToString())  # reading it again would refuse the operator
    with pytest.raises(ArtifactError, match=r"policy\.onnx: holds an embedded engine \(EPContext\)"):
        refuse_shipped_engines(brought.root, brought.manifest)


def test_graph_changed_after_it_was_verified_is_not_parsed(tmp_path: Path, artifact: Artifact) -> None:
    root = Path(shutil.copytree(artifact.root, tmp_path / "a"))
    graph = artifact.manifest.policy.graph
    wanted = engine_key(root / graph.file, graph, STATION, BuildSettings())
    (root / graph.file).write_bytes(b"another graph")
    (tmp_path / "copy").mkdir()
    with pytest.raises(BackendError, match="changed after it was verified"):
        private_copy(replace(artifact, root=root), wanted, tmp_path / "copy")


@needs_rtx
def test_builder_sees_the_copy_and_nothing_beside_the_artifact(
    tmp_path: Path, artifact: Artifact, cache: EngineCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runtime.inference import engine_build

    seen: list[list[str]] = []

    def look(trt, path):
        assert path.parent.parent == cache.root
        seen.append(sorted(entry.name for entry in path.parent.iterdir()))
        return parse(trt, path)

    monkeypatch.setattr(engine_build, "parse", look)
    build_engine(artifact.root, cache, builder(), BuildSettings(), silent)
    assert seen == [["policy.onnx"]]


@needs_rtx
def test_builder_takes_its_settings(artifact: Artifact) -> None:
    parsed, configs = parse(library(TENSORRT_RTX), artifact.path("policy.onnx")), []

    class Watched:
        """The real builder, whose configuration is looked at afterwards."""

        def __init__(self, real):
            self.build_serialized_network = real.build_serialized_network
            self.real = real

        def create_builder_config(self):
            configs.append(self.real.create_builder_config())
            return configs[-1]

    parsed.builder = Watched(parsed.builder)
    flag, pool = parsed.trt.BuilderFlag.TF32, parsed.trt.MemoryPoolType.WORKSPACE
    assert build(parsed, BuildSettings(5, 1 << 28, tf32=True, timing_cache=False)).timing == b""
    build(parsed, BuildSettings())
    assert [(c.builder_optimization_level, c.get_flag(flag)) for c in configs] == [(5, True), (3, False)]
    assert configs[0].get_memory_pool_limit(pool) == 1 << 28


@pytest.mark.parametrize(
    ("field", "value"), [("optimization_level", 6), ("optimization_level", -1), ("workspace_bytes", -1), ("tf32", 1)]
)
def test_setting_out_of_range_is_refused(field: str, value: int) -> None:
    with pytest.raises(ContractError, match=f"BuildSettings.{field}"):
        BuildSettings(**{field: value})


def test_old_tensorrt_is_refused(tmp_path: Path) -> None:
    class Old:
        __name__, __version__ = "tensorrt", "8.6.1"

    with pytest.raises(BackendError, match=r"TensorRT: found 8\.6\.1, expected 10\.x or newer"):
        parse(Old(), tmp_path / "policy.onnx")


def test_library_that_cannot_start_is_an_error() -> None:
    class Runtime:
        def __init__(self, log: object) -> None:
            raise TypeError("pybind11::init(): factory function returned nullptr")

    class Log:
        messages = ("error: CUDA initialization failure with error: 35",)

    with pytest.raises(BackendError, match=r"cannot make a Runtime \(pybind11.*CUDA initialization failure"):
        create(Runtime, Log())


def test_missing_library_is_named_with_its_install_command(
    artifact: Artifact, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert main(["build", str(artifact.root), "--cache", str(tmp_path / "c")]) == 1
    said = capsys.readouterr().err
    assert said.startswith("runtime build: tensorrt is not importable")
    assert install_command() in said
    assert not (tmp_path / "c").exists()


def test_version_table_and_package_agree(repo: Path) -> None:
    text = (repo / "pyproject.toml").read_text()
    pinned = [row for row in targets() if row.machine == "x86_64"]
    assert {row.name for row in pinned} == {"humble-x86_64", "jazzy-x86_64"}
    for row in pinned:
        assert f'"tensorrt-cu{row.cuda}=={row.tensorrt}; ' in text
        assert f"tensorrt-cu{row.cuda}=={row.tensorrt} " in row.install
    assert all(row.tensorrt.startswith(row.accepts) for row in targets())
    assert all(row.accepts.startswith("10.") for row in targets()), "TensorRT 11 has no JetPack, ORT links 10"


def test_station_is_recognised_by_machine_and_python() -> None:
    assert {python: target("x86_64", python).name for python in ("3.10", "3.12")} == {
        "3.10": "humble-x86_64",
        "3.12": "jazzy-x86_64",
    }
    assert target("aarch64", "3.12").name == "jetson-jetpack7"
    assert target("riscv64", "3.12") is None


def test_other_version_is_refused_with_the_command_that_installs_the_right_one() -> None:
    row = target("x86_64", "3.12")
    assert check_version("10.16.1.11", row=row) == "jazzy-x86_64"
    assert check_version("11.4.0.106", allow_other=True, row=row) == "unlisted"
    with pytest.raises(
        BackendError, match=r"found 11\.4\.0\.106, expected 10\.16\.1\.11 on jazzy.*pip install tensorrt"
    ):
        check_version("11.4.0.106", row=row)
    assert check_version("10.7.0.23", row=target("aarch64", "3.10")) == "jetson-jetpack6"
