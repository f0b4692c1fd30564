# SPDX-License-Identifier: Apache-2.0
"""What controller and policy worker say to each other, as frame payloads of fixed layout (little-endian).

    READY    worker   artifact id, policy id, manifest digest: three SHA-256 of 32 bytes
    REQUEST  client   stamp_s f64, instruction length u16, instruction UTF-8, images as raw bytes in the spec's order,
                      state f64 (S,): as float64, so that the worker answers exactly what the policy would in process;
                      for a graph that can be guided, and if there is guidance: commands f32 (H, D), weights f32 (H,)
    CHUNK    worker   stamp_s f64, dt_s f64, infer_s f64, H u16, D u16, commands f32 (H, D)
    FAILURE  worker   class length u16, text length u16, class name ASCII, text UTF-8; sequence 0: it could not start

Sizes follow from the specs that both sides read from the same manifest, so nothing on the wire decides an allocation.
A payload that is not exactly this raises WireError.
"""

from __future__ import annotations

import hashlib
import math
import struct
from dataclasses import dataclass

import numpy as np

from runtime.contract.action import ActionSpec
from runtime.contract.artifact import Artifact
from runtime.contract.chunk import ActionChunk
from runtime.contract.guidance import Guidance
from runtime.contract.spec import ObservationSpec
from runtime.errors import ContractError, ObservationError, PolicyOutputError, WireError
from runtime.inference.preprocess import Observation, check_keys, checked_image, checked_state
from runtime.inference.previous import NOT_GUIDED
from runtime.inference.wire import Frame, Kind, Part, pack_frame

MAX_INSTRUCTION = 1024  # bytes of UTF-8
MAX_ERROR_NAME, MAX_ERROR_TEXT = 64, 2000  # bytes
_READY = struct.Struct("<32s32s32s")
_REQUEST = struct.Struct("<dH")
_CHUNK = struct.Struct("<dddHH")
_FAILURE = struct.Struct("<HH")


@dataclass(frozen=True)
class Ready:
    """Which artifact the worker has loaded and verified: digests as 64 hexadecimal digits."""

    artifact_id: str
    policy_id: str
    manifest_sha256: str

    @classmethod
    def of(cls, artifact: Artifact) -> Ready:
        """What a worker that loaded `artifact` says."""
        digest = hashlib.sha256(artifact.manifest_bytes).hexdigest()
        return cls(artifact.manifest.artifact_id, artifact.manifest.policy_id, digest)


@dataclass(frozen=True, eq=False)
class Request:
    """One question: the observation taken at `stamp_s` [s], the instruction, and what is being executed meanwhile.

    Arrays are read-only.
    """

    sequence: int
    stamp_s: float
    instruction: str
    observation: Observation
    guidance: Guidance | None = None


@dataclass(frozen=True, eq=False)
class Answer:
    """A chunk that answers request `sequence`.

    `infer_s` [s] is the policy's own time; `round_trip_s` [s] is from request to its arrival on the client's clock.
    """

    sequence: int
    chunk: ActionChunk
    infer_s: float
    round_trip_s: float = math.nan


@dataclass(frozen=True)
class Failure:
    """Request `sequence` has no chunk: class of the error and its text. 0: the worker could not start."""

    sequence: int
    error: str
    text: str


def request_limits(spec: ObservationSpec, guided: ActionSpec | None = None) -> dict[Kind, int]:
    """What a worker accepts: the largest payload per kind [bytes]; `guided` is as for `unpack_request`."""
    return {Kind.REQUEST: _REQUEST.size + MAX_INSTRUCTION + _observation_size(spec) + _guidance_size(guided)}


def answer_limits(spec: ActionSpec) -> dict[Kind, int]:
    """What a client accepts: the largest payload per kind [bytes]."""
    failure = _FAILURE.size + MAX_ERROR_NAME + MAX_ERROR_TEXT
    return {Kind.READY: _READY.size, Kind.CHUNK: _CHUNK.size + _chunk_size(spec), Kind.FAILURE: failure}


