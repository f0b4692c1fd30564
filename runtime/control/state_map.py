# SPDX-License-Identifier: Apache-2.0
"""Which measured number is which entry of the policy's state; an entry that cannot be had is a named problem."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from runtime.contract.spec import ObservationSpec
from runtime.errors import ContractError
from runtime.safety.motion import Measured
from runtime.telemetry import StopCause

_TCP_AXES = {"x": 0, "y": 1, "z": 2}


class ObservationProblem(Exception):
    """There is no usable observation; `cause` is what is recorded, the message says which stream and how old."""

    def __init__(self, cause: StopCause, text: str) -> None:
        super().__init__(text)
        self.cause = cause


class StateMap:
    """Which measured number is which entry of the policy's state: `tcp.x`, `tcp.rz`, `joint.<name>`, in order.

    Raises ContractError for a source that does not exist, or another number of them than the policy expects.
    """

    def __init__(self, sources: Sequence[str], spec: ObservationSpec) -> None:
        if len(sources) != spec.state.dim:
            raise ContractError(
                f"state: found {len(sources)} sources {list(sources)}, the policy expects {spec.state.dim}: "
                f"{list(spec.state.names)}"
            )
        self._sources = [self._parsed(source) for source in sources]
        self._spec = spec.state

    @staticmethod
    def _parsed(source: str) -> tuple[str, str]:
        kind, _, name = source.partition(".")
        if kind == "tcp" and name.removeprefix("r") in _TCP_AXES:
            return kind, name
        if kind == "joint" and name:
            return kind, name
        raise ContractError(f"state: found source {source!r}, expected tcp.x|y|z|rx|ry|rz or joint.<name>")

    @property
    def needs_tcp(self) -> bool:
        """Some entry comes from the tool's pose."""
        return any(kind == "tcp" for kind, _ in self._sources)

    @property
    def joints(self) -> tuple[str, ...]:
        """Names of the joints that are part of the state."""
        return tuple(name for kind, name in self._sources if kind == "joint")

    def vector(self, measured: Measured) -> NDArray[np.float32]:
        """The state (S,). Raises ObservationProblem: missing, not finite, or outside the declared range."""
        values = np.array([self._value(kind, name, measured) for kind, name in self._sources], dtype=np.float64)
        if not np.isfinite(values).all():
            raise ObservationProblem(StopCause.OBSERVATION_INVALID, f"the state is not finite: {values.tolist()}")
        low, high = self._spec.low, self._spec.high
        if low is not None and high is not None and (np.any(values < low) or np.any(values > high)):
            raise ObservationProblem(
                StopCause.OBSERVATION_INVALID, f"the state {values.tolist()} is outside its range {low} to {high}"
            )
        return values.astype(np.float32)

    @staticmethod
    def _value(kind: str, name: str, measured: Measured) -> float:
        if kind == "joint":
            if name not in measured.joints:
                raise ObservationProblem(
                    StopCause.OBSERVATION_MISSING,
                    f"joint {name!r} is not reported; the robot reports {sorted(measured.joints)}",
                )
            return float(measured.joints[name])
        source = measured.tcp_rotation if name.startswith("r") else measured.tcp_position
        if source is None:
            raise ObservationProblem(StopCause.OBSERVATION_MISSING, "the pose of the tool is not reported")
        return float(source[_TCP_AXES[name.removeprefix("r")]])
