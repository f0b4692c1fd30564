# SPDX-License-Identifier: Apache-2.0
"""`Policy`: a verified artifact made runnable. observation -> tensors -> engine -> finite check -> physical ->
`ActionChunk`."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from runtime.backends.base import Backend, check_finite, check_tensors
from runtime.backends.registry import create_backend
from runtime.backends.shipped_engines import refuse_shipped_engines
from runtime.contract.artifact import Artifact, SignatureVerifier, read_artifact
from runtime.contract.chunk import ActionChunk
from runtime.contract.conventions import Verdict
from runtime.contract.graph import ACTIONS, ATTENTION_MASK, INPUT_IDS, STATE
from runtime.contract.guidance import Guidance
from runtime.contract.manifest import Manifest
from runtime.contract.policy_spec import PolicySpec
from runtime.errors import BackendError, ContractError, GateRefusedError, ObservationError, PolicyOutputError
from runtime.inference.preprocess import Observation, Preprocessor
from runtime.inference.previous import previous_tensors
from runtime.inference.tokenizer import PromptTokenizer, Tokens

PROVEN_BACKEND = "onnxruntime"  # what the exporter compares with torch
NO_ENGINE = "fake"  # cannot move a robot, see `WorkerOptions.for_motion`
STAGES = ("preprocess", "tokenise", "inference", "denormalise")
Lap = Callable[[str], None]


def no_lap(stage: str) -> None:
    """Nobody is timing."""


class Policy:
    """One loaded policy. Not thread-safe: one request in flight. Use `Policy.load`, then `infer`, then `close`."""

    def __init__(self, artifact: Artifact, backend: Backend, *, proven: bool = False) -> None:
        refuse_shipped_engines(artifact.root, artifact.manifest)
        self.artifact = artifact
        self.proven = proven  # the exporter has compared this very engine; see `runtime.inference.proven`
        self.description = ""
        self._spec: PolicySpec = artifact.manifest.policy
        normalizers = artifact.normalizers()
        self._preprocess = Preprocessor(self._spec.observation, normalizers.state)
        self._action_norm = normalizers.action
        tokenizer_file = self._spec.prompt.tokenizer_file
        self._tokenizer = PromptTokenizer(artifact.read_bytes(tokenizer_file), self._spec.prompt)
        self._prompt: tuple[str, Tokens, Tokens] | None = None
        self._backend: Backend | None = backend
        try:
            with artifact.held_still():
                backend.load(artifact.path(self._spec.graph.file), self._spec.graph)
            backend.warm_up()
            self.description = str(getattr(backend, "description", getattr(backend, "name", type(backend).__name__)))
        except BaseException:
            self.close()
            raise

    @classmethod
    def load(
        cls,
        artifact_dir: str | Path,
        backend: str | Backend = "onnxruntime",
        *,
        threads: int | None = None,
        provider: str | None = None,
        allow_unsealed: bool = False,
        require_promoted: bool = True,
        allow_unproven: bool = False,
        verifier: SignatureVerifier | None = None,
    ) -> Policy:
        """Verify, load and warm up; ready or an error.

        `backend` is a name of the registry or an unloaded `Backend`; `provider` None takes the manifest's first.
        `allow_unsealed` admits a draft without verdict (for the gate itself); `require_promoted=False` admits a
        held one; `allow_unproven` an engine or provider that the manifest does not list (to compare it, or after that).
        Raises ArtifactError, GateRefusedError, ContractError, BackendError.
        """
        artifact = read_artifact(artifact_dir, verifier=verifier)
        check_verdict(artifact.manifest, allow_unsealed=allow_unsealed, require_promoted=require_promoted)
        if not isinstance(backend, str):
            return cls(artifact, backend)
        allowed = artifact.manifest.policy.engine.providers
        kind = backend.partition(":")[0]
        chosen = (provider or allowed[0]) if kind == PROVEN_BACKEND else provider
        proven = chosen in allowed if kind == PROVEN_BACKEND else kind == NO_ENGINE
        if not proven and not allow_unproven:
            found = kind if chosen is None else chosen
            raise BackendError(
                f"provider: found {found!r}, the artifact was proven with {list(allowed)} of {PROVEN_BACKEND}; use "
                f"one of them, or compare this one here: python -m runtime verify --run --backend {backend}"
                f"{f' --provider {chosen}' if chosen else ''} {artifact_dir}"
            )
        return cls(artifact, create_backend(backend, threads=threads, provider=chosen), proven=proven)

    @property
    def manifest(self) -> Manifest:
        """The manifest of the loaded artifact."""
        return self.artifact.manifest

    def infer(
        self, observation: Observation, instruction: str, stamp_s: float, lap: Lap = no_lap,
        guidance: Guidance | None = None,
    ) -> ActionChunk:  # fmt: skip
        """Commands for `instruction` given one observation taken at `stamp_s` [s] (monotonic, the caller's clock).

        `lap` is called with the name of each of `STAGES` when it is over. `guidance` says what is being executed; only
        for a graph that takes it (`GraphSpec.guided`), which answers freely when it is None.
        Raises ObservationError, BackendError, PolicyOutputError; then there is no chunk at all.
        """
        if self._backend is None:
            raise BackendError("policy: found it closed, expected a loaded one; call Policy.load again")
        if not math.isfinite(stamp_s):
            raise ObservationError(f"stamp_s: found {stamp_s}, expected the finite time [s] of the observation")
        tensors = self._preprocess.tensors(observation)
        previous = previous_tensors(self._spec, self._action_norm, guidance)
        lap("preprocess")
        ids, mask = self._tokens(instruction, tensors[STATE][0])
        lap("tokenise")
        inputs = {**tensors, INPUT_IDS: ids, ATTENTION_MASK: mask, **previous}
        outputs = self._backend.infer(inputs)
        lap("inference")
        check_finite(outputs, "policy outputs")
        check_tensors(outputs, self._spec.graph.outputs, "policy outputs")
        try:
            commands = self._action_norm.invert(outputs[ACTIONS][0])
        except ContractError as error:
            raise PolicyOutputError(f"policy outputs[{ACTIONS}]: {error}; the chunk is dropped") from error
        chunk = ActionChunk.of(commands, self._spec.action, stamp_s)
        lap("denormalise")
        return chunk

    def _tokens(self, instruction: str, state: NDArray[np.float32]) -> tuple[Tokens, Tokens]:
        if self._spec.prompt.needs_state:
            return self._tokenizer.encode(instruction, state)
        if self._prompt is None or self._prompt[0] != instruction:
            self._prompt = (instruction, *self._tokenizer.encode(instruction))
        return self._prompt[1], self._prompt[2]

    def close(self) -> None:
        """Free the engine; more calls are harmless."""
        if self._backend is not None:
            self._backend.close()
            self._backend = None

    def __enter__(self) -> Policy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def check_verdict(manifest: Manifest, *, allow_unsealed: bool, require_promoted: bool) -> None:
    """GateRefusedError for a draft unless `allow_unsealed`, and for a held artifact unless `require_promoted` is
    False."""
    if manifest.gate is None:
        if not allow_unsealed:
            raise GateRefusedError(
                "gate: found no verdict (a draft), expected 'promote'; run: compress gate. "
                "Only the gate and benches load drafts, with allow_unsealed=True"
            )
    elif manifest.gate.verdict is not Verdict.PROMOTE and require_promoted:
        raise GateRefusedError(
            f"gate: found verdict {manifest.gate.verdict.value!r} ({manifest.gate.reason}), expected 'promote'; "
            f"see {manifest.gate.report}. require_promoted=False loads it for study, never for a robot"
        )