def pack_ready(ready: Ready) -> bytes:
    """A READY frame; its sequence is 0."""
    digests = (ready.artifact_id, ready.policy_id, ready.manifest_sha256)
    return pack_frame(Kind.READY, 0, [_READY.pack(*(bytes.fromhex(digest) for digest in digests))])


def unpack_ready(frame: Frame) -> Ready:
    """The digests; WireError for another size."""
    _expect(frame, Kind.READY, len(frame.payload) == _READY.size, f"{_READY.size} bytes")
    return Ready(*(digest.hex() for digest in _READY.unpack(frame.payload)))


def pack_request(
    sequence: int, stamp_s: float, instruction: str, observation: Observation, spec: ObservationSpec,
    guidance: Guidance | None = None, guided: ActionSpec | None = None,
) -> bytes:  # fmt: skip
    """A REQUEST frame, a copy of the observation; `guided` is as for `unpack_request`. ObservationError names what the
    policy would refuse."""
    if not math.isfinite(stamp_s):
        raise ObservationError(f"stamp_s: found {stamp_s}, expected the finite time [s] of the observation")
    try:
        text = instruction.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ObservationError(f"instruction: found text that is not Unicode ({error})") from error
    if not text.strip() or len(text) > MAX_INSTRUCTION:
        raise ObservationError(f"instruction: found {len(text)} bytes, expected text, at most {MAX_INSTRUCTION} bytes")
    check_keys(observation, spec)
    images = [np.ascontiguousarray(checked_image(observation[image.key], image)) for image in spec.images]
    state = checked_state(observation[spec.state.key], spec.state).astype("<f8")
    parts: list[Part] = [_REQUEST.pack(stamp_s, len(text)), text, *(image.data.cast("B") for image in images)]
    return pack_frame(Kind.REQUEST, sequence, [*parts, state.tobytes(), *_guidance_parts(guidance, guided)])


def _guidance_parts(guidance: Guidance | None, guided: ActionSpec | None) -> list[Part]:
    if guidance is None:
        return []
    if guided is None:
        raise ObservationError(NOT_GUIDED)
    try:
        guidance.require(guided)
    except ContractError as error:
        raise ObservationError(str(error)) from error
    return [values.astype("<f4").tobytes() for values in (guidance.commands, guidance.weights)]


def unpack_request(frame: Frame, spec: ObservationSpec, guided: ActionSpec | None = None) -> Request:
    """The question; WireError unless it has exactly the spec's size. Values are the policy's to judge.

    `guided`: of a graph that can be guided its action spec, None for any other. The size says if there is guidance,
    which must be finite, with weights of 0 to 1.
    """
    data = frame.payload
    _expect(frame, Kind.REQUEST, len(data) >= _REQUEST.size, f"at least {_REQUEST.size} bytes")
    stamp_s, length = _REQUEST.unpack_from(data)
    size = _REQUEST.size + length + _observation_size(spec)
    more = _guidance_size(guided)
    fits = len(data) in (size, size + more)
    _expect(
        frame, Kind.REQUEST, length <= MAX_INSTRUCTION and fits, f"{size} bytes" + f" or {size + more}" * bool(more)
    )
    _expect(frame, Kind.REQUEST, math.isfinite(stamp_s), "a finite stamp_s")
    start = _REQUEST.size + length
    instruction = _text(frame, data[_REQUEST.size : start])
    observation = {}
    for image in spec.images:
        pixels = np.frombuffer(data, dtype=np.uint8, count=math.prod(image.shape), offset=start)
        observation[image.key] = pixels.reshape(image.shape)
        start += pixels.nbytes
    state = np.frombuffer(data, dtype="<f8", count=spec.state.dim, offset=start)
    observation[spec.state.key] = state.astype(np.float64)  # aligned and of native order
    guidance = _guidance(frame, start + state.nbytes, guided) if len(data) > size else None
    return Request(frame.sequence, stamp_s, instruction, observation, guidance)


