"""One XL330-M288 servo: control table, access rules, and an output shaft that a hand may turn.

Source: ROBOTIS e-manual, "XL330-M288-T", control table. EEPROM (addresses below 64) survives a power cycle and
can be written only with torque off. The magnetic encoder is absolute within one turn; the register counts on
over many turns, but forgets whole turns when power is lost, on reboot and when position mode is chosen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from robot_bridge.twin.dynamixel_protocol import Error

MODEL_NUMBER = 1200
COUNTS_PER_TURN = 4096
BAUD_RATES = (9_600, 57_600, 115_200, 1_000_000, 2_000_000, 3_000_000, 4_000_000)
"""Baud rate by the value of register 8."""
MAX_SPEED_COUNTS_PER_S = 103.0 / 60.0 * COUNTS_PER_TURN
"""No-load speed, 103 rpm: the fastest a shaft catches up with the hand or with its goal."""
BOOT_S = 0.25
TABLE_SIZE = 148
EEPROM_SIZE = 64

ID, BAUD, RETURN_DELAY, DRIVE_MODE, OPERATING_MODE = 7, 8, 9, 10, 11
HOMING_OFFSET, MIN_POSITION, MAX_POSITION = 20, 52, 48
TORQUE_ENABLE, LED, STATUS_RETURN_LEVEL, HARDWARE_ERROR = 64, 65, 68, 70
GOAL_POSITION, MOVING, PRESENT_CURRENT, PRESENT_VELOCITY, PRESENT_POSITION = 116, 122, 126, 128, 132
INPUT_VOLTAGE, TEMPERATURE = 144, 146

POSITION_MODE, EXTENDED_POSITION_MODE = 3, 4
_DEFAULT_PROFILE_LIMIT = 32_767


class ServoRefusal(Exception):
    """An access that the servo answers with an error code."""

    def __init__(self, error: Error) -> None:
        super().__init__(error.name)
        self.error = error


@dataclass(frozen=True)
class Register:
    """One entry of the control table; ``limits`` None marks a read-only register."""

    size: int
    default: int
    limits: tuple[int, int] | None = None
    signed: bool = False


def _rw(size: int, default: int, low: int, high: int) -> Register:
    return Register(size, default, (low, high), signed=low < 0)


REGISTERS: dict[int, Register] = {
    0: Register(2, MODEL_NUMBER),
    2: Register(4, 0),
    6: Register(1, 52),  # firmware version
    ID: _rw(1, 1, 0, 252),
    BAUD: _rw(1, 1, 0, len(BAUD_RATES) - 1),
    RETURN_DELAY: _rw(1, 250, 0, 254),  # 2 us units
    DRIVE_MODE: _rw(1, 0, 0, 13),
    OPERATING_MODE: _rw(1, POSITION_MODE, 0, 16),
    12: _rw(1, 255, 0, 255),  # secondary id
    13: _rw(1, 2, 2, 22),  # protocol type
    HOMING_OFFSET: _rw(4, 0, -1_044_479, 1_044_479),
    24: _rw(4, 10, 0, 1_023),  # moving threshold
    31: _rw(1, 70, 0, 100),  # temperature limit
    32: _rw(2, 70, 31, 70),  # max voltage
    34: _rw(2, 35, 31, 70),  # min voltage
    36: _rw(2, 885, 0, 885),  # PWM limit
    38: _rw(2, 1_750, 0, 1_750),  # current limit
    44: _rw(4, 445, 0, 2_047),  # velocity limit
    MAX_POSITION: _rw(4, 4_095, 0, 4_095),
    MIN_POSITION: _rw(4, 0, 0, 4_095),
    60: _rw(1, 0, 0, 255),  # startup configuration
    62: _rw(1, 140, 1, 255),  # PWM slope
    63: _rw(1, 53, 0, 255),  # shutdown
    TORQUE_ENABLE: _rw(1, 0, 0, 1),
    LED: _rw(1, 0, 0, 1),
    STATUS_RETURN_LEVEL: _rw(1, 2, 0, 2),
    69: Register(1, 0),  # registered instruction
    HARDWARE_ERROR: Register(1, 0),
    76: _rw(2, 1_600, 0, 16_383),  # velocity I gain
    78: _rw(2, 180, 0, 16_383),  # velocity P gain
    80: _rw(2, 0, 0, 16_383),  # position D gain
    82: _rw(2, 0, 0, 16_383),  # position I gain
    84: _rw(2, 400, 0, 16_383),  # position P gain
    88: _rw(2, 0, 0, 16_383),  # feed-forward, acceleration
    90: _rw(2, 0, 0, 16_383),  # feed-forward, velocity
    98: _rw(1, 0, 0, 127),  # bus watchdog
    100: _rw(2, 885, -885, 885),  # goal PWM
    102: _rw(2, 1_750, -1_750, 1_750),  # goal current
    104: _rw(4, 0, -2_047, 2_047),  # goal velocity
    108: _rw(4, 0, 0, _DEFAULT_PROFILE_LIMIT),  # profile acceleration
    112: _rw(4, 0, 0, _DEFAULT_PROFILE_LIMIT),  # profile velocity
    GOAL_POSITION: _rw(4, 0, -1_048_575, 1_048_575),
    120: Register(2, 0),  # real-time tick, ms
    MOVING: Register(1, 0),
    123: Register(1, 0),  # moving status
    124: Register(2, 0, signed=True),  # present PWM
    PRESENT_CURRENT: Register(2, 0, signed=True),
    PRESENT_VELOCITY: Register(4, 0, signed=True),
    PRESENT_POSITION: Register(4, 0, signed=True),
    136: Register(4, 0, signed=True),  # velocity trajectory
    140: Register(4, 0, signed=True),  # position trajectory
    INPUT_VOLTAGE: Register(2, 50),  # 0.1 V
    TEMPERATURE: Register(1, 33),  # degrees C
    147: Register(1, 0),  # backup ready
}


class Xl330:
    """A servo at one place on the bus.

    ``shaft_counts`` is the true angle of the output shaft in encoder counts (4096 a turn, any number of turns,
    2048 at the horn's centre mark). With torque off it follows the hand, with torque on its goal position.
    """

    def __init__(self, servo_id: int, *, baud_rate: int, return_delay_us: int = 500, shaft_counts: float = 2048.0):
        self.shaft_counts = shaft_counts
        self._table = bytearray(TABLE_SIZE)
        self._turn_base = 0
        self._waking = False
        self._velocity_counts_per_s = 0.0
        self._advanced_s = 0.0
        self._dead_until_s = 0.0
        self._set_defaults(range(TABLE_SIZE))
        self.poke(ID, servo_id)
        self.poke(BAUD, BAUD_RATES.index(baud_rate))
        self.poke(RETURN_DELAY, return_delay_us // 2)
        self._forget_turns()

    @property
    def servo_id(self) -> int:
        return self._table[ID]

    @property
    def baud_rate(self) -> int:
        return BAUD_RATES[self._table[BAUD]]

    @property
    def return_delay_s(self) -> float:
        return 2e-6 * self._table[RETURN_DELAY]

    @property
    def torque_on(self) -> bool:
        return bool(self._table[TORQUE_ENABLE])

    @property
    def status_return_level(self) -> int:
        return self._table[STATUS_RETURN_LEVEL]

    @property
    def alert(self) -> int:
        """The alert bit of every status packet."""
        return Error.ALERT if self._table[HARDWARE_ERROR] else 0

    def alive(self, now_s: float) -> bool:
        """False while without power or booting."""
        return now_s >= self._dead_until_s

    def advance(self, now_s: float, hand_counts: float) -> None:
        """Turn the shaft towards the hand (torque off) or the goal (torque on), at no more than no-load speed."""
        elapsed_s = max(1e-6, now_s - self._advanced_s)
        self._advanced_s = now_s
        if self._waking and self.alive(now_s):
            self._waking = False
            self._forget_turns()
        target = hand_counts
        if self.torque_on:
            target = self._sign * (self.peek(GOAL_POSITION) - self.peek(HOMING_OFFSET) + self._turn_base)
        limit = MAX_SPEED_COUNTS_PER_S * elapsed_s
        step = min(limit, max(-limit, target - self.shaft_counts))
        self.shaft_counts += step
        # The register shows a filtered speed; 20 ms is the order of the servo's own filter.
        blend = min(1.0, elapsed_s / 0.02)
        self._velocity_counts_per_s += blend * (step / elapsed_s - self._velocity_counts_per_s)

    def read(self, address: int, length: int, now_s: float) -> bytes:
        """Bytes of the control table.

        Raises:
            ServoRefusal: the range leaves the table.
        """
        if length < 1 or address + length > TABLE_SIZE:
            raise ServoRefusal(Error.ACCESS)
        if address + length > 120:
            self._refresh(now_s)
        return bytes(self._table[address : address + length])

    def write(self, address: int, data: bytes) -> None:
        """Write whole registers; nothing is written when any of them refuses.

        Raises:
            ServoRefusal: read-only or unknown register, EEPROM with torque on, wrong length or value.
        """
        accepted: list[tuple[int, int]] = []
        position = 0
        while position < len(data):
            register = REGISTERS.get(address + position)
            if register is None or register.limits is None:
                raise ServoRefusal(Error.ACCESS)
            if address + position < EEPROM_SIZE and self.torque_on:
                raise ServoRefusal(Error.ACCESS)
            raw = data[position : position + register.size]
            if len(raw) < register.size:
                raise ServoRefusal(Error.DATA_LENGTH)
            value = int.from_bytes(raw, "little", signed=register.signed)
            low, high = register.limits
            if address + position == GOAL_POSITION and self._table[OPERATING_MODE] == POSITION_MODE:
                low, high = self.peek(MIN_POSITION), self.peek(MAX_POSITION)
            if not low <= value <= high:
                raise ServoRefusal(Error.DATA_RANGE)
            accepted.append((address + position, value))
            position += register.size
        for place, value in accepted:
            self._commit(place, value)

    def reboot(self, now_s: float) -> None:
        """Restart the firmware: RAM and whole turns are lost, EEPROM stays."""
        self.power_cycle(now_s, off_s=0.0)

    def power_cycle(self, now_s: float, off_s: float) -> None:
        """Lose power for ``off_s`` seconds, then boot. The hand may turn the shaft meanwhile."""
        self._set_defaults(range(EEPROM_SIZE, TABLE_SIZE))
        self._dead_until_s = now_s + off_s + BOOT_S
        self._waking = True  # the absolute encoder is read again at wake-up

    def factory_reset(self, option: int, now_s: float) -> None:
        """Restore EEPROM defaults and restart: 0xFF everything, 1 all but the id, 2 all but id and baud rate."""
        kept = {0xFF: (), 0x01: (ID,), 0x02: (ID, BAUD)}.get(option)
        if kept is None:
            raise ServoRefusal(Error.DATA_RANGE)
        values = [(address, self.peek(address)) for address in kept]
        self._set_defaults(range(EEPROM_SIZE))
        for address, value in values:
            self.poke(address, value)
        self.reboot(now_s)

    def clear_turns(self) -> None:
        """The clear instruction: keep the angle within the turn, forget whole turns."""
        if self.torque_on:
            raise ServoRefusal(Error.RESULT_FAIL)
        self._forget_turns()

    def peek(self, address: int) -> int:
        """Value of the register at ``address``, without access rules."""
        register = REGISTERS[address]
        return int.from_bytes(self._table[address : address + register.size], "little", signed=register.signed)

    def poke(self, address: int, value: int) -> None:
        """Set a register without access rules (assembly, faults, measured quantities)."""
        register = REGISTERS[address]
        self._table[address : address + register.size] = value.to_bytes(register.size, "little", signed=register.signed)

    @property
    def _sign(self) -> int:
        return -1 if self._table[DRIVE_MODE] & 1 else 1

    def _forget_turns(self) -> None:
        self._turn_base = COUNTS_PER_TURN * math.floor(self._sign * round(self.shaft_counts) / COUNTS_PER_TURN)

    def _present_position(self) -> int:
        return self._sign * round(self.shaft_counts) - self._turn_base + self.peek(HOMING_OFFSET)

    def _commit(self, address: int, value: int) -> None:
        if address == TORQUE_ENABLE and value and not self.torque_on:
            if self._table[OPERATING_MODE] == POSITION_MODE:
                self._forget_turns()
            self.poke(GOAL_POSITION, self._present_position())
        self.poke(address, value)
        if address == OPERATING_MODE and value == POSITION_MODE:
            self._forget_turns()

    def _refresh(self, now_s: float) -> None:
        speed_rpm = self._sign * self._velocity_counts_per_s / COUNTS_PER_TURN * 60.0
        self.poke(120, round(now_s * 1e3) % 32_768)
        self.poke(PRESENT_VELOCITY, round(speed_rpm / 0.229))
        self.poke(MOVING, int(abs(speed_rpm / 0.229) > self.peek(24)))
        self.poke(PRESENT_POSITION, self._present_position())

    def _set_defaults(self, addresses: range) -> None:
        for address, register in REGISTERS.items():
            if address in addresses:
                self.poke(address, register.default)
