# SPDX-License-Identifier: Apache-2.0
"""The policy server: real runtime, real sockets, real deaths; no simulator."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import artifact_factory as factory
import numpy as np
import pytest

from compress.gate.policies import PolicySource
from compress.gate.policy_server import CannotServe, PolicyServer, socket_of
from compress.gate.served_engine import asking
from compress.gate.served_policy import PolicyServerGone, RemoteFailure, ServedPolicy, batch_of
from compress.gate.workers import child_environment
from runtime.contract.write import ArtifactFile
from runtime.errors import BackendError
from runtime.inference.policy import Policy

QUESTIONS = [factory.observation(seed) for seed in range(24)]
TOLERANCE = 1e-5  # of commands of order 1: two ways to add up the same float32 numbers


def open_batch(model: bytes) -> bytes:
    """The factory's graph with an open first axis, each row on its own."""
    import onnx
    from onnx import helper

    proto = onnx.load_from_string(model)
    for value in [*proto.graph.input, *proto.graph.output]:
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    rest = {"light": [1, 2, 3, 4], "total": [1]}
    for node in proto.graph.node:
        if node.op_type in ("ReduceMean", "ReduceSum"):
            axes = list(range(1, 5)) if node.op_type == "ReduceMean" else [1]
            name = f"{node.output[0]}_flat"
            assert node.output[0] in rest
            del node.attribute[:]
            if node.op_type == "ReduceMean":
                node.attribute.append(helper.make_attribute("axes", axes))
            else:
                proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array(axes, np.int64), f"{name}_axes"))
                node.input.append(f"{name}_axes")
            node.attribute.append(helper.make_attribute("keepdims", 0))
    adds = [node for node in proto.graph.node if node.op_type == "Add"]
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([-1, 1, 1], np.int64), "column"))
    proto.graph.node.insert(0, helper.make_node("Reshape", ["light", "column"], ["light_rows"]))
    proto.graph.node.insert(0, helper.make_node("Reshape", ["text", "column"], ["text_rows"]))
    for node in adds:
        node.input[1] = {"light": "light_rows", "text": "text_rows"}[node.input[1]]
    _sort(proto.graph)
    onnx.checker.check_model(proto)
    return proto.SerializeToString(deterministic=True)


def _sort(graph) -> None:
    known = {value.name for value in [*graph.input, *graph.initializer]}
    waiting, done = list(graph.node), []
    while waiting:
        ready = [node for node in waiting if set(node.input) <= known]
        done += ready
        known |= {name for node in ready for name in node.output}
        waiting = [node for node in waiting if node not in ready]
    del graph.node[:]
    graph.node.extend(done)


