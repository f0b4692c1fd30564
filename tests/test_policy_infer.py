# SPDX-License-Identifier: Apache-2.0
"""`Policy`: the whole path against a numpy oracle, every refusal, and the gate's verdict at the door."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from artifact_factory import (
    TASK,
    artifact_files,
    expected_actions,
    image_spec,
    judge,
    normalizers,
    observation,
    write_draft,
)

from runtime.backends.fake_backend import FakeBackend, Fault, Step
from runtime.clock import FakeClock
from runtime.contract.artifact import Artifact
from runtime.contract.conventions import FileRole, Verdict
from runtime.contract.normalization import Normalization, Normalizers
from runtime.contract.write import ArtifactFile
from runtime.errors import (
    ArtifactError,
    BackendError,
    ContractError,
    GateRefusedError,
    ObservationError,
    PolicyOutputError,
)
from runtime.inference.golden import dump_golden, golden_parity, load_golden
from runtime.inference.policy import Policy
from runtime.inference.preprocess import normalised_image


@pytest.fixture(scope="module")
def draft(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return write_draft(tmp_path_factory.mktemp("artifact") / "draft")


@pytest.fixture
def policy(draft: Artifact):
    with Policy.load(draft.root, threads=1, allow_unsealed=True) as loaded:
        yield loaded


def scripted(draft: Artifact, *script: Step) -> Policy:
    return Policy.load(draft.root, FakeBackend(script, clock=FakeClock()), allow_unsealed=True)


@pytest.mark.parametrize("seed", range(3))
def test_answer_equals_the_numpy_oracle(policy: Policy, seed: int) -> None:
    chunk = policy.infer(observation(seed), TASK, stamp_s=3.25)
    np.testing.assert_allclose(chunk.values, expected_actions(observation(seed)), atol=1e-5)
    assert (chunk.stamp_s, chunk.dt_s, chunk.horizon) == (3.25, 0.05, 8)
    assert chunk.names[0] == "dx"
    assert chunk.names[-1] == "gripper"


def test_cameras_are_not_interchangeable(draft: Artifact) -> None:
    seen = []

    class Spy(FakeBackend):
        def infer(self, inputs):
            seen.append(inputs["pixels"])
            return super().infer(inputs)

    sample = observation()
    with Policy.load(draft.root, Spy(), allow_unsealed=True) as policy:
        policy.infer(sample, TASK, 0.0)
    for index, key in enumerate(("agentview", "wrist")):
        np.testing.assert_array_equal(seen[0][0, index], normalised_image(sample[key], image_spec(key)))


def test_instruction_reaches_the_graph(policy: Policy) -> None:
    first = policy.infer(observation(), TASK, 0.0).values
    other = policy.infer(observation(), "pick up the cube", 0.0).values
    again = policy.infer(observation(), TASK.upper(), 0.0).values
    np.testing.assert_allclose(other, expected_actions(observation(), "pick up the cube"), atol=1e-5)
    assert not np.allclose(first, other, atol=1e-4)
    np.testing.assert_array_equal(first, again)


def test_keys_outside_the_spec_are_ignored(policy: Policy) -> None:
    plain = policy.infer(observation(), TASK, 0.0)
    more = policy.infer({**observation(), "depth": np.zeros(1)}, TASK, 0.0)
    np.testing.assert_array_equal(plain.values, more.values)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_state_may_be_single_or_double(policy: Policy, dtype: type) -> None:
    sample = observation()
    chunk = policy.infer({**sample, "state": sample["state"].astype(dtype)}, TASK, 0.0)
    np.testing.assert_allclose(chunk.values, expected_actions(sample), atol=1e-5)


IMAGE = observation()["wrist"]
BAD_OBSERVATIONS = {
    "missing camera": ({"wrist": None}, r"observation: missing \['wrist'\], found \['agentview', 'state'\], expected"),
    "missing state": ({"state": None}, r"observation: missing \['state'\]"),
    "float image": (
        {"wrist": IMAGE / 255.0},
        r"\['wrist'\]: found float64 \(16, 12, 3\), expected uint8 \(16, 12, 3\) \(HWC",
    ),
    "channels first": ({"wrist": IMAGE.transpose(2, 0, 1)}, r"\['wrist'\]: found uint8 \(3, 16, 12\), expected"),
    "batched": ({"wrist": IMAGE[None]}, r"\['wrist'\]: found uint8 \(1, 16, 12, 3\)"),
    "other size": ({"agentview": IMAGE[:8]}, r"\['agentview'\]: found uint8 \(8, 12, 3\)"),
    "list image": ({"wrist": IMAGE.tolist()}, r"\['wrist'\]: found list, expected a numpy array uint8"),
    "list state": ({"state": [0.0] * 8}, r"\['state'\]: found list, expected a numpy array of floats \(8,\)"),
    "integer state": (
        {"state": np.zeros(8, int)},
        r"\['state'\]: found int64 \(8,\), expected float32 or float64 \(8,\)",
    ),
    "short state": ({"state": np.zeros(7)}, r"\['state'\]: found float64 \(7,\)"),
    "nan": (
        {"state": np.array([0, 0, np.nan] + [0] * 5)},
        r"\['state'\]\['z'\]: found nan, expected a finite number \[m\]",
    ),
    "infinity": ({"state": np.array([0.0] * 5 + [-np.inf, 0, 0])}, r"\['state'\]\['rz'\]: found -inf, .* \[rad\]"),
    "overflow": ({"state": np.full(8, 1e300)}, r"\['state'\]: .*float32"),
}


@pytest.mark.parametrize("name", BAD_OBSERVATIONS)
def test_bad_observation_is_refused_by_key(policy: Policy, name: str) -> None:
    changes, message = BAD_OBSERVATIONS[name]
    sample = {key: value for key, value in {**observation(), **changes}.items() if value is not None}
    with pytest.raises(ObservationError, match=message):
        policy.infer(sample, TASK, 0.0)


@pytest.mark.parametrize("text", ["", "  ", None])
def test_empty_instruction_is_refused(policy: Policy, text) -> None:
    with pytest.raises(ObservationError, match=r"instruction: found .*, expected text that says what to do"):
        policy.infer(observation(), text, 0.0)


@pytest.mark.parametrize("stamp_s", [np.nan, np.inf])
def test_observation_without_a_time_is_refused(policy: Policy, stamp_s: float) -> None:
    with pytest.raises(ObservationError, match=r"stamp_s: found .*, expected the finite time"):
        policy.infer(observation(), TASK, stamp_s)


FAULTS = {
    Fault.NAN: (PolicyOutputError, r"outputs\[actions\]: found nan at \[0, 7, 6\]"),
    Fault.INFINITY: (PolicyOutputError, r"outputs\[actions\]: found inf"),
    Fault.WRONG_SHAPE: (BackendError, r"outputs\[actions\]: found float32 \(1, 8, 6\), expected float32 \(1, 8, 7\)"),
    Fault.MISSING_OUTPUT: (BackendError, r"outputs: found tensors \[\], expected \['actions'\]"),
    Fault.RAISE: (BackendError, r"scripted failure"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faulty_engine_gives_no_chunk_and_may_recover(draft: Artifact, fault: Fault) -> None:
    error, message = FAULTS[fault]
    with scripted(draft, Step(fault=fault)) as policy:
        with pytest.raises(error, match=message):
            policy.infer(observation(), TASK, 0.0)
        assert policy.infer(observation(), TASK, 0.0).horizon == 8


def test_gripper_passes_denormalisation_unchanged(draft: Artifact) -> None:
    answer = np.full((1, 8, 7), 0.5, dtype=np.float32)
    with Policy.load(draft.root, FakeBackend(outputs={"actions": answer}), allow_unsealed=True) as policy:
        values = policy.infer(observation(), TASK, 0.0).values
    np.testing.assert_allclose(values[:, :6], 1.0)
    np.testing.assert_allclose(values[:, 6], 0.5)
    np.testing.assert_allclose(normalizers().action.apply(values), answer[0])


def test_answer_beyond_float32_is_dropped(draft: Artifact) -> None:
    answer = np.full((1, 8, 7), 3e38, dtype=np.float32)
    wide = Normalizers(normalizers().state, Normalization.of("q01_q99", np.full(7, -50.0), np.full(7, 50.0)))
    with Policy.load(draft.root, FakeBackend(outputs={"actions": answer}), allow_unsealed=True) as policy:
        policy._action_norm = wide.action
        with pytest.raises(PolicyOutputError, match=r"result is beyond float32, .*; the chunk is dropped"):
            policy.infer(observation(), TASK, 0.0)


def test_closed_policy_refuses_and_closes_twice(draft: Artifact) -> None:
    policy = scripted(draft)
    policy.close()
    policy.close()
    with pytest.raises(BackendError, match=r"found it closed, expected a loaded one; call Policy.load again"):
        policy.infer(observation(), TASK, 0.0)


def test_draft_needs_permission(draft: Artifact) -> None:
    with pytest.raises(GateRefusedError, match=r"found no verdict \(a draft\), expected 'promote'; run: compress gate"):
        Policy.load(draft.root)


def test_promoted_artifact_loads_without_words(draft: Artifact, tmp_path: Path) -> None:
    promoted = judge(draft, tmp_path / "p", Verdict.PROMOTE)
    with Policy.load(promoted.root) as policy:
        assert policy.manifest.gate.verdict is Verdict.PROMOTE


def test_held_artifact_is_refused_with_its_reason(draft: Artifact, tmp_path: Path) -> None:
    held = judge(draft, tmp_path / "h", Verdict.HOLD, reason="3 of 20 episodes worse")
    for permission in (False, True):
        with pytest.raises(GateRefusedError, match=r"verdict 'hold' \(3 of 20 episodes worse\), expected 'promote'"):
            Policy.load(held.root, allow_unsealed=permission)
    Policy.load(held.root, "fake", require_promoted=False).close()


def test_require_promoted_false_does_not_admit_a_draft(draft: Artifact) -> None:
    with pytest.raises(GateRefusedError, match="found no verdict"):
        Policy.load(draft.root, require_promoted=False)


def test_changed_artifact_never_reaches_the_engine(tmp_path: Path) -> None:
    artifact = write_draft(tmp_path / "a")
    (artifact.root / "policy.onnx").write_bytes(b"")

    class Untouchable(FakeBackend):
        def load(self, model, graph):
            pytest.fail("the engine saw unverified weights")

    with pytest.raises(ArtifactError, match=r"changed: policy\.onnx"):
        Policy.load(artifact.root, Untouchable(), allow_unsealed=True)


def test_provider_that_was_not_proven_is_refused(draft: Artifact) -> None:
    with pytest.raises(
        BackendError, match=r"found 'CUDAExecutionProvider', the artifact was proven with \['CPUExecution"
    ):
        Policy.load(draft.root, provider="CUDAExecutionProvider", allow_unsealed=True)


def test_engine_that_fails_to_warm_up_is_closed(draft: Artifact) -> None:
    class ColdBackend(FakeBackend):
        closed = False

        def warm_up(self):
            raise BackendError("cold")

        def close(self):
            self.closed = True

    backend = ColdBackend()
    with pytest.raises(BackendError, match="cold"):
        Policy.load(draft.root, backend, allow_unsealed=True)
    assert backend.closed


def test_golden_outputs_are_met_by_the_real_engine(policy: Policy) -> None:
    parity = golden_parity(policy)
    assert parity.ok
    assert parity.samples == 2
    assert max(parity.max_abs.values()) < 1e-5


def test_golden_outputs_are_missed_by_a_wrong_engine(draft: Artifact) -> None:
    with scripted(draft) as policy:
        parity = golden_parity(policy)
    assert not parity.ok
    assert set(parity.max_abs) == set(policy.manifest.policy.action.names)


def with_golden(folder: Path, data: bytes) -> Artifact:
    return write_draft(folder, files={**artifact_files(), "golden.safetensors": ArtifactFile(FileRole.GOLDEN, data)})


def test_golden_file_that_disagrees_with_manifest_is_refused(tmp_path: Path) -> None:
    one = dump_golden([observation()], np.zeros((1, 8, 7), np.float32))
    with pytest.raises(ContractError, match=r"found .*expected 2 samples and actions \(2, 8, 7\)"):
        load_golden(with_golden(tmp_path / "one", one))
    blind = dump_golden([{"state": np.zeros(8)}] * 2, np.zeros((2, 8, 7), np.float32))
    with pytest.raises(ContractError, match=r"found tensors \['expected.actions', 'observation.state'\], expected"):
        load_golden(with_golden(tmp_path / "blind", blind))
