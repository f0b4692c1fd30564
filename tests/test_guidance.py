# SPDX-License-Identifier: Apache-2.0
"""What a policy is told of the chunk in use: its weights, its way to the worker's process, and what an artifact that
cannot be guided makes of it."""

from __future__ import annotations

import dataclasses
import math
import struct
from pathlib import Path

import numpy as np
import onnx
import pytest
from artifact_factory import TASK, artifact_files, expected_actions, judge, observation, onnx_bytes, policy_spec
from artifact_factory import write_draft as write
from dropgate_controller.policy_link import WorkerLink
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper
from worker_factory import heard, promoted, ready, wait_for

from runtime.contract.artifact import Artifact
from runtime.contract.conventions import FileRole, Verdict
from runtime.contract.graph import PREVIOUS_ACTIONS, PREVIOUS_WEIGHTS, graph_for
from runtime.contract.guidance import Guidance, prefix_weights
from runtime.contract.policy_spec import PolicySpec
from runtime.contract.write import ArtifactFile
from runtime.control.observation import Snapshot
from runtime.control.policy_link import PolicyFailure
from runtime.errors import ContractError, ObservationError, WireError
from runtime.inference.golden import dump_golden, golden_parity, load_golden
from runtime.inference.messages import Answer, pack_request, request_limits, unpack_request
from runtime.inference.policy import Policy
from runtime.inference.wire import HEADER_SIZE, Kind, pack_frame, unpack_frame
from runtime.inference.worker_client import PolicyWorker
from runtime.inference.worker_process import WorkerOptions
from runtime.safety.motion import Measured

PLAIN = policy_spec()
SPEC: PolicySpec = dataclasses.replace(
    PLAIN, graph=graph_for(PLAIN.observation, PLAIN.action, PLAIN.prompt, guided=True)
)
H, D = SPEC.action.horizon, SPEC.action.dim


def guidance(seed: int = 0) -> Guidance:
    draw = np.random.default_rng(seed)
    return Guidance(draw.normal(0.0, 0.3, (H, D)), prefix_weights(H, 2, H - 1))


def guided_onnx() -> bytes:
    """The tiny graph of `artifact_factory`, and each row drawn towards the previous one by its weight."""
    model = onnx.ModelProto.FromString(onnx_bytes(SPEC))
    model.graph.node[-1].output[0] = "free"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([2]), "last"))
    model.graph.node.extend(
        [
            helper.make_node("Unsqueeze", [PREVIOUS_WEIGHTS, "last"], ["share"]),
            helper.make_node("Sub", [PREVIOUS_ACTIONS, "free"], ["way"]),
            helper.make_node("Mul", ["way", "share"], ["part"]),
            helper.make_node("Add", ["free", "part"], ["actions"]),
        ]
    )
    onnx.checker.check_model(model)
    return model.SerializeToString(deterministic=True)


def drawn(sample: dict[str, np.ndarray], said: Guidance | None) -> np.ndarray:
    """The oracle, in commands: normalising is affine, so weights mean the same there."""
    free = expected_actions(sample)
    return free if said is None else free + said.weights[:, None] * (said.commands - free)


def files() -> dict[str, ArtifactFile]:
    samples, said = [observation(seed) for seed in (1, 2)], (Guidance.none(SPEC.action), guidance(2))
    expected = np.stack([drawn(*pair) for pair in zip(samples, said, strict=True)]).astype(np.float32)
    return {
        **artifact_files(),
        "policy.onnx": ArtifactFile(FileRole.MODEL, guided_onnx()),
        "golden.safetensors": ArtifactFile(FileRole.GOLDEN, dump_golden(samples, expected, said)),
    }


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("guided")
    return judge(write(folder / "draft", policy=SPEC, files=files()), folder / "promoted", Verdict.PROMOTE)


@given(horizon=st.integers(1, 60), frozen=st.integers(-2, 70), end=st.integers(-2, 70))
def test_weights_are_one_then_fall_and_are_zero_where_nothing_was_said(horizon: int, frozen: int, end: int) -> None:
    found = prefix_weights(horizon, frozen, end)
    last = min(max(end, 0), horizon)
    first = min(max(frozen, 0), last)
    assert found.shape == (horizon,)
    assert (found[:first] == 1.0).all()
    assert not found[last:].any()
    assert (np.diff(found) <= 0.0).all()
    fading = found[first:last]
    assert ((fading > 0.0) & (fading < 1.0)).all()
    share = np.array([(last - row) / (last - first + 1) for row in range(first, last)])
    np.testing.assert_allclose(fading, share * (np.exp(share) - 1.0) / (math.e - 1.0), rtol=1e-5)


@pytest.mark.parametrize(
    ("commands", "weights", "what"),
    [
        (np.full((H, D), np.nan), np.zeros(H), "finite"),
        (np.full((H, D), 1e60), np.zeros(H), "finite"),
        (np.zeros((H, D)), np.full(H, np.inf), "finite"),
        (np.zeros((H, D)), np.full(H, 1.5), "0 to 1"),
        (np.zeros((H, D)), np.full(H, -0.1), "0 to 1"),
        (np.zeros((H, D)), np.zeros(H - 1), "weights"),
        (np.zeros(H), np.zeros(H), r"\(H, D\)"),
        (np.zeros((0, D)), np.zeros(0), r"\(H, D\)"),
    ],
)
def test_guidance_that_means_nothing_is_refused(commands: np.ndarray, weights: np.ndarray, what: str) -> None:
    with pytest.raises(ContractError, match=what):
        Guidance(commands, weights)


