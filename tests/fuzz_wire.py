# SPDX-License-Identifier: Apache-2.0
"""Edits of an ONNX file's bytes that give it two meanings to two readers; all must be refused."""

from __future__ import annotations

import random
from collections.abc import Callable

Raw = Callable[[random.Random, bytes], bytes]
RAW: dict[str, Raw] = {}


def _raw(function: Raw) -> Raw:
    RAW[function.__name__] = function
    return function


@_raw
def second_graph(rng: random.Random, data: bytes) -> bytes:
    return data + b"\x3a\x02\x12\x00"  # field 7 again: lenient readers merge the two


@_raw
def second_version(rng: random.Random, data: bytes) -> bytes:
    return data + b"\x08\x0a"


@_raw
def unknown_field(rng: random.Random, data: bytes) -> bytes:
    return data + rng.choice([b"\x7a\x01x", b"\xfa\x7f\x01x", b"\x48\x01", b"\x02\x01x", b"\xfa\xff\xff\xff\x0f\x00"])


@_raw
def group_field(rng: random.Random, data: bytes) -> bytes:
    return data + b"\x7b" * rng.choice([1, 50, 10_000]) + b"\x7c"


@_raw
def overlong_number(rng: random.Random, data: bytes) -> bytes:
    return rng.choice([b"\x28\x81\x00", b"\x28" + b"\x80" * 9 + b"\x00", b"\x28" + b"\xff" * 11]) + data


@_raw
def length_lies(rng: random.Random, data: bytes) -> bytes:
    return data + b"\x12" + rng.choice([b"\x7f", b"\xff\xff\xff\xff\x07", b"\xff\xff\xff\xff\xff\xff\xff\xff\x7f"])


@_raw
def not_utf8(rng: random.Random, data: bytes) -> bytes:
    return data + b"\x22" + rng.choice([b"\x02\xff\xfe", b"\x03\xed\xa0\x80", b"\x01\x00"])
