"""The leader's process: seven Dynamixel servos on a pseudo-terminal, and the operator whose hand moves them.

    python -m robot_bridge.twin.servo_bus --cell config/cells/twin.yaml --host 127.0.0.1

One thread, one select loop: bus replies leave at their due time, the hand moves at 100 Hz, the operator port is
served in between. Prints one line with "ready" once the port exists.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import select
import signal
import sys
import time
from pathlib import Path

from robot_bridge.cell import CellConfig, load_cell
from robot_bridge.cell_overrides import add_override_argument, overrides_of
from robot_bridge.leader_offsets import LeaderOffsets
from robot_bridge.twin.dynamixel_bus import DynamixelBus
from robot_bridge.twin.json_lines import JsonLinesServer
from robot_bridge.twin.leader_assembly import SHAKE_COUNTS, assembled
from robot_bridge.twin.leader_faults import LeaderFaults
from robot_bridge.twin.leader_hand import LeaderHand
from robot_bridge.twin.operator_server import OperatorHost
from robot_bridge.twin.pty_line import PtyLine
from robot_bridge.twin.xl330 import Xl330

HAND_PERIOD_S = 0.01
NICENESS = -10


class LeaderTwin:
    """The leader arm of one lab.

    Args:
        cell: must have a ``twin`` section.
        offsets: how the servos are assembled; None takes what ``twin.leader_seed`` says. The cell's offsets file is
            what people measured, which changes no screw.

    Raises:
        ValueError: the cell has no twin, or a negative leader seed.
        OSError: the operator port is in use.
    """

    def __init__(self, cell: CellConfig, offsets: LeaderOffsets | None = None) -> None:
        if cell.twin is None:
            raise ValueError(f"cell {cell.name!r} has no twin section: its leader is real hardware")
        leader = cell.leader
        if offsets is None:
            offsets = assembled(cell.twin.leader_seed)
        self._offsets = offsets
        # The plain twin (seed 0) reads exactly what the hand does; a realistic one shakes.
        self._shake_counts = SHAKE_COUNTS if cell.twin.leader_seed else 0.0
        self._rng = random.Random(cell.twin.leader_seed)
        self._hand = LeaderHand(cell.robot.home_rad)
        counts = offsets.shaft_counts(cell.robot.home_rad, 1.0)
        self.bus = DynamixelBus(
            [
                Xl330(servo_id, baud_rate=leader.baud_rate, shaft_counts=count)
                for servo_id, count in zip(leader.servo_ids, counts, strict=True)
            ],
            timed=cell.twin.leader_baud_timing,
            before_access=self._turn_shafts,
            seed=cell.twin.seed,
        )
        self._faults = LeaderFaults(self.bus, cell.twin.directory)
        self._operator = OperatorHost(self._hand, cell, self._faults)
        self._server = JsonLinesServer(cell.robot.host, cell.twin.operator_port, self._operator.handle)
        self._line = PtyLine(leader.port)
        self._stopping = False

    def stop(self) -> None:
        """Make ``run`` return soon; may be called from a signal handler or another thread."""
        self._stopping = True

    def run(self) -> None:
        """Serve until ``stop``; closes the port and the server at the end."""
        next_hand_s = time.monotonic()
        try:
            while not self._stopping:
                now_s = time.monotonic()
                if now_s >= next_hand_s:
                    self._faults.poll(now_s)
                    self._turn_shafts(now_s)
                    self._operator.step(now_s)
                    next_hand_s = max(next_hand_s + HAND_PERIOD_S, now_s)
                for packet in self.bus.take_due(now_s):
                    self._line.write(packet)
                self._wait(next_hand_s)
        finally:
            self._server.close()
            self._line.close()

    def _wait(self, next_hand_s: float) -> None:
        due_s = self.bus.next_due_s
        wake_s = next_hand_s if due_s is None else min(due_s, next_hand_s)
        sockets = {sock.fileno(): sock for sock in self._server.sockets()}
        watched = list(sockets)
        if self._line.connected:
            # With no client the line reports a permanent hang-up; it is looked at again on the next hand step.
            watched.append(self._line.fileno())
        readable, _, _ = select.select(watched, [], [], max(0.0, wake_s - time.monotonic()))
        if self._line.fileno() in readable:
            self.bus.receive(self._line.read(), time.monotonic(), self._line.baud_rate)
        self._server.serve([sockets[descriptor] for descriptor in readable if descriptor in sockets])

    def _turn_shafts(self, now_s: float) -> None:
        q_6, opening = self._hand.pose(now_s)
        for servo, counts in zip(self.bus.servos, self._offsets.shaft_counts(q_6, opening), strict=True):
            shake = self._rng.gauss(0.0, self._shake_counts) if self._shake_counts else 0.0
            servo.advance(now_s, counts + shake)


def prefer() -> None:
    """Ask the scheduler to favour this process: servos answer in time however busy the computer is."""
    with contextlib.suppress(PermissionError):  # only root may; without it replies are late more often
        os.setpriority(os.PRIO_PROCESS, 0, NICENESS)


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(description="Leader arm of the digital lab: Dynamixel servos on a pty.")
    parser.add_argument("--cell", required=True, type=Path, help="cell file (YAML)")
    parser.add_argument("--host", default="127.0.0.1", help="loopback address of this lab (default 127.0.0.1)")
    add_override_argument(parser)
    options = parser.parse_args(arguments)
    try:
        cell = load_cell(options.cell, host=options.host, overrides=overrides_of(options))
        twin = LeaderTwin(cell)
    except (ValueError, OSError) as error:
        print(f"leader: {error}", file=sys.stderr)
        return 1
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: twin.stop())
    prefer()
    print(f"leader ready on {cell.leader.port}", flush=True)
    twin.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
