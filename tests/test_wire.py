# SPDX-License-Identifier: Apache-2.0
"""Frames and messages: round trips, and every damaged byte is a WireError, never another error, never a big buffer."""

from __future__ import annotations

import math
import socket
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from artifact_factory import TASK, action_spec, observation, policy_spec
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.contract.chunk import ActionChunk
from runtime.errors import BackendError, ObservationError, WireError
from runtime.inference.messages import (
    MAX_ERROR_TEXT,
    MAX_INSTRUCTION,
    Ready,
    answer_limits,
    pack_chunk,
    pack_failure,
    pack_ready,
    pack_request,
    request_limits,
    unpack_chunk,
    unpack_failure,
    unpack_ready,
    unpack_request,
)
from runtime.inference.wire import HEADER_SIZE, FrameReader, Kind, pack_frame, receive, unpack_frame

SEEN, ACTED = policy_spec().observation, action_spec()
LIMITS = {**request_limits(SEEN), **answer_limits(ACTED)}
CHUNK = ActionChunk.of(np.linspace(-1.0, 1.0, 56).reshape(8, 7), ACTED, 12.625)
FRAMES = {
    Kind.READY: pack_ready(Ready("a" * 64, "b" * 64, "0" * 64)),
    Kind.REQUEST: pack_request(3, 12.625, TASK, observation(), SEEN),
    Kind.CHUNK: pack_chunk(3, CHUNK, 0.125),
    Kind.FAILURE: pack_failure(3, BackendError("the engine is gone")),
}
UNPACK = {
    Kind.READY: unpack_ready,
    Kind.REQUEST: lambda frame: unpack_request(frame, SEEN),
    Kind.CHUNK: lambda frame: unpack_chunk(frame, ACTED),
    Kind.FAILURE: unpack_failure,
}
NO_DEADLINE = settings(deadline=None)  # a busy machine is not a defect
kinds = st.sampled_from(list(Kind))


def read(data: bytes):
    """Through both layers, as the two processes do."""
    frame = unpack_frame(data, LIMITS)
    return UNPACK[frame.kind](frame)


def test_request_comes_back_bit_for_bit() -> None:
    sample = observation(4)
    request = read(pack_request(7, 3.1, "größer ⚙", sample, SEEN))
    assert (request.sequence, request.stamp_s, request.instruction) == (7, 3.1, "größer ⚙")
    assert set(request.observation) == set(sample)
    for key, value in sample.items():
        np.testing.assert_array_equal(request.observation[key], value)
        assert request.observation[key].dtype == value.dtype


def test_cameras_keep_their_order_and_views_are_copied() -> None:
    sample = observation(4)
    turned = {**sample, "wrist": sample["wrist"][::-1, ::-1]}
    frame = pack_request(1, 0.0, TASK, turned, SEEN)
    expected = turned["wrist"].copy()
    sample["wrist"][:] = 0
    np.testing.assert_array_equal(read(frame).observation["wrist"], expected)


def test_chunk_comes_back_bit_for_bit() -> None:
    answer = read(FRAMES[Kind.CHUNK])
    assert (answer.sequence, answer.infer_s) == (3, 0.125)
    assert (answer.chunk.stamp_s, answer.chunk.dt_s, answer.chunk.names) == (12.625, 0.05, ACTED.names)
    np.testing.assert_array_equal(answer.chunk.values, CHUNK.values)
    assert math.isnan(answer.round_trip_s)


def test_failure_and_ready_come_back() -> None:
    failure = read(FRAMES[Kind.FAILURE])
    assert (failure.sequence, failure.error, failure.text) == (3, "BackendError", "the engine is gone")
    assert read(FRAMES[Kind.READY]) == Ready("a" * 64, "b" * 64, "0" * 64)


