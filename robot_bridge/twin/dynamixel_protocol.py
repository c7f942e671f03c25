"""Dynamixel protocol 2.0 packets, seen from the servo's end of the wire.

``FF FF FD 00 | id | length L H | instruction | parameters | CRC L H``. The length counts everything after
itself. CRC-16 has polynomial 0x8005, starts at 0, is not reflected and covers all bytes before it. A header
pattern ``FF FF FD`` inside the body is stuffed with one more ``FD`` so that it cannot be taken for a header.
Source: ROBOTIS e-manual, "Protocol 2.0".
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

HEADER = b"\xff\xff\xfd\x00"
STUFFED = (b"\xff\xff\xfd", b"\xff\xff\xfd\xfd")
BROADCAST_ID = 0xFE
MAX_LENGTH = 1024
"""Longest length field a servo's receive buffer accepts; a larger one is line noise."""


class Code(IntEnum):
    """Instruction bytes."""

    PING = 0x01
    READ = 0x02
    WRITE = 0x03
    REG_WRITE = 0x04
    ACTION = 0x05
    FACTORY_RESET = 0x06
    REBOOT = 0x08
    CLEAR = 0x10
    STATUS = 0x55
    SYNC_READ = 0x82
    SYNC_WRITE = 0x83
    FAST_SYNC_READ = 0x8A
    BULK_READ = 0x92
    BULK_WRITE = 0x93
    FAST_BULK_READ = 0x9A


class Error(IntEnum):
    """Low seven bits of the error byte of a status packet; bit 7 (``ALERT``) says that address 70 is not zero."""

    NONE = 0
    RESULT_FAIL = 1
    INSTRUCTION = 2
    CRC = 3
    DATA_RANGE = 4
    DATA_LENGTH = 5
    DATA_LIMIT = 6
    ACCESS = 7
    ALERT = 0x80


def _table() -> tuple[int, ...]:
    entries = []
    for byte in range(256):
        value = byte << 8
        for _ in range(8):
            value = (value << 1) ^ (0x8005 if value & 0x8000 else 0)
        entries.append(value & 0xFFFF)
    return tuple(entries)


_CRC = _table()


def crc16(data: bytes, start: int = 0) -> int:
    """Protocol 2.0 CRC of ``data``, continuing from ``start``."""
    value = start
    for byte in data:
        value = ((value << 8) & 0xFF00) ^ _CRC[(value >> 8) ^ byte]
    return value


def encode(servo_id: int, code: int, parameters: bytes = b"") -> bytes:
    """One complete packet, stuffed and with CRC."""
    body = (bytes([code]) + parameters).replace(*STUFFED)
    packet = HEADER + bytes([servo_id]) + struct.pack("<H", len(body) + 2) + body
    return packet + struct.pack("<H", crc16(packet))


def encode_status(servo_id: int, error: int, data: bytes = b"") -> bytes:
    """A servo's reply."""
    return encode(servo_id, Code.STATUS, bytes([error]) + data)


def encode_fast_status(replies: Iterable[tuple[int, int, bytes]], length: int) -> bytes:
    """The single reply that several servos compose to a fast sync (or bulk) read.

    Args:
        replies: (id, error, data) in the order of the request. Each servo appends its error, id, data and the
            CRC of everything so far. These replies are not stuffed: the vendor's SDK does not unstuff them.
        length: the length field, 1 + (4 + data bytes) for every servo asked, which the first servo announces.
    """
    packet = HEADER + bytes([BROADCAST_ID]) + struct.pack("<H", length) + bytes([Code.STATUS])
    crc = crc16(packet)
    for servo_id, error, data in replies:
        part = bytes([error, servo_id]) + data
        crc = crc16(part, crc)
        part += struct.pack("<H", crc)
        packet += part
        crc = crc16(part[-2:], crc)
    return packet


@dataclass(frozen=True)
class Instruction:
    """One instruction packet as received; ``crc_ok`` False means that the parameters cannot be trusted."""

    servo_id: int
    code: int
    parameters: bytes
    crc_ok: bool
    wire_bytes: int


class InstructionParser:
    """Finds instruction packets in the byte stream of the bus."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    @property
    def pending(self) -> int:
        """Bytes of an unfinished packet."""
        return len(self._buffer)

    def reset(self) -> None:
        """Forget an unfinished packet (the line went idle in the middle of it)."""
        self._buffer.clear()

    def feed(self, data: bytes) -> list[Instruction]:
        """Add received bytes and return the packets they complete; noise before a header is dropped."""
        buffer = self._buffer
        buffer += data
        found: list[Instruction] = []
        while True:
            start = buffer.find(HEADER)
            if start < 0:
                del buffer[: max(0, len(buffer) - (len(HEADER) - 1))]
                return found
            del buffer[:start]
            if len(buffer) < 7:
                return found
            length = buffer[5] | buffer[6] << 8
            if not 3 <= length <= MAX_LENGTH:
                del buffer[: len(HEADER)]
                continue
            if len(buffer) < 7 + length:
                return found
            packet = bytes(buffer[: 7 + length])
            del buffer[: 7 + length]
            body = packet[7:-2].replace(STUFFED[1], STUFFED[0])
            crc_ok = crc16(packet[:-2]) == packet[-2] | packet[-1] << 8
            found.append(Instruction(packet[4], body[0], body[1:], crc_ok, len(packet)))
