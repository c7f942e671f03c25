"""GELLO leader arm: six joint angles and the trigger from seven XL330 servos. The only user of dynamixel_sdk.

Differences from the usual GELLO driver: reads sleep instead of spinning, zeros are real-valued and belong to one
leader, whole turns lost in a power cycle are restored from the last reading, and every failure is an error that
names the servo and the remedy.
"""

from __future__ import annotations

import errno
import logging
import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from dynamixel_sdk import COMM_SUCCESS, GroupSyncRead, PacketHandler
from numpy.typing import ArrayLike, NDArray
from serial import SerialException

from robot_bridge.cell import LeaderConfig
from robot_bridge.dynamixel_port import BAUD_RATES, DynamixelPort, PortGone, port_candidates, servo_set_name
from robot_bridge.leader_errors import (
    LeaderError,
    LeaderGone,
    PortMissing,
    PortRefused,
    ServoBusSilent,
    ServoMissing,
    ServoNotConfigured,
    ServoReadFailed,
    WrongServo,
)
from robot_bridge.leader_offsets import NOMINAL, LeaderOffsets, load_offsets

log = logging.getLogger(__name__)

MODELS = {1190: "XL330-M077", 1200: "XL330-M288"}
HOME_Q_6 = (0.0, -math.pi / 2, math.pi / 2, -math.pi / 2, -math.pi / 2, 0.0)
"""Pose next to which joint angles are taken at the first connection, when no other pose is given."""

_BAUD, _RETURN_DELAY, _TORQUE, _HARDWARE_ERROR, _POSITION, _VOLTAGE = 8, 9, 64, 70, 132, 144
_ATTEMPTS = 3
_FAILURES_BEFORE_DIAGNOSIS = 3


@dataclass(frozen=True)
class LeaderReading:
    """One sample of the leader.

    Attributes:
        q_6: joint angles [6] in radians, continuous over whole turns.
        trigger_opening: 0 trigger pulled (gripper closed) to 1 released (open).
        stamp_ns: host clock in the middle between request and reply.
    """

    q_6: NDArray[np.float64]
    trigger_opening: float
    stamp_ns: int


@dataclass(frozen=True)
class LeaderReport:
    """What ``connect`` found and did."""

    servo_set: str
    baud_rate: int
    models: dict[int, str]
    fast_reads: bool
    changes: tuple[str, ...]


@dataclass(frozen=True)
class ServoHealth:
    """Slow measurements of one servo; ``hardware_error`` is the bit field of register 70 (0 is well)."""

    servo_id: int
    torque_on: bool
    hardware_error: int
    voltage_v: float
    temperature_c: int


