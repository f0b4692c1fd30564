# SPDX-License-Identifier: Apache-2.0
"""How a policy server computes its answers: one by one through the robot's own `Policy`, or several at a time.

One by one is what the robot does, and the default: the answers are bit-equal to a policy in the simulator's own
process. Several at a time needs a graph whose first axis is open. Kernels may then add up in another order, so the
answers differ in the last bits, and rows made that way never promote anything (`compress.gate.merge`). They always
run `size` rows, the missing ones repeated, so that an answer does not depend on how many others asked.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from runtime.backends.base import Backend, check_finite
from runtime.backends.registry import create_backend
from runtime.contract.artifact import Artifact, read_artifact
from runtime.contract.chunk import ActionChunk
from runtime.contract.graph import ACTIONS, ATTENTION_MASK, INPUT_IDS, STATE, GraphSpec
from runtime.errors import BackendError, ContractError
from runtime.inference.messages import Request
from runtime.inference.policy import Policy
from runtime.inference.preprocess import Preprocessor
from runtime.inference.tokenizer import PromptTokenizer


class Answers(Protocol):
    """Thread-safe: several simulators ask at once."""

    artifact: Artifact
    size: int

    def ask(self, request: Request) -> tuple[ActionChunk, float]:
        """The chunk and the seconds that it took. Raises what the policy raises."""

    def close(self) -> None:
        """Free the engine."""


class OneByOne:
    """`runtime.inference.policy.Policy` as the robot runs it."""

    size = 1

    def __init__(self, folder: str) -> None:
        self._policy = Policy.load(folder, threads=1, allow_unsealed=True, require_promoted=False)
        self.artifact, self._turn = self._policy.artifact, threading.Lock()

    def ask(self, request: Request) -> tuple[ActionChunk, float]:
        """Waits for its turn."""
        with self._turn:
            began = time.perf_counter()
            chunk = self._policy.infer(request.observation, request.instruction, request.stamp_s)
            return chunk, time.perf_counter() - began

    def close(self) -> None:
        """Free the engine."""
        with self._turn:
            self._policy.close()


@dataclass(frozen=True)
class _Waiting:
    request: Request
    tensors: Mapping[str, np.ndarray]
    answer: Future[tuple[ActionChunk, float]]


class Together:
    """Up to `size` questions in one run of the graph. BackendError if the graph's first axis is not open."""

    def __init__(self, folder: str, size: int) -> None:
        self.size, self.artifact = size, read_artifact(folder)
        spec, normalizers = self.artifact.manifest.policy, self.artifact.normalizers()
        self._spec, self._actions = spec, normalizers.action
        self._preprocess = Preprocessor(spec.observation, normalizers.state)
        self._tokens = PromptTokenizer(self.artifact.read_bytes(spec.prompt.tokenizer_file), spec.prompt)
        self._backend: Backend = create_backend("onnxruntime", threads=1, provider=spec.engine.providers[0])
        with self.artifact.held_still():
            self._backend.load(self.artifact.path(spec.graph.file), widened(spec.graph, size))
        self._backend.warm_up()
        self._waiting: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._answer_all, daemon=True)
        self._thread.start()

    def ask(self, request: Request) -> tuple[ActionChunk, float]:
        """Waits for the next run of the graph that has room."""
        tensors = self._preprocess.tensors(request.observation)
        state = tensors[STATE][0] if self._spec.prompt.needs_state else None
        ids, mask = self._tokens.encode(request.instruction, state)
        mine = _Waiting(request, {**tensors, INPUT_IDS: ids, ATTENTION_MASK: mask}, Future())
        self._waiting.put(mine)
        return mine.answer.result()

    def close(self) -> None:
        """Free the engine."""
        self._waiting.put(None)
        self._thread.join()
        self._backend.close()

    def _answer_all(self) -> None:
        while (first := self._waiting.get()) is not None:
            group = [first]
            while len(group) < self.size and not self._waiting.empty():
                more = self._waiting.get()
                if more is None:
                    self._waiting.put(None)
                    break
                group.append(more)
            self._answer(group)

    def _answer(self, group: list[_Waiting]) -> None:
        began = time.perf_counter()
        rows = [*group, *[group[-1]] * (self.size - len(group))]
        try:
            stacked = {name: np.concatenate([row.tensors[name] for row in rows]) for name in group[0].tensors}
            actions = self._backend.infer(stacked)[ACTIONS]
        except Exception as error:
            for row in group:
                row.answer.set_exception(error)
            return
        took = time.perf_counter() - began
        for row, values in zip(group, actions, strict=False):
            try:
                check_finite({ACTIONS: values}, "policy outputs")
                commands = self._actions.invert(values)
                row.answer.set_result((ActionChunk.of(commands, self._spec.action, row.request.stamp_s), took))
            except Exception as error:
                row.answer.set_exception(error)


def widened(graph: GraphSpec, size: int) -> GraphSpec:
    """The graph with `size` rows on the first axis of every tensor."""
    inputs = tuple(replace(spec, shape=(size, *spec.shape[1:])) for spec in graph.inputs)
    outputs = tuple(replace(spec, shape=(size, *spec.shape[1:])) for spec in graph.outputs)
    return replace(graph, inputs=inputs, outputs=outputs)


def open_answers(folder: str, size: int) -> Answers:
    """Answers of an artifact; `size` 1 is the robot's own way. BackendError if more is asked than the graph can."""
    if size == 1:
        return OneByOne(folder)
    try:
        return Together(folder, size)
    except (BackendError, ContractError) as error:
        raise BackendError(
            f"{folder} cannot answer {size} questions at a time ({error}). Next: without --batch (one by one), or "
            "export with `batch: dynamic`"
        ) from error
