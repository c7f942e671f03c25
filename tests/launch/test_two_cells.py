"""Two complete cells of one machine, on two loopback addresses and in two ROS domains, do not touch each other."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from prophrl_interfaces.msg import SafetyMode
from prophrl_nodes import qos
from prophrl_nodes.environment import ros_environment
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, JointState

from robot_bridge.twin.lab_client import LabClient

LIVENESS_S = 120.0
FIRST_DOMAIN = 60 + os.getpid() % 10
NORMAL, PROTECTIVE_STOP = 1, 3


class LaunchedCell:
    """One ``prophrl launch cell`` and an observer in its domain."""

    def __init__(self, host: str, domain: int, log: Path) -> None:
        self.host, self.log = host, log
        command = [sys.executable, "-m", "prophrl_nodes.cli.main", "launch", "--own-runner", "cell"]
        with log.open("w") as file:
            self.process = subprocess.Popen(
                [*command, f"host:={host}", f"domain:={domain}"],
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.context = Context()
        self.context.init(domain_id=domain)
        self.node = Node("two_cells_observer", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.joints = self._collect(JointState, "joint_states", qos.STREAM)
        self.safety = self._collect(SafetyMode, "io_and_status_controller/safety_mode", qos.STATE)
        self.cameras = self._collect(CameraInfo, "camera/color/camera_info", qos.STREAM)

    def _collect(self, kind: Any, topic: str, profile: Any) -> list[Any]:
        seen: list[Any] = []
        self.node.create_subscription(kind, topic, seen.append, profile)
        return seen

    def until(self, condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + LIVENESS_S
        while not condition():
            assert self.process.poll() is None, f"the cell on {self.host} ended:\n{self.log.read_text()[-4000:]}"
            assert time.monotonic() < deadline, f"waited in vain for {what}:\n{self.log.read_text()[-4000:]}"
            self.executor.spin_once(timeout_sec=0.05)

    def fresh_joints(self, count: int = 20) -> None:
        before = len(self.joints)
        self.until(lambda: len(self.joints) >= before + count, f"joint states of {self.host}")

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(timeout=60.0)

    def close(self) -> None:
        self.stop()
        self.executor.shutdown()
        self.node.destroy_node()
        self.context.shutdown()


@pytest.fixture
def cells(tmp_path: Path, loopback_host: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[LaunchedCell]]:
    # Fast DDS reads its profile once per process, the RMW the discovery range once per context: an observer made after
    # another test's graph would have our profile's shared memory without the loopback UDP that discovery needs.
    for name, value in ros_environment().items():
        monkeypatch.setenv(name, value)
    hosts = [loopback_host, ".".join([*loopback_host.split(".")[:3], "252"])]
    cells = [LaunchedCell(host, FIRST_DOMAIN + i, tmp_path / f"{i}.log") for i, host in enumerate(hosts)]
    yield cells
    for cell in cells:
        cell.close()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_two_launched_cells_see_and_stop_only_themselves(cells: list[LaunchedCell]) -> None:
    first, second = cells
    for cell in cells:
        cell.until(lambda cell=cell: cell.joints and cell.cameras and cell.safety, f"the cell on {cell.host}")
        assert cell.node.count_publishers("/joint_states") == 1
        assert cell.safety[-1].mode == NORMAL

    LabClient(first.host).call("protective_stop")
    first.until(lambda: first.safety[-1].mode == PROTECTIVE_STOP, "the protective stop to be reported")
    second.fresh_joints()
    assert second.safety[-1].mode == NORMAL

    first.stop()
    own = re.compile(re.escape(first.host) + r"(?!\d)")
    left = [p for p in psutil.process_iter(["cmdline"]) if own.search(" ".join(p.info["cmdline"] or []))]
    assert left == []
    second.fresh_joints()
    assert second.safety[-1].mode == NORMAL
