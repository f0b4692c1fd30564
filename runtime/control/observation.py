# SPDX-License-Identifier: Apache-2.0
"""What the robot was seen to be, and when: stamped ring buffers that fail closed.

Not an approximate-time filter: that waits in silence when one stream stops. Here every question has an answer or a
named problem: missing, stale, skewed, frozen, invalid.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.contract.spec import ObservationSpec
from runtime.control.state_map import ObservationProblem, StateMap
from runtime.safety.motion import Measured
from runtime.telemetry import StopCause

JOINTS, TCP = "joints", "tcp"
KEPT = 8  # samples of a camera
KEPT_ROBOT = 128  # samples of joints and pose: faster than cameras
EDGE_S = 1e-6  # stamps are sums of floats
FUTURE_S = 0.02  # how far a stamp may be ahead of our clock
FROZEN_FRAMES, FROZEN_MOTION_M, FROZEN_MOTION_RAD = 5, 0.01, 0.02


@dataclass(frozen=True, eq=False)
class Snapshot:
    """One consistent observation.

    Attributes:
        stamp_s: the oldest stamp in it [s]; a chunk made from it starts here.
        inputs: what `Policy.infer` takes: images and the state vector.
        measured: the robot at that time, for the filter.
    """

    stamp_s: float
    inputs: Mapping[str, NDArray[Any]]
    measured: Measured


@dataclass(frozen=True, eq=False)
class Joints:
    """One report of joint positions by name [rad or m]."""

    positions: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Pose:
    """One report of the tool: position (3,) [m], rotation vector (3,) [rad]."""

    position: NDArray[np.float64]
    rotation: NDArray[np.float64]


@dataclass
class _Stream:
    samples: deque[tuple[float, Any]]
    refused: str = ""  # why the last sample was not taken; empty once a good one has come
    same: int = 0
    place_when_new: NDArray[np.float64] | None = field(default=None, repr=False)


class ObservationBuffer:
    """Newest samples of every stream.

    Args:
        spec: cameras and state of the policy, with their greatest ages and skew.
        state: where the state's numbers come from.
        joints: joints that must be in every report, by name.
        needs_tcp: the filter needs the tool's pose too.
    """

    def __init__(
        self, spec: ObservationSpec, state: StateMap, joints: Sequence[str] = (), needs_tcp: bool = False
    ) -> None:
        self._spec, self._state = spec, state
        self._joints = tuple(dict.fromkeys((*joints, *state.joints)))
        robot = [JOINTS] * bool(self._joints) + [TCP] * (needs_tcp or state.needs_tcp)
        self._ages = {image.key: image.max_age_s for image in spec.images} | dict.fromkeys(robot, spec.state.max_age_s)
        self._streams = {name: _Stream(deque(maxlen=KEPT_ROBOT if name in robot else KEPT)) for name in self._ages}

    @property
    def names(self) -> tuple[str, ...]:
        """All streams."""
        return tuple(self._streams)

    def put(self, name: str, stamp_s: float, value: Any, now_s: float) -> bool:
        """Take a sample; False if it is refused (unknown stream, bad stamp, not newer, incomplete, wrong shape)."""
        stream = self._streams.get(name)
        if stream is None:
            return False
        stream.refused = self._stamp_problem(stream, stamp_s, now_s) or self._misfit(name, value)
        if stream.refused:
            return False
        if name in self._spec.image_keys:
            self._watch_pixels(stream, value)
        stream.samples.append((stamp_s, value))
        return True

    def clear(self) -> None:
        """Forget all samples."""
        for stream in self._streams.values():
            stream.samples.clear()
            stream.refused = ""

    def ages(self, now_s: float) -> dict[str, float]:
        """Age of the newest sample of every stream [s]; infinite if there is none."""
        return {
            name: now_s - stream.samples[-1][0] if stream.samples else math.inf
            for name, stream in self._streams.items()
        }

    def rates(self) -> dict[str, float]:
        """Samples per second of every stream, over its newest samples; 0 with fewer than two."""
        found = {}
        for name, stream in self._streams.items():
            span = stream.samples[-1][0] - stream.samples[0][0] if stream.samples else 0.0
            found[name] = (len(stream.samples) - 1) / span if span > 0.0 else 0.0
        return found

    def measured(self, now_s: float) -> Measured:
        """The robot's newest report. Raises ObservationProblem if it is missing or too old."""
        joints, tcp = self._newest(JOINTS, now_s), self._newest(TCP, now_s)
        stamps = [sample[0] for sample in (joints, tcp) if sample is not None]
        return _measured(min(stamps, default=now_s), joints and joints[1], tcp and tcp[1])

    def check(self, now_s: float) -> None:
        """Raises ObservationProblem if a stream is missing, too old, or shows old pixels while the arm moves."""
        for name, limit in self._ages.items():
            self._require(name, now_s, limit)
        for name in self._spec.image_keys:
            stream = self._streams[name]
            if stream.same >= FROZEN_FRAMES and self._moved_since(stream):
                raise ObservationProblem(
                    StopCause.OBSERVATION_FROZEN,
                    f"camera {name!r} has sent the same pixels {stream.same + 1} times while the arm moved",
                )

    def snapshot(self, now_s: float) -> Snapshot:
        """The newest set of samples that belong together.

        Raises:
            ObservationProblem: what is missing, too old, frozen, or too far apart in time.
        """
        self.check(now_s)
        common = min(stream.samples[-1][0] for stream in self._streams.values())
        chosen = {name: _nearest(stream.samples, common) for name, stream in self._streams.items()}
        stamps = {name: stamp for name, (stamp, _) in chosen.items()}
        spread = max(stamps.values()) - min(stamps.values())
        if spread > self._spec.max_skew_s:
            raise ObservationProblem(
                StopCause.OBSERVATION_SKEWED,
                f"the samples are {spread:.3f} s apart ({_listed(stamps)}), at most {self._spec.max_skew_s:g} s is "
                "allowed",
            )
        for name, stamp in stamps.items():
            if now_s - stamp > self._ages[name] + EDGE_S:
                raise _stale(name, now_s - stamp, self._ages[name])
        joints, tcp = chosen.get(JOINTS), chosen.get(TCP)
        measured = _measured(min(stamps.values()), joints and joints[1], tcp and tcp[1])
        images = {name: chosen[name][1] for name in self._spec.image_keys}
        return Snapshot(min(stamps.values()), {**images, self._spec.state.key: self._state.vector(measured)}, measured)

    @staticmethod
    def _stamp_problem(stream: _Stream, stamp_s: float, now_s: float) -> str:
        if not math.isfinite(stamp_s):
            return f"its stamp is {stamp_s}"
        if stamp_s > now_s + FUTURE_S:
            return f"its stamp is {stamp_s - now_s:.3f} s in the future"
        if stream.samples and stamp_s <= stream.samples[-1][0]:
            return f"its stamp is not newer than the one before ({stamp_s - stream.samples[-1][0]:+.3f} s)"
        return ""

    def _misfit(self, name: str, value: Any) -> str:
        """What is wrong with a sample, in words; empty if nothing."""
        if name == JOINTS:
            if not isinstance(value, Joints):
                return f"it is a {type(value).__name__}, expected Joints"
            missing = [j for j in self._joints if j not in value.positions]
            wild = [j for j in self._joints if j not in missing and not math.isfinite(value.positions[j])]
            return f"joints {missing} are missing" if missing else f"joints {wild} are not finite" if wild else ""
        if name == TCP:
            finite = isinstance(value, Pose) and np.isfinite(value.position).all() and np.isfinite(value.rotation).all()
            return "" if finite else "the pose is not finite"
        shape = next(image.shape for image in self._spec.images if image.key == name)
        if not isinstance(value, np.ndarray) or value.shape != shape or value.dtype != np.uint8:
            found = f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
            return f"the image is {found}, expected uint8 {shape}"
        return ""

    def _watch_pixels(self, stream: _Stream, image: NDArray[np.uint8]) -> None:
        if stream.samples and np.array_equal(stream.samples[-1][1], image):
            stream.same += 1
        else:
            stream.same, stream.place_when_new = 0, None
        if stream.place_when_new is None:  # the pose may come after the picture
            stream.place_when_new = self._place()

    def _place(self) -> NDArray[np.float64] | None:
        """Where the arm is: its tool [m], or its joints [rad] where no tool pose is listened to."""
        stream = self._streams.get(TCP, self._streams.get(JOINTS))
        if stream is None or not stream.samples:
            return None
        value = stream.samples[-1][1]
        if isinstance(value, Pose):
            return value.position
        return np.array([value.positions[name] for name in self._joints], dtype=np.float64)

    def _moved_since(self, stream: _Stream) -> bool:
        place = self._place()
        if place is None or stream.place_when_new is None:
            return False
        limit = FROZEN_MOTION_M if TCP in self._streams else FROZEN_MOTION_RAD
        return float(np.linalg.norm(place - stream.place_when_new)) > limit

    def _newest(self, name: str, now_s: float) -> tuple[float, Any] | None:
        if name not in self._streams:
            return None
        self._require(name, now_s, self._ages[name])
        stamp, value = self._streams[name].samples[-1]
        return stamp, value

    def _require(self, name: str, now_s: float, limit: float) -> None:
        stream = self._streams[name]
        age = now_s - stream.samples[-1][0] if stream.samples else math.inf
        if age <= limit + EDGE_S:
            return
        if stream.refused:
            raise ObservationProblem(
                StopCause.OBSERVATION_INVALID, f"samples of {name!r} come but cannot be used: {stream.refused}"
            )
        if not stream.samples:
            raise ObservationProblem(StopCause.OBSERVATION_MISSING, f"nothing has come from {name!r}")
        raise _stale(name, age, limit)


def _stale(name: str, age: float, limit: float) -> ObservationProblem:
    return ObservationProblem(
        StopCause.OBSERVATION_STALE, f"the newest sample of {name!r} is {age:.3f} s old, at most {limit:g} s is allowed"
    )


def _nearest(samples: deque[tuple[float, Any]], time_s: float) -> tuple[float, Any]:
    return min(samples, key=lambda sample: abs(sample[0] - time_s))


def _measured(stamp_s: float, joints: Joints | None, tcp: Pose | None) -> Measured:
    return Measured(
        stamp_s,
        {} if joints is None else joints.positions,
        None if tcp is None else tcp.position,
        None if tcp is None else tcp.rotation,
    )


def _listed(stamps: Mapping[str, float]) -> str:
    newest = max(stamps.values())
    return ", ".join(f"{name} -{newest - stamp:.3f}" for name, stamp in stamps.items())
