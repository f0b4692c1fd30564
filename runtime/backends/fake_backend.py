# SPDX-License-Identifier: Apache-2.0
"""A backend without an engine: deterministic answers, scripted latency and faults.

Shipped, for users' tests and ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np

from runtime.backends.base import Tensor, check_tensors
from runtime.clock import Clock, MonotonicClock
from runtime.contract.graph import GraphSpec
from runtime.errors import BackendError


class Fault(str, Enum):
    """What goes wrong in one call."""

    NONE = "none"
    NAN = "nan"
    INFINITY = "infinity"
    WRONG_SHAPE = "wrong_shape"
    MISSING_OUTPUT = "missing_output"
    RAISE = "raise"
    STALL = "stall"


FAULTS = [fault.value for fault in Fault]


@dataclass(frozen=True)
class Step:
    """One scripted call: `latency_s` [s] slept on the injected clock, then the fault."""

    latency_s: float = 0.0
    fault: Fault = Fault.NONE


def parse_script(text: str) -> tuple[Step, ...]:
    """Steps from text such as `none,nan,0.2,raise@0.05,stall`: faults, each with `@latency_s`, or a latency alone.

    Empty text is an empty script. BackendError names the step that is neither.
    """
    return tuple(_parse_step(item.strip()) for item in text.split(",")) if text else ()


def _parse_step(item: str) -> Step:
    fault, _, latency = item.partition("@")
    try:
        step = Step(float(latency or "0"), Fault(fault)) if fault in FAULTS else Step(float(item))
    except ValueError as error:
        raise BackendError(f"fake script: found {item!r}, expected a latency [s] or one of {FAULTS}") from error
    if not 0.0 <= step.latency_s < math.inf:
        raise BackendError(f"fake script: found {item!r}, expected a finite latency >= 0 s")
    return step


class FakeBackend:
    """Plays `script` step by step, then repeats `Step(latency_s)` for ever.

    Answers: `outputs` by name where given, otherwise a small sine that depends on the call's number only, |x| <= 0.1.
    A STALL sleeps `stall_s` [s] and then answers. Warm-up does not consume the script.
    """

    name = "fake"

    def __init__(
        self,
        script: Sequence[Step] = (),
        *,
        latency_s: float = 0.0,
        stall_s: float = 3600.0,
        outputs: Mapping[str, Tensor] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._script = tuple(script)
        self._default = Step(latency_s)
        self._stall_s = stall_s
        self._outputs = dict(outputs or {})
        self._clock: Clock = clock or MonotonicClock()
        self._graph: GraphSpec | None = None
        self.calls = 0

    def load(self, model: Path, graph: GraphSpec) -> None:
        """Remember the signature; `model` is not opened. BackendError if `outputs` do not fit it."""
        unknown = sorted(set(self._outputs) - {spec.name for spec in graph.outputs})
        if unknown:
            raise BackendError(
                f"fake outputs: found {unknown}, expected names among {[spec.name for spec in graph.outputs]}"
            )
        self._graph = graph

    def warm_up(self) -> None:
        """Nothing to warm; BackendError before `load`."""
        self._loaded()

    def infer(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Sleep, then answer or fail as scripted; inputs are checked as a real engine's are."""
        graph = self._loaded()
        check_tensors(inputs, graph.inputs, "fake inputs")
        step = self._script[self.calls] if self.calls < len(self._script) else self._default
        self.calls += 1
        self._clock.sleep(self._stall_s if step.fault is Fault.STALL else step.latency_s)
        if step.fault is Fault.RAISE:
            raise BackendError(f"fake backend: scripted failure of call {self.calls}")
        return self._spoil(self._answer(graph), step.fault)

    def close(self) -> None:
        """Forget the graph."""
        self._graph = None

    def _answer(self, graph: GraphSpec) -> dict[str, Tensor]:
        answers: dict[str, Tensor] = {}
        for spec in graph.outputs:
            phase = np.arange(int(np.prod(spec.shape)), dtype=np.float64).reshape(spec.shape) + self.calls
            value = self._outputs.get(spec.name, 0.1 * np.sin(phase))
            answers[spec.name] = np.array(value, dtype=np.dtype(spec.dtype.value))
        return answers

    def _spoil(self, answers: dict[str, Tensor], fault: Fault) -> dict[str, Tensor]:
        name = next(iter(answers))
        if fault in (Fault.NAN, Fault.INFINITY):
            answers[name].flat[-1] = np.nan if fault is Fault.NAN else np.inf
        elif fault is Fault.WRONG_SHAPE:
            answers[name] = answers[name][..., :-1]
        elif fault is Fault.MISSING_OUTPUT:
            del answers[name]
        return answers

    def _loaded(self) -> GraphSpec:
        if self._graph is None:
            raise BackendError("fake backend: found no graph, expected load() first (or it was closed)")
        return self._graph
