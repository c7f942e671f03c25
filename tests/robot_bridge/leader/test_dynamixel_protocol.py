"""Packets on the servo bus, compared with the vendor's SDK where it exposes the same computation."""

from __future__ import annotations

import random

from dynamixel_sdk import Protocol2PacketHandler

from robot_bridge.twin.dynamixel_protocol import (
    Code,
    InstructionParser,
    crc16,
    encode,
    encode_fast_status,
    encode_status,
)


def test_crc_equals_the_sdks_table() -> None:
    rng = random.Random(1)
    sdk = Protocol2PacketHandler()
    for length in (1, 2, 7, 64, 200):
        data = rng.randbytes(length)
        assert crc16(data) == sdk.updateCRC(0, data, length)


def test_ping_packet_equals_the_manuals_example() -> None:
    assert encode(1, Code.PING) == bytes.fromhex("FF FF FD 00 01 03 00 01 19 4E")


def test_status_of_ping_equals_the_manuals_example() -> None:
    # ID 1, model 1030 (0x0406), firmware 38: the e-manual's example reply.
    assert encode_status(1, 0, bytes([0x06, 0x04, 0x26])) == bytes.fromhex("FF FF FD 00 01 07 00 55 00 06 04 26 65 5D")


def test_header_inside_the_parameters_is_stuffed_and_survives_the_round_trip() -> None:
    parameters = b"\x74\x00\xff\xff\xfd\x00\xff\xff\xfd"
    packet = encode(3, Code.WRITE, parameters)
    assert packet.count(b"\xff\xff\xfd\xfd") == 2
    (instruction,) = InstructionParser().feed(packet)
    assert (instruction.servo_id, instruction.code, instruction.parameters) == (3, Code.WRITE, parameters)
    assert instruction.crc_ok


def test_random_parameters_survive_the_round_trip_when_cut_anywhere() -> None:
    rng = random.Random(2)
    for _ in range(200):
        parameters = bytes(rng.choice((0xFF, 0xFD, 0x00, 0x55)) for _ in range(rng.randrange(1, 40)))
        packet = encode(rng.randrange(253), Code.WRITE, parameters)
        cut = rng.randrange(len(packet))
        parser = InstructionParser()
        found = parser.feed(packet[:cut]) + parser.feed(packet[cut:])
        assert [instruction.parameters for instruction in found] == [parameters]
        assert parser.pending == 0


def test_noise_before_and_between_packets_is_dropped() -> None:
    parser = InstructionParser()
    stream = b"\x00\xff\xff\x12" + encode(1, Code.PING) + b"\xff\xff\xfd" + encode(2, Code.PING)
    assert [instruction.servo_id for instruction in parser.feed(stream)] == [1, 2]


def test_absurd_length_does_not_swallow_the_next_packet() -> None:
    parser = InstructionParser()
    assert [i.servo_id for i in parser.feed(b"\xff\xff\xfd\x00\x01\xff\xff\x02" + encode(2, Code.PING))] == [2]


def test_flipped_bit_is_noticed() -> None:
    packet = bytearray(encode(1, Code.READ, b"\x84\x00\x04\x00"))
    packet[9] ^= 0x01
    (instruction,) = InstructionParser().feed(bytes(packet))
    assert not instruction.crc_ok


def test_fast_status_carries_a_running_crc_after_each_servo() -> None:
    packet = encode_fast_status([(1, 0, b"\x10\x20"), (2, 0x80, b"\x30\x40")], length=1 + 2 * 6)
    assert packet[5] | packet[6] << 8 == len(packet) - 7
    first_end = 8 + 4
    assert crc16(packet[:first_end]) == packet[first_end] | packet[first_end + 1] << 8
    assert crc16(packet[:-2]) == packet[-2] | packet[-1] << 8
