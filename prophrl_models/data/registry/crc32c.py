"""CRC-32C (Castagnoli), as TFRecord files use it, in NumPy: a loop over bytes would take minutes per episode.

A CRC is linear over GF(2), so the data is cut into equal lanes that are processed side by side, two bytes at a time,
and the lanes' results are joined with the operator that says what appending n zero bytes does to a CRC.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_POLYNOMIAL = 0x82F63B78
_LANE_BYTES = 256
_BLOCK_BYTES = 1 << 18
_Words = NDArray[np.uint32]


def _byte_table() -> _Words:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(_POLYNOMIAL), table >> 1).astype(np.uint32)
    return table


def _pair_table(table: _Words) -> _Words:
    """What two bytes (the first in the low half) leave of a CRC: [65536]."""
    pairs = np.arange(65536, dtype=np.uint32)
    after_first = table[pairs & 0xFF] ^ (pairs >> 8)
    return np.asarray(table[after_first & 0xFF] ^ (after_first >> 8), dtype=np.uint32)


_TABLE = _byte_table()
_PAIRS = _pair_table(_TABLE)


def crc32c(data: bytes | memoryview) -> int:
    """CRC-32C of some bytes (``crc32c(b"123456789") == 0xE3069283``)."""
    count = len(data)
    return _append_zeros(0xFFFFFFFF, count) ^ _linear(np.frombuffer(data, np.uint8)) ^ 0xFFFFFFFF


def masked_crc32c(data: bytes | memoryview) -> int:
    """The rotated and offset form that TFRecord stores."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _linear(data: NDArray[np.uint8]) -> int:
    """CRC with a zero start and no final inversion, block by block so that the work stays in the processor's cache."""
    first = len(data) % _BLOCK_BYTES
    crc = _block(data[:first])
    for start in range(first, len(data), _BLOCK_BYTES):
        before = int(_apply(_zeros_operator(_BLOCK_BYTES), np.array([crc], np.uint32))[0])
        crc = before ^ _block(data[start : start + _BLOCK_BYTES])
    return crc


def _block(data: NDArray[np.uint8]) -> int:
    """The same for one block; zeros in front of the data do not change it, so they fill up the first lane."""
    lanes = 1
    while lanes * _LANE_BYTES < len(data):
        lanes *= 2
    padded = np.zeros(lanes * _LANE_BYTES, np.uint8)
    padded[len(padded) - len(data) :] = data
    state = np.zeros(lanes, np.uint32)
    for column in np.ascontiguousarray(padded.view("<u2").reshape(lanes, _LANE_BYTES // 2).T):
        state = (state >> 16) ^ _PAIRS.take((state & 0xFFFF) ^ column)
    length = _LANE_BYTES
    while len(state) > 1:
        state = _apply(_zeros_operator(length), state[0::2]) ^ state[1::2]
        length *= 2
    return int(state[0])


def _append_zeros(crc: int, count: int) -> int:
    """What a CRC becomes when ``count`` zero bytes follow."""
    state, power = np.array([crc], np.uint32), 1
    while count:
        if count & 1:
            state = _apply(_zeros_operator(power), state)
        count, power = count >> 1, power * 2
    return int(state[0])


@lru_cache(maxsize=64)
def _zeros_operator(count: int) -> _Words:
    """Appending ``count`` zero bytes (a power of two) as four tables [4, 256], one per byte of the CRC."""
    if count == 1:
        basis = np.left_shift(np.uint32(1), np.arange(32, dtype=np.uint32))
        columns = (basis >> 8) ^ _TABLE[basis & 0xFF]
    else:
        half = _zeros_operator(count // 2)
        basis = np.left_shift(np.uint32(1), np.arange(32, dtype=np.uint32))
        columns = _apply(half, _apply(half, basis))
    values = np.arange(256, dtype=np.uint32)
    tables = np.zeros((4, 256), np.uint32)
    for byte in range(4):
        for bit in range(8):
            tables[byte] ^= np.where(values >> bit & 1, columns[8 * byte + bit], 0).astype(np.uint32)
    return tables


def _apply(tables: _Words, state: _Words) -> _Words:
    parts = (tables[byte][state >> (8 * byte) & 0xFF] for byte in range(4))
    return np.asarray(np.bitwise_xor.reduce(np.stack(list(parts)), axis=0), dtype=np.uint32)