class Gello:
    """Driver of one leader arm; not thread-safe.

    Args:
        config: port, baud rate, servo ids (six joints, then the trigger), offsets file.
        configure: allow EEPROM writes at connection: the configured baud rate and return delay 0, once.
        offsets: overrides the offsets file (used while measuring offsets).
    """

    def __init__(self, config: LeaderConfig, *, configure: bool = True, offsets: LeaderOffsets | None = None) -> None:
        if len(config.servo_ids) != 7 or len(set(config.servo_ids)) != 7:
            raise LeaderError(f"leader.servo_ids must be 7 different ids (6 joints, trigger), got {config.servo_ids}")
        if config.baud_rate not in BAUD_RATES:
            raise LeaderError(f"leader.baud_rate must be one of {BAUD_RATES}, got {config.baud_rate}")
        self._config = config
        self._configure = configure
        self._given_offsets = offsets
        self._offsets = offsets or NOMINAL
        self._port = DynamixelPort(config.port, config.baud_rate)
        self._packets = PacketHandler(2.0)
        self._group = self._group_read(_POSITION, 4)
        self._fast_reads = True
        self._last_q_6 = np.array(HOME_Q_6)
        self._failures = 0
        self.retries = 0
        """Readings that needed a second attempt since ``connect``."""

    def connect(self, near_q_6: ArrayLike | None = None) -> LeaderReport:
        """Open the port, check every servo, make it fast and limp, and take the first reading.

        Args:
            near_q_6: joint angles [6] in radians; each joint is taken on the turn nearest to this (give the
                follower's measured angles), as encoders are absolute only within a turn after power-up. None takes
                the last reading, and ``HOME_Q_6`` at the first connection.

        Raises:
            LeaderError: one of the classes in ``leader_errors``, or ``OffsetsError`` from the offsets file.
        """
        servo_set = servo_set_name(self._config.port)
        if self._given_offsets is None and self._config.offsets_file:
            self._offsets = load_offsets(self._config.offsets_file, servo_set)
        self._open()
        try:
            baud_by_id, models = self._find_servos()
            changes = self._set_up(baud_by_id)
            self._fast_reads = self._try_reads()
            self._failures = self.retries = 0
            if near_q_6 is not None:
                self.rewrap(near_q_6)
            self.read()
        except BaseException:
            self.close()
            raise
        for change in changes:
            log.info("leader on %s: %s", self._config.port, change)
        return LeaderReport(servo_set, self._config.baud_rate, models, self._fast_reads, tuple(changes))

    def read(self) -> LeaderReading:
        """One reading; about 1 ms at 1 Mbaud, at most 0.1 s when servos do not answer.

        A jump by whole turns (power cycle of the servos) is undone by taking the turn nearest the last reading.

        Raises:
            ServoReadFailed: this reading failed; try the next.
            ServoBusSilent, ServoMissing: several readings in a row failed, and this is why.
            LeaderGone: the port disappeared.
        """
        raw_7, before_ns = self._insist()
        q_6 = self._offsets.joint_angles(raw_7[:6])
        q_6 += 2.0 * math.pi * np.round((self._last_q_6 - q_6) / (2.0 * math.pi))
        self._last_q_6 = q_6
        stamp_ns = (before_ns + time.time_ns()) // 2
        return LeaderReading(q_6.copy(), self._offsets.opening(raw_7[6]), stamp_ns)

    def rewrap(self, near_q_6: ArrayLike) -> None:
        """Take each joint on the turn nearest to ``near_q_6`` [6] from the next reading on (before engaging)."""
        self._last_q_6 = np.asarray(near_q_6, dtype=np.float64).copy()

    def read_raw(self) -> list[int]:
        """Encoder counts [7] of one reading, as the servos report them (for calibration).

        Raises:
            LeaderError: as ``read``.
        """
        return self._insist()[0]

    def raw_counts(self, samples: int = 20) -> list[float]:
        """Mean encoder counts [7] over several readings, for measuring offsets in a jig.

        Raises:
            ServoReadFailed: fewer than half of the readings arrived.
        """
        readings = [raw for raw in (self._read_positions() for _ in range(samples)) if raw is not None]
        if len(readings) * 2 < samples:
            raise ServoReadFailed(f"only {len(readings)} of {samples} readings arrived on {self._config.port}")
        return [float(mean) for mean in np.mean(readings, axis=0)]

    def health(self) -> tuple[ServoHealth, ...]:
        """Torque, errors, voltage and temperature of every servo (two group reads, about 3 ms).

        Raises:
            ServoReadFailed: a reply is missing or broken.
        """
        status, power = self._group_read(_TORQUE, 7), self._group_read(_VOLTAGE, 3)
        for group in (status, power):
            if not self._exchange(group, fast=False):
                raise ServoReadFailed(f"the servos on {self._config.port} did not report their health")
        return tuple(
            ServoHealth(
                servo_id,
                bool(status.getData(servo_id, _TORQUE, 1)),
                int(status.getData(servo_id, _HARDWARE_ERROR, 1)),
                power.getData(servo_id, _VOLTAGE, 2) / 10.0,
                int(power.getData(servo_id, _VOLTAGE + 2, 1)),
            )
            for servo_id in self._config.servo_ids
        )

    def close(self) -> None:
        """Release the port; harmless when it is closed."""
        self._port.closePort()

    def _open(self) -> None:
        try:
            self._port.setBaudRate(self._config.baud_rate)
            self._port.openPort()
        except SerialException as error:
            if error.errno == errno.ENOENT:
                raise PortMissing(self._config.port, port_candidates()) from error
            advice = "is another leader driver or Dynamixel Wizard running? It holds the port"
            if error.errno == errno.EACCES:
                advice = "add your user to the group that owns it (dialout on Debian) and log in again"
            raise PortRefused(f"cannot open leader port {self._config.port}: {error}; {advice}") from error
        except PortGone as error:
            raise self._gone(error) from error

    def _find_servos(self) -> tuple[dict[int, int], dict[int, str]]:
        """Baud rate and model by id; other baud rates are tried only for servos that do not answer."""
        baud_by_id: dict[int, int] = {}
        models: dict[int, str] = {}
        ids = self._config.servo_ids
        rates = [self._config.baud_rate, *(rate for rate in BAUD_RATES if rate != self._config.baud_rate)]
        for rate in rates:
            self._port.setBaudRate(rate)
            for servo_id in [i for i in ids if i not in baud_by_id]:
                model = self._ping(servo_id, attempts=2 if rate == self._config.baud_rate else 1)
                if model is None:
                    continue
                if model not in MODELS:
                    known = ", ".join(f"{name} ({number})" for number, name in MODELS.items())
                    raise WrongServo(
                        f"servo {servo_id} on {self._config.port} is model {model}, a GELLO leader has {known}; "
                        "is this the leader's port?"
                    )
                baud_by_id[servo_id], models[servo_id] = rate, MODELS[model]
            if len(baud_by_id) == len(ids):
                break
        self._port.setBaudRate(self._config.baud_rate)
        if not baud_by_id:
            raise ServoBusSilent(self._config.port, ids, rates)
        if len(baud_by_id) < len(ids):
            raise ServoMissing(self._config.port, [i for i in ids if i not in baud_by_id], sorted(baud_by_id))
        return baud_by_id, models

    def _set_up(self, baud_by_id: dict[int, int]) -> list[str]:
        """Torque off, return delay 0, configured baud rate; returns what was changed, in words."""
        changes = []
        for servo_id, rate in baud_by_id.items():
            self._port.setBaudRate(rate)
            if self._read_byte(servo_id, _TORQUE):
                self._write_byte(servo_id, _TORQUE, 0)
                changes.append(f"servo {servo_id}: torque was on, released")
            delay_us = 2 * self._read_byte(servo_id, _RETURN_DELAY)
            if delay_us and self._configure:
                self._write_byte(servo_id, _RETURN_DELAY, 0)
                changes.append(f"servo {servo_id}: return delay {delay_us} us set to 0 (EEPROM)")
            if rate != self._config.baud_rate:
                if not self._configure:
                    raise ServoNotConfigured(
                        f"servo {servo_id} on {self._config.port} is set to {rate} baud, the cell file says "
                        f"{self._config.baud_rate}; correct leader.baud_rate or allow the driver to configure servos"
                    )
                self._write_byte(servo_id, _BAUD, BAUD_RATES.index(self._config.baud_rate))
                changes.append(f"servo {servo_id}: {rate} baud set to {self._config.baud_rate} (EEPROM)")
        self._port.setBaudRate(self._config.baud_rate)
        return changes

    def _try_reads(self) -> bool:
        """Whether the servos know fast sync read; raises when plain sync read fails as well."""
        for fast in (True, False):
            self._fast_reads = fast
            if any(self._read_positions() is not None for _ in range(_ATTEMPTS)):
                return fast
        self._failures = _FAILURES_BEFORE_DIAGNOSIS
        raise self._diagnosis()

    def _read_positions(self) -> list[int] | None:
        """Encoder counts [7], or None when a reply is missing or broken."""
        if not self._exchange(self._group, fast=self._fast_reads):
            return None
        counts = []
        for servo_id in self._config.servo_ids:
            unsigned = int(self._group.getData(servo_id, _POSITION, 4))
            counts.append(unsigned - (1 << 32) if unsigned >= 1 << 31 else unsigned)
        return counts

    def _insist(self) -> tuple[list[int], int]:
        """Counts [7] and the clock before the request; a failed reading is repeated once."""
        for attempt in (1, 2):
            before_ns = time.time_ns()
            raw_7 = self._read_positions()
            if raw_7 is not None:
                self._failures = 0
                return raw_7, before_ns
            self.retries += attempt == 1
        self._failures += 1
        raise self._diagnosis()

    def _exchange(self, group: Any, *, fast: bool) -> bool:
        try:
            result = group.fastSyncRead() if fast else group.txRxPacket()
            if result != COMM_SUCCESS:
                return False
            # A short reply (an error status) passes the SDK's checks and fails only on access.
            return all(len(group.data_dict[servo_id]) == group.data_length for servo_id in self._config.servo_ids)
        except IndexError:
            return False  # the SDK's fast read indexes into a reply without checking that it has one
        except PortGone as error:
            raise self._gone(error) from error
        finally:
            self._port.is_using = False

    def _diagnosis(self) -> LeaderError:
        if self._failures < _FAILURES_BEFORE_DIAGNOSIS:
            return ServoReadFailed(f"no complete reply from the servos on {self._config.port}")
        ids = self._config.servo_ids
        present = [servo_id for servo_id in ids if self._ping(servo_id, attempts=1) is not None]
        if not present:
            return ServoBusSilent(self._config.port, ids, [self._config.baud_rate])
        if len(present) < len(ids):
            return ServoMissing(self._config.port, [i for i in ids if i not in present], present)
        return ServoReadFailed(
            f"{self._failures} readings in a row failed on {self._config.port} although every servo answers a ping; "
            "look for a loose connector or a second program on the port"
        )

    def _ping(self, servo_id: int, attempts: int = 2) -> int | None:
        """Model number, or None when the servo does not answer."""
        for _ in range(attempts):
            model, result, _error = self._transact(self._packets.ping, servo_id)
            if result == COMM_SUCCESS:
                return int(model)
        return None

    def _read_byte(self, servo_id: int, address: int) -> int:
        for _ in range(_ATTEMPTS):
            value, result, error = self._transact(self._packets.read1ByteTxRx, servo_id, address)
            if result == COMM_SUCCESS and not error & 0x7F:
                return int(value)
        raise ServoReadFailed(f"servo {servo_id} on {self._config.port} answers pings but not reads of {address}")

    def _write_byte(self, servo_id: int, address: int, value: int) -> None:
        outcome = "no reply"
        for _ in range(_ATTEMPTS):
            result, error = self._transact(self._packets.write1ByteTxRx, servo_id, address, value)
            if result == COMM_SUCCESS and not error & 0x7F:
                return
            if result == COMM_SUCCESS:
                outcome = self._packets.getRxPacketError(error & 0x7F)
        raise ServoNotConfigured(f"servo {servo_id} on {self._config.port} refused {value} at {address}: {outcome}")

    def _transact(self, call: Any, servo_id: int, *arguments: int) -> Any:
        try:
            return call(self._port, servo_id, *arguments)
        except PortGone as error:
            raise self._gone(error) from error
        finally:
            self._port.is_using = False

    def _gone(self, error: PortGone) -> LeaderGone:
        self.close()
        return LeaderGone(f"the leader's port disappeared ({error}); plug it in again and connect")

    def _group_read(self, address: int, length: int) -> Any:
        group = GroupSyncRead(self._port, self._packets, address, length)
        for servo_id in self._config.servo_ids:
            group.addParam(servo_id)
        return group