def test_policy_normalises_what_is_being_executed_with_the_artifacts_statistics(artifact: Artifact) -> None:
    sample, said = observation(5), guidance(5)
    with Policy.load(artifact.root, threads=1) as policy:
        for given_, wanted in ((said, drawn(sample, said)), (None, expected_actions(sample))):
            found = policy.infer(sample, TASK, 0.0, guidance=given_).values
            np.testing.assert_allclose(found, wanted, atol=1e-5)
        short = Guidance(said.commands[1:], said.weights[1:])
        with pytest.raises(ObservationError, match=r"found commands \(7, 7\), expected \(8, 7\)"):
            policy.infer(sample, TASK, 0.0, guidance=short)


def test_golden_samples_prove_the_guided_answer(artifact: Artifact, tmp_path: Path) -> None:
    with Policy.load(artifact.root, threads=1) as policy:
        assert golden_parity(policy).ok
    samples = [observation(seed) for seed in (1, 2)]
    free = dump_golden(samples, np.stack([expected_actions(s) for s in samples]).astype(np.float32))
    unguided = {**files(), "golden.safetensors": ArtifactFile(FileRole.GOLDEN, free)}
    with pytest.raises(ContractError, match=r"previous\.actions"):
        load_golden(write(tmp_path / "unguided", policy=SPEC, files=unguided))


def test_artifact_without_guidance_goes_on_as_before_and_refuses_to_be_guided(tmp_path: Path) -> None:
    plain = promoted(tmp_path)
    assert not plain.manifest.policy.graph.guided
    assert b"previous" not in plain.manifest_bytes
    with Policy.load(plain.root, threads=1) as policy:
        np.testing.assert_allclose(
            policy.infer(observation(3), TASK, 0.0).values, expected_actions(observation(3)), atol=1e-5
        )
        with pytest.raises(ObservationError, match=r"does not take it; export\.guided"):
            policy.infer(observation(3), TASK, 0.0, guidance=guidance())
    with pytest.raises(ObservationError, match=r"does not take it; export\.guided"):
        pack_request(1, 0.0, TASK, observation(), PLAIN.observation, guidance())


def test_half_a_pair_of_inputs_is_no_guided_graph() -> None:
    graph = dataclasses.replace(SPEC.graph, inputs=SPEC.graph.inputs[:-1])
    with pytest.raises(ContractError, match="previous_weights"):
        dataclasses.replace(SPEC, graph=graph)


def frame(said: Guidance | None) -> bytes:
    return pack_request(7, 3.1, TASK, observation(4), SPEC.observation, said, SPEC.guided)


def read(data: bytes, spec: PolicySpec = SPEC):
    limits = request_limits(SPEC.observation, SPEC.guided)
    return unpack_request(unpack_frame(data, limits), spec.observation, spec.guided)


def test_guidance_comes_to_the_worker_bit_for_bit_or_not_at_all() -> None:
    said = guidance(4)
    found = read(frame(said)).guidance
    assert found is not None
    assert np.array_equal(found.commands, said.commands)
    assert np.array_equal(found.weights, said.weights)
    assert read(frame(None)).guidance is None
    assert frame(None) == pack_request(7, 3.1, TASK, observation(4), PLAIN.observation), "as for an older artifact"


@pytest.mark.parametrize("bad", [math.nan, math.inf, 2.0, -0.5])
@pytest.mark.parametrize("place", ["first command", "last weight"])
def test_worker_refuses_guidance_that_is_not_finite_or_no_weight(bad: float, place: str) -> None:
    payload = bytearray(frame(guidance())[HEADER_SIZE:])
    size = 4 * H * (D + 1)
    start = len(payload) - (size if place == "first command" else 4)
    payload[start : start + 4] = struct.pack("<f", bad)
    data = pack_frame(Kind.REQUEST, 7, [bytes(payload)])
    if place == "first command" and math.isfinite(bad):
        read(data)
    else:
        with pytest.raises(WireError, match="guidance"):
            read(data)


@given(cut=st.integers(1, 4 * H * (D + 1) - 1))
def test_part_of_a_guidance_is_refused(cut: int) -> None:
    payload = frame(guidance())[HEADER_SIZE:]
    with pytest.raises(WireError, match="bytes or"):
        read(pack_frame(Kind.REQUEST, 7, [payload[:-cut]]))


def test_worker_without_a_guided_graph_refuses_guidance_by_its_size() -> None:
    with pytest.raises(WireError, match="expected"):
        read(frame(guidance()), PLAIN)
    with pytest.raises(ObservationError, match=r"expected \(8, 7\)"):
        pack_request(
            1, 0.0, TASK, observation(), SPEC.observation, Guidance(np.zeros((3, D)), np.zeros(3)), SPEC.guided
        )


def test_controllers_link_hands_guidance_on(artifact: Artifact) -> None:
    seen, said = Snapshot(5.0, observation(9), Measured(5.0)), guidance(9)
    with PolicyWorker(artifact, WorkerOptions(threads=1)) as worker:
        link, answers = WorkerLink(ready(worker)), []
        link.ask(seen, TASK, said)
        wait_for(lambda: answers.append(link.answer()) or answers[-1] is not None, "an answer")
        np.testing.assert_allclose(answers[-1].chunk.values, drawn(observation(9), said), atol=1e-5)
        with pytest.raises(PolicyFailure, match=r"expected \(8, 7\)"):
            link.ask(seen, TASK, Guidance(said.commands[1:], said.weights[1:]))


def test_policy_in_its_own_process_is_guided_as_in_this_one(artifact: Artifact) -> None:
    said = guidance(9)
    with PolicyWorker(artifact, WorkerOptions(threads=1, prove=True)) as worker:
        ready(worker)
        for given_ in (None, said, None):
            worker.request(observation(9), TASK, 5.0, given_)
            answer = heard(worker)
            assert isinstance(answer, Answer)
            np.testing.assert_allclose(answer.chunk.values, drawn(observation(9), given_), atol=1e-5)
