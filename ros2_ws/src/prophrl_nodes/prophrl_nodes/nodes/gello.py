"""The leader arm: publishes ``gello/joint_states``, six joints in rad and ``gripper``, the trigger's opening fraction.

A failed reading is counted and tried again; a dead bus or a missing port is reported on /diagnostics in the words of
the driver, and connected again when it is back. There is no fall-back to invented positions.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from sensor_msgs.msg import JointState

from prophrl_nodes import qos
from prophrl_nodes.device_loop import DeviceLoop
from prophrl_nodes.messages import ARM_JOINTS, GRIPPER_JOINT, to_stamp
from prophrl_nodes.ros import CELL_PARAMETERS, Health, Level, ProphNode, RateMeter, Value, run
from robot_bridge.cell_files import open_cell
from robot_bridge.gello import Gello
from robot_bridge.leader_errors import LeaderError, ServoReadFailed
from robot_bridge.leader_offsets import OffsetsError

SLOW_SHARE = 0.7
"""Below this share of the configured rate the leader is reported as slow."""


class GelloNode(ProphNode):
    """See the module's docstring."""

    def __init__(self, **node_arguments: Any) -> None:
        super().__init__("gello", CELL_PARAMETERS, **node_arguments)

    def setup(self) -> None:
        """Read the cell; the device is opened when the node is activated."""
        self._config = open_cell(self.value("cell"), self.value("host")).leader
        self._gello = Gello(self._config)
        self._meter = RateMeter()
        self._failed_reads = 0
        self._found = ""
        self._message = JointState(name=[*ARM_JOINTS, GRIPPER_JOINT])
        self._publisher = self.publisher(JointState, "gello/joint_states", qos.STREAM)
        self._loop: DeviceLoop | None = None

    def start(self) -> None:
        """Start reading the servos."""
        self._loop = DeviceLoop(
            "gello",
            connect=self._connect,
            work=self._read,
            close=self._gello.close,
            errors=(LeaderError, OffsetsError),
            period_s=1.0 / self._config.rate_hz,
            on_bug=self.fail,
        )
        self._loop.start()

    def halt(self) -> None:
        """Stop reading and release the port."""
        if self._loop is not None:
            self._loop.stop()

    def health(self) -> Health:
        """The driver's words while the leader does not answer, else the rate."""
        now_s = time.monotonic()
        rate_hz = self._meter.rate_hz(now_s)
        values: dict[str, Value] = {
            "port": self._config.port,
            "servos": self._found,
            "rate_hz": rate_hz,
            "age_s": self._meter.age_s(now_s),
            "largest_gap_s": self._meter.largest_gap_s(now_s),
            "readings": self._meter.count,
            "failed_readings": self._failed_reads,
            "second_attempts": self._gello.retries,
        }
        loop = self._loop
        if loop is None or loop.first_attempt:
            return Health(Level.WARN, "connecting", values)
        if loop.problem:
            return Health(Level.ERROR, f"no leader: {loop.problem}", values)
        if rate_hz < SLOW_SHARE * self._config.rate_hz and self._meter.count > self._config.rate_hz:
            message = (
                f"leader slow: {rate_hz:.0f} of {self._config.rate_hz:.0f} readings a second; "
                "check the baud rate and this machine's load"
            )
            return Health(Level.WARN, message, values)
        return Health(Level.OK, "reading the leader", values)

    def _connect(self) -> None:
        report = self._gello.connect()
        models = sorted(set(report.models.values()))
        self._found = f"{len(report.models)} x {'/'.join(models)} ({report.servo_set}, {report.baud_rate} baud)"

    def _read(self) -> None:
        try:
            reading = self._gello.read()
        except ServoReadFailed:
            self._failed_reads += 1  # one lost reading; the driver turns several in a row into an error that says why
            if self._meter.age_s(time.monotonic()) > 1.0:
                raise
            return
        self._meter.tick(time.monotonic())
        self._message.header.stamp = to_stamp(reading.stamp_ns)
        self._message.position = [*reading.q_6.tolist(), float(reading.trigger_opening)]
        self._publisher.publish(self._message)


def main() -> None:
    """Entry point of the executable ``gello``."""
    sys.exit(run(GelloNode))


if __name__ == "__main__":
    main()