def test_long_error_text_is_cut_between_characters() -> None:
    failure = read(pack_failure(1, ValueError("é" * 5000)))
    assert failure.text == "é" * (MAX_ERROR_TEXT // 2)


@NO_DEADLINE
@given(kinds, st.data())
def test_cut_frame_is_refused(kind: Kind, data: st.DataObject) -> None:
    frame = FRAMES[kind]
    with pytest.raises(WireError):
        read(frame[: data.draw(st.integers(0, len(frame) - 1))])


@NO_DEADLINE
@given(kinds, st.data(), st.integers(1, 255))
def test_flipped_bits_are_refused(kind: Kind, data: st.DataObject, mask: int) -> None:
    frame = bytearray(FRAMES[kind])
    frame[data.draw(st.integers(0, len(frame) - 1))] ^= mask
    with pytest.raises(WireError):
        read(bytes(frame))


@pytest.mark.parametrize("kind", list(Kind))
@pytest.mark.parametrize("place", range(HEADER_SIZE))
def test_every_header_byte_counts(kind: Kind, place: int) -> None:
    frame = bytearray(FRAMES[kind])
    frame[place] ^= 0x40
    with pytest.raises(WireError):
        read(bytes(frame))


@NO_DEADLINE
@given(kinds, st.binary(min_size=1, max_size=64))
def test_bytes_after_a_frame_are_refused(kind: Kind, more: bytes) -> None:
    with pytest.raises(WireError):
        read(FRAMES[kind] + more)


@NO_DEADLINE
@given(st.binary(max_size=512))
def test_noise_is_refused(noise: bytes) -> None:
    with pytest.raises(WireError):
        read(noise)


@NO_DEADLINE
@given(kinds, st.binary(max_size=1500), st.data())
def test_payload_with_right_checksums_and_wrong_content_is_refused(
    kind: Kind, payload: bytes, data: st.DataObject
) -> None:
    """A peer that computes its checksums and still lies: only WireError may come out, or a message that is valid."""
    good = FRAMES[kind][HEADER_SIZE:]
    at = data.draw(st.integers(0, len(good)))
    spoilt = good[:at] + payload + good[at + len(payload) :]
    try:
        message = read(pack_frame(kind, 1, [spoilt]))
    except WireError:
        return
    if kind is Kind.CHUNK:
        assert np.isfinite(message.chunk.values).all()
        assert message.chunk.values.shape == (8, 7)
    assert message is not None


@NO_DEADLINE
@given(kinds, st.data())
def test_frames_survive_any_fragmentation(kind: Kind, data: st.DataObject) -> None:
    stream = FRAMES[kind] + FRAMES[Kind.FAILURE]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    reader, frames = FrameReader(LIMITS), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        reader.feed(stream[start:end])
        while (frame := reader.take()) is not None:
            frames.append(frame)
    assert [frame.kind for frame in frames] == [kind, Kind.FAILURE]
    assert reader.pending == 0


def header(length: int, kind: int = Kind.CHUNK) -> bytes:
    """A header that is right in every respect, for a payload of `length` bytes."""
    fields = struct.pack("<4sHHQII", b"DGPW", 1, kind, 1, length, 0)
    return fields + struct.pack("<I", zlib.crc32(fields))


@pytest.mark.parametrize("length", [max(LIMITS.values()) + 1, 2**31, 2**32 - 1])
def test_announced_giant_is_refused_before_anything_is_reserved(length: int) -> None:
    reader = FrameReader(LIMITS)
    tracemalloc.start()
    try:
        reader.feed(header(length))
        with pytest.raises(WireError, match=rf"CHUNK frame: found {length} bytes, expected at most 252"):
            reader.take()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000


def test_kind_that_this_side_does_not_take_is_refused() -> None:
    with pytest.raises(WireError, match=r"found kind 2, expected one of \['READY', 'CHUNK', 'FAILURE'\]"):
        unpack_frame(FRAMES[Kind.REQUEST], answer_limits(ACTED))
    with pytest.raises(WireError, match=r"found kind 3, expected one of \['REQUEST'\]"):
        unpack_frame(FRAMES[Kind.CHUNK], request_limits(SEEN))
    with pytest.raises(WireError, match=r"found kind 9"):
        unpack_frame(header(0, kind=9), LIMITS)
    with pytest.raises(WireError, match=r"found CHUNK, expected READY"):
        unpack_ready(unpack_frame(FRAMES[Kind.CHUNK], LIMITS))


def test_other_version_is_named() -> None:
    frame = bytearray(FRAMES[Kind.READY])
    frame[4] = 2
    with pytest.raises(WireError, match="found version 2, expected 1; install the same runtime on both sides"):
        read(bytes(frame))


CHUNK_LIES = {
    "nan": ((1.0, 0.05, 0.1, 8, 7), math.nan, "expected finite numbers"),
    "infinity": ((1.0, 0.05, 0.1, 8, 7), math.inf, "expected finite numbers"),
    "stamp": ((math.nan, 0.05, 0.1, 8, 7), 0.0, "found stamp_s nan"),
    "transposed": ((1.0, 0.05, 0.1, 7, 8), 0.0, r"expected \(8, 7\) rows of 0.05 s"),
    "other dt": ((1.0, 0.04, 0.1, 8, 7), 0.0, r"expected \(8, 7\) rows of 0.05 s"),
    "negative time": ((1.0, 0.05, -0.1, 8, 7), 0.0, "expected a finite infer_s >= 0"),
    "no time": ((1.0, 0.05, math.nan, 8, 7), 0.0, "expected a finite infer_s >= 0"),
}


@pytest.mark.parametrize("name", CHUNK_LIES)
def test_chunk_that_is_not_the_specs_is_refused(name: str) -> None:
    head, last, message = CHUNK_LIES[name]
    values = np.array([0.0] * 55 + [last], dtype="<f4")
    with pytest.raises(WireError, match=message):
        read(pack_frame(Kind.CHUNK, 1, [struct.pack("<dddHH", *head), values.tobytes()]))


def test_request_that_is_not_the_specs_is_refused() -> None:
    payload = FRAMES[Kind.REQUEST][HEADER_SIZE:]
    size = len(payload)
    with pytest.raises(WireError, match=rf"found {size} bytes, expected {size + 1} bytes"):
        read(pack_frame(Kind.REQUEST, 1, [payload[:8], struct.pack("<H", len(TASK) + 1), payload[10:]]))
    with pytest.raises(WireError, match="expected a finite stamp_s"):
        read(pack_frame(Kind.REQUEST, 1, [struct.pack("<d", math.inf), payload[8:]]))
    with pytest.raises(WireError, match="text is not UTF-8"):
        read(pack_frame(Kind.REQUEST, 1, [payload[:10], b"\xff", payload[11:]]))


BAD_QUESTIONS = {
    "late": ({"stamp_s": math.nan}, "stamp_s: found nan, expected the finite time"),
    "mute": ({"instruction": "  "}, "instruction: found 2 bytes, expected text"),
    "talkative": ({"instruction": "é" * (MAX_INSTRUCTION // 2 + 1)}, "found 1026 bytes, expected text, at most 1024"),
    "surrogate": ({"instruction": "\ud800"}, "instruction: found text that is not Unicode"),
    "blind": ({"observation": {"state": np.zeros(8)}}, r"missing \['agentview', 'wrist'\]"),
    "float image": ({"observation": {**observation(), "wrist": np.zeros((16, 12, 3))}}, r"\['wrist'\]: found float64"),
    "short state": ({"observation": {**observation(), "state": np.zeros(7)}}, r"\['state'\]: found float64 \(7,\)"),
    "nan state": ({"observation": {**observation(), "state": np.full(8, np.nan)}}, r"\['state'\]\['x'\]: found nan"),
}


@pytest.mark.parametrize("name", BAD_QUESTIONS)
def test_question_that_the_policy_would_refuse_is_not_sent(name: str) -> None:
    changes, message = BAD_QUESTIONS[name]
    question = {"stamp_s": 0.0, "instruction": TASK, "observation": observation(), **changes}
    with pytest.raises(ObservationError, match=message):
        pack_request(1, spec=SEEN, **question)


def test_longest_instruction_passes() -> None:
    text = "é" * (MAX_INSTRUCTION // 2)
    assert read(pack_request(1, 0.0, text, observation(), SEEN)).instruction == text


@pytest.mark.parametrize("sequence", [-1, 2**64])
def test_sequence_outside_the_field_is_refused(sequence: int) -> None:
    with pytest.raises(WireError, match="expected both to fit u64 and u32"):
        pack_frame(Kind.READY, sequence, [])


def test_end_of_stream_is_clean_only_between_frames() -> None:
    for data, expected in ((FRAMES[Kind.READY], None), (FRAMES[Kind.READY][:-1], "closed after 123 bytes")):
        here, there = socket.socketpair()
        with here:
            there.sendall(FRAMES[Kind.CHUNK] + data)
            there.close()
            reader = FrameReader(LIMITS)
            assert receive(here, reader).kind is Kind.CHUNK
            if expected is None:
                assert receive(here, reader).kind is Kind.READY
                assert receive(here, reader) is None
            else:
                with pytest.raises(WireError, match=expected):
                    receive(here, reader)