@pytest.fixture(scope="module")
def drafts(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("drafts")
    factory.write_draft(root / "fixed")
    files = factory.artifact_files()
    files["policy.onnx"] = ArtifactFile(files["policy.onnx"].role, open_batch(factory.onnx_bytes()))
    factory.write_draft(root / "open", files=files)
    return {name: root / name for name in ("fixed", "open")}


@pytest.fixture
def folder(tmp_path_factory) -> Path:
    """Short enough for a socket."""
    import shutil
    import tempfile

    path = Path(tempfile.mkdtemp(prefix="dg-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


def asker(folder: Path, draft: Path, arm: str = "candidate", patience_s: float = 5.0, batch: int = 1) -> ServedPolicy:
    return asking({arm: PolicySource("x", artifact=str(draft))}, folder, patience_s, batch)[arm].open()


def in_process(draft: Path) -> list[np.ndarray]:
    with Policy.load(draft, threads=1, allow_unsealed=True, require_promoted=False) as policy:
        return [policy.infer(question, factory.TASK, 1.0).values for question in QUESTIONS]


def together(folder: Path, draft: Path, askers: int, batch: int) -> list[np.ndarray]:
    """All questions, asked by so many threads at once."""
    local = threading.local()

    def ask(question) -> np.ndarray:
        if not hasattr(local, "policy"):
            local.policy = asker(folder, draft, batch=batch)
        return local.policy.infer(question, factory.TASK, 1.0).values

    with ThreadPoolExecutor(askers) as pool:
        return list(pool.map(ask, QUESTIONS))


@pytest.mark.parametrize("draft", ["fixed", "open"])
def test_one_by_one_the_answers_are_bit_equal_to_a_policy_in_process(drafts, folder, draft):
    server = PolicyServer(folder, {"candidate": str(drafts[draft]), "baseline": str(drafts["fixed"])})
    expected = in_process(drafts[draft])
    for found in (together(folder, drafts[draft], askers, 1) for askers in (1, 4)):
        assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
    server.close()


def test_several_at_a_time_agree_within_the_tolerance_and_do_not_depend_on_who_else_asks(drafts, folder):
    server = PolicyServer(folder, {"candidate": str(drafts["open"])}, batch=4)
    alone, crowd = together(folder, drafts["open"], 1, 4), together(folder, drafts["open"], 6, 4)
    np.testing.assert_allclose(alone, in_process(drafts["open"]), rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(crowd, in_process(drafts["open"]), rtol=0, atol=TOLERANCE)
    server.close()


def test_a_fixed_graph_cannot_answer_several_at_a_time(drafts, folder):
    with pytest.raises(BackendError, match="without --batch"):
        PolicyServer(folder, {"candidate": str(drafts["fixed"])}, batch=4)


def test_a_server_that_batches_is_refused_by_a_run_that_declared_one_by_one(drafts, folder):
    server = PolicyServer(folder, {"candidate": str(drafts["open"])}, batch=2)
    assert batch_of(folder) == 2
    with pytest.raises(PolicyServerGone, match="2 questions at a time, expected 1"):
        asker(folder, drafts["open"], batch=1)
    server.close()


def test_a_server_of_another_artifact_is_refused(drafts, folder):
    server = PolicyServer(folder, {"candidate": str(drafts["open"])})
    with pytest.raises(PolicyServerGone, match="expected manifest"):
        asker(folder, drafts["fixed"])
    server.close()


def test_what_the_policy_refuses_is_a_failure_of_the_episode_and_the_connection_goes_on(drafts, folder):
    server = PolicyServer(folder, {"candidate": str(drafts["fixed"])})
    policy = asker(folder, drafts["fixed"])
    with pytest.raises(RemoteFailure, match="ObservationError"):
        policy.infer(QUESTIONS[0], "red " * 40, 1.0)
    assert policy.infer(QUESTIONS[0], factory.TASK, 1.0).values.shape == (8, 7)
    server.close()


def test_a_second_server_cannot_take_the_sockets_of_a_living_one(drafts, folder):
    server = PolicyServer(folder, {"candidate": str(drafts["fixed"])})
    with pytest.raises(CannotServe, match="another process"):
        PolicyServer(folder, {"candidate": str(drafts["fixed"])})
    server.close()
    PolicyServer(folder / "made", {"candidate": str(drafts["fixed"])}).close()
    assert oct((folder / "made").stat().st_mode)[-3:] == "700"


def test_a_folder_that_others_can_enter_is_refused(drafts, folder):
    folder.chmod(0o755)
    with pytest.raises(CannotServe, match="mode 755"):
        PolicyServer(folder, {"candidate": str(drafts["fixed"])})
    assert oct(folder.stat().st_mode)[-3:] == "755"


def spawn(folder: Path, draft: Path) -> subprocess.Popen:
    asked = {"folder": str(folder), "artifacts": {"candidate": str(draft)}, "batch": 1}
    command = [sys.executable, "-m", "compress.gate.policy_server", json.dumps(asked)]
    process = subprocess.Popen(command, env=child_environment(os.environ))
    deadline = time.monotonic() + 60
    while not socket_of(folder, "candidate").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process


def test_a_killed_server_is_asked_again_when_it_is_back_and_given_up_with_a_reason_when_it_is_not(drafts, folder):
    server = spawn(folder, drafts["fixed"])
    policy = asker(folder, drafts["fixed"], patience_s=30.0)
    expected = in_process(drafts["fixed"])
    assert np.array_equal(policy.infer(QUESTIONS[0], factory.TASK, 1.0).values, expected[0])
    server.send_signal(signal.SIGKILL)
    server.wait()
    socket_of(folder, "candidate").unlink()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(policy.infer, QUESTIONS[1], factory.TASK, 1.0)
        server = spawn(folder, drafts["fixed"])
        assert np.array_equal(answer.result().values, expected[1])
    server.kill()
    server.wait()
    policy._patience_s = 0.5
    with pytest.raises(PolicyServerGone, match="compress gate serve"):
        policy.infer(QUESTIONS[2], factory.TASK, 1.0)