def _guidance(frame: Frame, start: int, guided: ActionSpec | None) -> Guidance:
    assert guided is not None  # or the size would not have been right
    count = guided.horizon * guided.dim
    commands = np.frombuffer(frame.payload, dtype="<f4", count=count, offset=start).reshape(guided.horizon, guided.dim)
    weights = np.frombuffer(frame.payload, dtype="<f4", count=guided.horizon, offset=start + commands.nbytes)
    try:
        return Guidance(commands, weights)
    except ContractError as error:
        raise WireError(f"REQUEST frame {frame.sequence}: {error}") from error


def pack_chunk(sequence: int, chunk: ActionChunk, infer_s: float) -> bytes:
    """A CHUNK frame."""
    rows, columns = chunk.values.shape
    head = _CHUNK.pack(chunk.stamp_s, chunk.dt_s, infer_s, rows, columns)
    return pack_frame(Kind.CHUNK, sequence, [head, chunk.values.astype("<f4").tobytes()])


def unpack_chunk(frame: Frame, spec: ActionSpec) -> Answer:
    """The answer; WireError unless it is finite and exactly of the spec's horizon, dimensions and `dt_s`."""
    size = _CHUNK.size + _chunk_size(spec)
    _expect(frame, Kind.CHUNK, len(frame.payload) == size, f"{size} bytes")
    stamp_s, dt_s, infer_s, rows, columns = _CHUNK.unpack_from(frame.payload)
    expected = f"({spec.horizon}, {spec.dim}) rows of {spec.dt_s} s"
    _expect(frame, Kind.CHUNK, (rows, columns, dt_s) == (spec.horizon, spec.dim, spec.dt_s), expected)
    _expect(frame, Kind.CHUNK, math.isfinite(infer_s) and infer_s >= 0.0, "a finite infer_s >= 0")
    values = np.frombuffer(frame.payload, dtype="<f4", offset=_CHUNK.size).reshape(rows, columns)
    try:
        return Answer(frame.sequence, ActionChunk.of(values, spec, stamp_s), infer_s)
    except PolicyOutputError as error:
        raise WireError(f"CHUNK frame {frame.sequence}: {error}") from error


def pack_failure(sequence: int, error: BaseException) -> bytes:
    """A FAILURE frame; a text that is too long is cut."""
    name = type(error).__name__.encode("ascii", "replace")[:MAX_ERROR_NAME]
    text = str(error).encode("utf-8", "replace")[:MAX_ERROR_TEXT].decode("utf-8", "ignore").encode()
    return pack_frame(Kind.FAILURE, sequence, [_FAILURE.pack(len(name), len(text)), name, text])


def unpack_failure(frame: Frame) -> Failure:
    """The error's class and text; WireError for sizes that do not add up or text that is not UTF-8."""
    data = frame.payload
    _expect(frame, Kind.FAILURE, len(data) >= _FAILURE.size, f"at least {_FAILURE.size} bytes")
    name, text = _FAILURE.unpack_from(data)
    size = _FAILURE.size + name + text
    fits = name <= MAX_ERROR_NAME and text <= MAX_ERROR_TEXT and len(data) == size
    _expect(frame, Kind.FAILURE, fits, f"{size} bytes")
    start = _FAILURE.size + name
    return Failure(frame.sequence, _text(frame, data[_FAILURE.size : start]), _text(frame, data[start:]))


def _observation_size(spec: ObservationSpec) -> int:
    return sum(math.prod(image.shape) for image in spec.images) + 8 * spec.state.dim


def _guidance_size(guided: ActionSpec | None) -> int:
    return 0 if guided is None else _chunk_size(guided) + 4 * guided.horizon


def _chunk_size(spec: ActionSpec) -> int:
    return 4 * spec.horizon * spec.dim


def _text(frame: Frame, data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise WireError(f"{frame.kind.name} frame {frame.sequence}: text is not UTF-8 ({error})") from error


def _expect(frame: Frame, kind: Kind, holds: bool, expected: str) -> None:
    if frame.kind is not kind:
        raise WireError(f"frame {frame.sequence}: found {frame.kind.name}, expected {kind.name}")
    if not holds:
        found = f"{len(frame.payload)} bytes"
        raise WireError(f"{kind.name} frame {frame.sequence}: found {found}, expected {expected}")
