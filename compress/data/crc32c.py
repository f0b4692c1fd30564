# SPDX-License-Identifier: Apache-2.0
"""CRC-32C (Castagnoli) of large buffers with numpy, and TFRecord's masked form of it.

The buffer is cut into lanes whose checksums advance side by side, two bytes at a time; neighbouring lanes are then
joined in pairs. Joining uses that a checksum is linear: crc(a + b) = crc(a) moved over len(b) zero bytes, xor crc(b).
"""

from __future__ import annotations

import functools

import numpy as np

_POLYNOMIAL = 0x82F63B78
_FEW = 2048  # bytes; below this one lane in plain Python is quicker
_MOST_LANES = 16384


def masked_crc32c(data: bytes | memoryview) -> int:
    """As TFRecord stores it: rotated by 15 bits, plus a constant."""
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17 & 0xFFFFFFFF)) + 0xA282EAD8) & 0xFFFFFFFF


def crc32c(data: bytes | memoryview) -> int:
    """The checksum, 32 bits."""
    count = len(data)
    if count < _FEW:
        crc, table = 0xFFFFFFFF, _byte_table()
        for byte in bytes(data):
            crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
        return crc ^ 0xFFFFFFFF
    lanes = 1 << min(_MOST_LANES.bit_length() - 1, max(1, (count // 256).bit_length()))
    pairs = -(-count // (2 * lanes))
    whole = np.zeros(lanes * pairs * 2, np.uint8)
    start = len(whole) - count  # zeros in front leave a checksum that starts from zero as it is
    whole[start:] = np.frombuffer(data, np.uint8)
    whole[start : start + 4] ^= 0xFF  # the same as starting from all ones
    words = np.ascontiguousarray(whole.view("<u2").reshape(lanes, pairs).T)
    crcs, table16 = np.zeros(lanes, np.uint32), _word_table()
    for word in words:
        crcs = table16[(crcs ^ word) & 0xFFFF] ^ (crcs >> 16)
    shift = _zeros_operator(pairs * 2)
    while len(crcs) > 1:
        crcs = _apply(shift, crcs[0::2]) ^ crcs[1::2]
        shift = _apply(shift, shift)
    return int(crcs[0]) ^ 0xFFFFFFFF


@functools.cache
def _byte_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (_POLYNOMIAL if value & 1 else 0)
        table.append(value)
    return table


@functools.cache
def _word_table() -> np.ndarray:
    """What two bytes do to a checksum, uint32 (65536,)."""
    bytes_ = np.array(_byte_table(), np.uint32)
    once = bytes_[np.arange(65536) & 0xFF] ^ (np.arange(65536, dtype=np.uint32) >> 8)
    table: np.ndarray = bytes_[once & 0xFF] ^ (once >> 8)
    return table


@functools.lru_cache(maxsize=4096)
def _zeros_operator(count: int) -> np.ndarray:
    """What `count` zero bytes do to a checksum: a 32 x 32 matrix over GF(2), one uint32 per column."""
    bits = np.uint32(1) << np.arange(32, dtype=np.uint32)
    one: np.ndarray = np.array(_byte_table(), np.uint32)[bits & 0xFF] ^ (bits >> 8)
    total, power = bits, one
    while count:
        if count & 1:
            total = _apply(power, total)
        power = _apply(power, power)
        count >>= 1
    return total


def _apply(operator: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The operator on each of `values`."""
    result = np.zeros_like(values)
    for bit in range(32):
        result ^= np.where((values >> np.uint32(bit)) & np.uint32(1), operator[bit], np.uint32(0))
    return result
