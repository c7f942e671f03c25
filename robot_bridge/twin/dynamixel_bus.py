"""The half-duplex servo bus: what the servos answer to each instruction, and when the answer is on the wire.

No input or output here: bytes and times go in, bytes with due times come out. A reply is due when its last
byte would have crossed the wire: request bytes, return delay of the servo and reply bytes, 10 bits each at the
line's baud rate. Servos set to another baud rate hear only noise and stay silent.

In a sync read each servo waits for the packet of the one before it, so a missing servo silences those after it.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from random import Random

from robot_bridge.twin.dynamixel_protocol import (
    BROADCAST_ID,
    Code,
    Error,
    Instruction,
    InstructionParser,
    encode_fast_status,
    encode_status,
)
from robot_bridge.twin.xl330 import TORQUE_ENABLE, ServoRefusal, Xl330

_IDLE_RESET_S = 0.1
_GROUP_CODES = (Code.SYNC_READ, Code.FAST_SYNC_READ, Code.SYNC_WRITE)
_CLEAR_KEY = b"\x01\x44\x58\x4c\x22"
Reply = tuple[float, bytes]
"""Delay before the packet starts in seconds, and the packet."""


@dataclass
class BusFaults:
    """What is wrong with the wire; all off by default."""

    silent: bool = False
    missing: set[int] = field(default_factory=set)
    crc_error_rate: float = 0.0
    timeout_rate: float = 0.0
    no_fast_read: bool = False


class DynamixelBus:
    """Seven (or any number of) servos that share one line.

    Args:
        servos: in the order in which they sit on the bus.
        timed: False answers at once, without bus timing.
        before_access: called with the time before any instruction is carried out, so that shafts are up to date.
    """

    def __init__(
        self,
        servos: Sequence[Xl330],
        *,
        timed: bool = True,
        before_access: Callable[[float], None] | None = None,
        seed: int = 0,
    ) -> None:
        self.servos = list(servos)
        self.faults = BusFaults()
        self.instructions = 0
        self._timed = timed
        self._before_access = before_access
        self._parser = InstructionParser()
        self._outbox: deque[tuple[float, bytes]] = deque()
        self._registered: dict[int, tuple[int, bytes]] = {}
        self._random = Random(seed)
        self._last_bytes_s = 0.0

    @property
    def next_due_s(self) -> float | None:
        """When the next reply must be written, or None."""
        return self._outbox[0][0] if self._outbox else None

    def take_due(self, now_s: float) -> list[bytes]:
        """Replies whose time has come, in order."""
        packets = []
        while self._outbox and self._outbox[0][0] <= now_s:
            packets.append(self._outbox.popleft()[1])
        return packets

    def receive(self, data: bytes, now_s: float, line_baud: int) -> None:
        """Take bytes that the client wrote at ``now_s`` while its port was set to ``line_baud``."""
        if now_s - self._last_bytes_s > _IDLE_RESET_S:
            self._parser.reset()
        self._last_bytes_s = now_s
        for instruction in self._parser.feed(data):
            self.instructions += 1
            if self._before_access is not None:
                self._before_access(now_s)
            replies = self._answer(instruction, now_s, line_baud)
            if self.faults.timeout_rate and self._random.random() < self.faults.timeout_rate:
                continue
            self._schedule(replies, now_s, instruction.wire_bytes, line_baud)

    def _schedule(self, replies: Iterable[Reply], now_s: float, request_bytes: int, baud: int) -> None:
        byte_s = 10.0 / baud if self._timed else 0.0
        time_s = max(now_s, self._outbox[-1][0] if self._outbox else 0.0) + request_bytes * byte_s
        for delay_s, packet in replies:
            time_s += (delay_s if self._timed else 0.0) + len(packet) * byte_s
            if self.faults.crc_error_rate and self._random.random() < self.faults.crc_error_rate:
                spoiled = bytearray(packet)
                spoiled[self._random.randrange(8, len(packet))] ^= 0x10
                packet = bytes(spoiled)
            self._outbox.append((time_s, packet))

    def _answer(self, instruction: Instruction, now_s: float, baud: int) -> list[Reply]:
        servos = self._hearing(now_s, baud)
        code, body = instruction.code, instruction.parameters
        if code in _GROUP_CODES and len(body) < 4:
            return []
        if not instruction.crc_ok:
            heard = [s for s in servos if s.servo_id == instruction.servo_id]
            return [(s.return_delay_s, encode_status(s.servo_id, Error.CRC | s.alert)) for s in heard]
        if code in (Code.SYNC_READ, Code.FAST_SYNC_READ):
            address, length = struct.unpack_from("<HH", body)
            wanted = [(servo_id, address, length) for servo_id in body[4:]]
            return self._read_group(servos, wanted, fast=code == Code.FAST_SYNC_READ, now_s=now_s)
        if code in (Code.BULK_READ, Code.FAST_BULK_READ):
            wanted = [struct.unpack_from("<BHH", body, i) for i in range(0, len(body) - 4, 5)]
            return self._read_group(servos, wanted, fast=code == Code.FAST_BULK_READ, now_s=now_s)
        if code == Code.SYNC_WRITE:
            address, length = struct.unpack_from("<HH", body)
            stride = length + 1
            for i in range(4, len(body) - length, stride):
                self._write_silently(servos, body[i], address, body[i + 1 : i + stride])
            return []
        if code == Code.BULK_WRITE:
            i = 0
            while i + 5 <= len(body):
                servo_id, address, length = struct.unpack_from("<BHH", body, i)
                self._write_silently(servos, servo_id, address, body[i + 5 : i + 5 + length])
                i += 5 + length
            return []
        broadcast = instruction.servo_id == BROADCAST_ID
        addressed = [s for s in servos if broadcast or s.servo_id == instruction.servo_id]
        replies = []
        for servo in addressed:
            # The reply leaves with the id and delay from before the instruction took effect.
            servo_id, delay_s, level = servo.servo_id, servo.return_delay_s, servo.status_return_level
            try:
                data, error = self._carry_out(servo, code, body, now_s), Error.NONE
            except ServoRefusal as refusal:
                data, error = b"", refusal.error
            needed = 0 if code == Code.PING else 1 if code == Code.READ else 2
            if level >= needed and (not broadcast or code == Code.PING):
                replies.append((delay_s, encode_status(servo_id, error | servo.alert, data)))
        return replies

    def _carry_out(self, servo: Xl330, code: int, body: bytes, now_s: float) -> bytes:
        if code == Code.PING:
            return servo.read(0, 2, now_s) + servo.read(6, 1, now_s)
        if code == Code.READ:
            if len(body) != 4:
                raise ServoRefusal(Error.DATA_LENGTH)
            address, length = struct.unpack("<HH", body)
            return servo.read(address, length, now_s)
        if code in (Code.WRITE, Code.REG_WRITE):
            if len(body) < 3:
                raise ServoRefusal(Error.DATA_LENGTH)
            address, data = body[0] | body[1] << 8, body[2:]
            if code == Code.WRITE:
                servo.write(address, data)
            else:
                self._registered[servo.servo_id] = (address, data)
                servo.poke(69, 1)
        elif code == Code.ACTION:
            if servo.servo_id in self._registered:
                servo.write(*self._registered.pop(servo.servo_id))
                servo.poke(69, 0)
        elif code == Code.REBOOT:
            servo.reboot(now_s)
        elif code == Code.CLEAR and body == _CLEAR_KEY:
            servo.clear_turns()
        elif code == Code.FACTORY_RESET and len(body) == 1:
            if servo.peek(TORQUE_ENABLE):
                raise ServoRefusal(Error.ACCESS)
            servo.factory_reset(body[0], now_s)
        else:
            raise ServoRefusal(Error.INSTRUCTION)
        return b""

    def _read_group(
        self, servos: list[Xl330], wanted: Sequence[tuple[int, int, int]], *, fast: bool, now_s: float
    ) -> list[Reply]:
        if fast and self.faults.no_fast_read:
            return []
        by_id = {servo.servo_id: servo for servo in servos}
        parts: list[tuple[Xl330, int, bytes]] = []
        for servo_id, address, length in wanted:
            servo = by_id.get(servo_id)
            if servo is None:
                break
            try:
                parts.append((servo, Error.NONE | servo.alert, servo.read(address, length, now_s)))
            except ServoRefusal as refusal:
                parts.append((servo, refusal.error | servo.alert, bytes(length if fast else 0)))
        if not parts:
            return []
        if not fast:
            return [(s.return_delay_s, encode_status(s.servo_id, error, data)) for s, error, data in parts]
        # The first servo announces the length for all, even if one after it is missing and the rest stay silent.
        announced = 1 + sum(4 + length for _, _, length in wanted)
        packet = encode_fast_status(((s.servo_id, error, data) for s, error, data in parts), announced)
        return [(parts[0][0].return_delay_s, packet)]

    def _write_silently(self, servos: list[Xl330], servo_id: int, address: int, data: bytes) -> None:
        for servo in servos:
            if servo.servo_id == servo_id:
                try:
                    servo.write(address, data)
                except ServoRefusal:
                    continue  # group writes are never answered; the real servo drops them as well

    def _hearing(self, now_s: float, baud: int) -> list[Xl330]:
        if self.faults.silent:
            return []
        return [
            servo
            for servo in self.servos
            if servo.baud_rate == baud and servo.alive(now_s) and servo.servo_id not in self.faults.missing
        ]
