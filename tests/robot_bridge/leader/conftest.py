"""A leader twin in a process of its own, on a real pseudo-terminal."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from robot_bridge.cell import CellConfig, LeaderConfig, load_cell
from robot_bridge.leader_offsets import LeaderOffsets
from robot_bridge.twin.lab_client import OperatorClient
from robot_bridge.twin.servo_bus import LeaderTwin, prefer
from robot_bridge.twin.xl330 import BAUD_RATES

TWIN_CELL = Path(__file__).parents[3] / "config" / "cells" / "twin.yaml"


class RunningLeader:
    """Handle on a leader process: its cell, its operator port, and ways to end it."""

    def __init__(self, cell: CellConfig, host: str, offsets: LeaderOffsets | None, servo_baud: int) -> None:
        self.cell = cell
        self.host = host
        context = multiprocessing.get_context("fork")
        ours, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(cell, offsets, servo_baud, theirs), daemon=True)
        self.process.start()
        theirs.close()
        assert ours.poll(10.0) and ours.recv() == "ready"
        assert cell.twin is not None
        self.operator = OperatorClient(host, cell.twin.operator_port)

    @property
    def config(self) -> LeaderConfig:
        return self.cell.leader

    def call(self, op: str, **arguments: Any) -> dict[str, Any]:
        return self.operator.call(op, **arguments)

    def fault(self, name: str, value: Any) -> None:
        self.call("fault", name=name, value=value)

    def kill(self) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.join(10.0)

    def stop(self) -> None:
        self.operator.close()
        if self.process.is_alive():
            self.process.terminate()
            self.process.join(10.0)
        assert not self.process.is_alive()


def _serve(cell: CellConfig, offsets: LeaderOffsets | None, servo_baud: int, ready: Connection) -> None:
    twin = LeaderTwin(cell, offsets)
    for servo in twin.bus.servos:
        servo.poke(8, BAUD_RATES.index(servo_baud))
    signal.signal(signal.SIGTERM, lambda *_: twin.stop())
    prefer()
    ready.send("ready")
    twin.run()


StartLeader = Callable[..., RunningLeader]


@pytest.fixture
def start_leader(loopback_host: str, tmp_path: Path) -> Iterator[StartLeader]:
    """Starts leaders in the test's own directory: ``start_leader(offsets, servo_baud, leader_seed, **leader)``."""
    running: list[RunningLeader] = []

    def start(
        offsets: LeaderOffsets | None = None, servo_baud: int = 1_000_000, leader_seed: int = 0, **leader: Any
    ) -> RunningLeader:
        cell = load_cell(TWIN_CELL, host=loopback_host)
        assert cell.twin is not None
        cell = dataclasses.replace(
            cell,
            leader=dataclasses.replace(cell.leader, port=str(tmp_path / "leader"), **leader),
            twin=dataclasses.replace(cell.twin, directory=str(tmp_path), leader_seed=leader_seed),
        )
        running.append(RunningLeader(cell, loopback_host, offsets, servo_baud))
        return running[-1]

    yield start
    for leader in running:
        leader.stop()


@pytest.fixture
def leader(start_leader: StartLeader) -> RunningLeader:
    """A leader with nominal assembly, at home, freshly powered, factory return delay."""
    return start_leader()
