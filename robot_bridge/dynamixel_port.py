"""Serial port for the Dynamixel SDK that sleeps until its bytes are there.

The SDK's own handler opens the port non-blocking and polls it in a loop, which costs most of a core and, under
the GIL, the servo loop's timing with it. This class has the same methods (hence their names) and waits in the
kernel for the bytes the SDK asks for, or for the packet deadline the SDK has set.
"""

from __future__ import annotations

import os
import select
import termios
import time
from pathlib import Path

import serial

BAUD_RATES = (9_600, 57_600, 115_200, 1_000_000, 2_000_000, 3_000_000, 4_000_000)
"""What XL330 servos can be set to."""
_LATENCY_S = 0.034
"""Allowance for adapter and scheduler on top of the bytes' own time: the SDK's figure, two 16 ms USB frames."""

# Flushing a vanished tty raises termios.error, which is not an OSError.
_IO_ERRORS = (OSError, termios.error)


class PortGone(OSError):
    """The serial device disappeared while open (unplugged, or the lab was stopped)."""


class DynamixelPort:
    """Drop-in for ``dynamixel_sdk.PortHandler``.

    Args:
        port_name: path of the tty.
        baud_rate: bits per second, one of ``BAUD_RATES``.
    """

    def __init__(self, port_name: str, baud_rate: int) -> None:
        self.is_using = False  # set by the SDK while it waits for a reply
        self.low_latency = False
        self.bytes_read = 0
        self._port_name = port_name
        self._baud_rate = baud_rate
        self._serial: serial.Serial | None = None
        self._deadline_s = 0.0

    def openPort(self) -> bool:
        """Open for this process alone.

        Raises:
            serial.SerialException: no such device, no permission, or another process has locked it.
        """
        self.closePort()
        self._serial = serial.Serial(self._port_name, self._baud_rate, timeout=0, exclusive=True)
        try:
            # FTDI adapters otherwise hold short replies back for up to 16 ms.
            self._serial.set_low_latency_mode(True)
            self.low_latency = True
        except (OSError, ValueError):
            self.low_latency = False  # not a USB adapter, or one without the setting: reads still work
        self.clearPort()
        self.is_using = False
        return True

    def closePort(self) -> None:
        if self._serial is not None:
            self._serial.close()
            self._serial = None

    @property
    def is_open(self) -> bool:
        return self._serial is not None

    def clearPort(self) -> None:
        try:
            self._open_serial().reset_input_buffer()
        except _IO_ERRORS as error:
            raise PortGone(f"{self._port_name}: {error}") from error

    def setPortName(self, port_name: str) -> None:
        self._port_name = port_name

    def getPortName(self) -> str:
        return self._port_name

    def setBaudRate(self, baud_rate: int) -> bool:
        """Change the speed; False when no servo has such a speed."""
        if baud_rate not in BAUD_RATES:
            return False
        self._baud_rate = baud_rate
        if self._serial is not None:
            try:
                self._serial.baudrate = baud_rate
            except _IO_ERRORS as error:
                raise PortGone(f"{self._port_name}: {error}") from error
            self.clearPort()
        return True

    def getBaudRate(self) -> int:
        return self._baud_rate

    def getBytesAvailable(self) -> int:
        return int(self._open_serial().in_waiting)

    def writePort(self, packet: bytes | list[int]) -> int:
        try:
            return int(self._open_serial().write(bytes(packet)) or 0)
        except _IO_ERRORS as error:
            raise PortGone(f"{self._port_name}: {error}") from error

    def readPort(self, length: int) -> bytes:
        """Up to ``length`` bytes: returns early only at the packet deadline."""
        descriptor = self._open_serial().fileno()
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        data = b""
        while len(data) < length:
            remaining_s = self._deadline_s - time.monotonic()
            # Rounded up to whole milliseconds: a wake-up just before the deadline would make the caller spin.
            events = poll.poll(max(0.0, remaining_s * 1e3 + 1.0) if remaining_s > 0 else 0)
            if not events:
                break
            try:
                part = os.read(descriptor, length - len(data))
            except BlockingIOError:
                continue
            except OSError as error:
                raise PortGone(f"{self._port_name}: {error}") from error
            if not part:
                raise PortGone(f"{self._port_name}: the device hung up")
            data += part
        self.bytes_read += len(data)
        return data

    def setPacketTimeout(self, packet_length: int) -> None:
        """Deadline for a reply of ``packet_length`` bytes, counted from now."""
        self._deadline_s = time.monotonic() + packet_length * 10.0 / self._baud_rate + _LATENCY_S

    def setPacketTimeoutMillis(self, msec: float) -> None:
        self._deadline_s = time.monotonic() + msec * 1e-3

    def isPacketTimeout(self) -> bool:
        return time.monotonic() >= self._deadline_s

    def _open_serial(self) -> serial.Serial:
        if self._serial is None:
            raise PortGone(f"{self._port_name} is not open")
        return self._serial


def port_candidates() -> list[str]:
    """Serial devices on this machine that could be a servo adapter, the stable names first."""
    stable = sorted(str(path) for path in Path("/dev/serial/by-id").glob("*"))
    plain = sorted(str(path) for pattern in ("ttyUSB*", "ttyACM*") for path in Path("/dev").glob(pattern))
    twins = sorted(str(path) for path in Path("/dev/shm").glob("prophrl-twin-*/leader"))
    return stable + plain + twins


def servo_set_name(port_name: str) -> str:
    """What the offsets file calls the leader on this port: the adapter's serial number, or "default" without one.

    udev names are ``usb-<maker>_<product>_<serial>-if00-port0``.
    """
    target = os.path.realpath(port_name)
    for path in Path("/dev/serial/by-id").glob("usb-*"):
        if os.path.realpath(path) == target:
            return path.name.rpartition("-if")[0].rpartition("_")[2]
    return "default"
