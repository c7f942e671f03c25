"""The lab's processes: start, faults of start, death and restart, and two labs side by side."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from robot_bridge.cell import CellError
from robot_bridge.d455 import D455
from robot_bridge.gello import Gello
from robot_bridge.twin.lab import Lab, LabFailed
from robot_bridge.twin.lab_client import LabClient, OperatorClient

ROOT = Path(__file__).parents[3]
TWIN_CELL = ROOT / "config" / "cells" / "twin.yaml"


@pytest.fixture
def cell_file(tmp_path: Path) -> Path:
    """The twin's cell with its directory under the test's own."""
    path = tmp_path / "cell.yaml"
    path.write_text(TWIN_CELL.read_text().replace("/dev/shm/prophrl-twin-{host}", f"{tmp_path}/lab-{{host}}"))
    return path


@pytest.fixture
def lab(cell_file: Path, loopback_host: str) -> Iterator[Lab]:
    with Lab(cell_file, loopback_host, restart=True) as lab:
        yield lab


def _wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the expected state did not come"
        time.sleep(0.05)


def _running(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.mark.slow
def test_lab_serves_all_devices_and_leaves_nothing_behind(cell_file: Path, loopback_host: str) -> None:
    lines: list[str] = []
    with Lab(cell_file, loopback_host, report=lines.append) as lab:
        pids = [lab.pid(name) for name in ("controller", "leader", "camera")]
        assert LabClient(loopback_host).status()["robot_mode"] == "POWER_OFF"
        assert OperatorClient(loopback_host).status()["busy"] is False
        with D455(lab.cell.camera) as camera:
            assert camera.wait(10.0).color.shape == (240, 424, 3)
        gello = Gello(lab.cell.leader)
        assert len(gello.connect().models) == 7
        gello.close()
        lab.check()
        directory = lab.directory
        assert (directory / "camera.yaml").exists()
    assert [line.split()[0] for line in lines] == ["controller", "leader", "camera"]
    assert not any(_running(pid) for pid in pids)
    assert not directory.exists()


@pytest.mark.slow
def test_dead_camera_and_leader_are_started_again_when_asked_for(lab: Lab) -> None:
    with D455(lab.cell.camera) as camera:
        camera.wait(10.0)
        for name in ("camera", "leader"):
            killed = lab.pid(name)
            os.kill(killed, signal.SIGKILL)

            def restarted(name: str = name, killed: int = killed) -> bool:
                lab.check()
                return lab.pid(name) != killed

            _wait_for(restarted)
        # The driver that was open all the time sees the restarted renderer's frames.
        _wait_for(lambda: camera.wait(20.0).frame_number < 1000)
    _wait_for(lambda: Path(lab.cell.leader.port).exists())
    gello = Gello(lab.cell.leader)
    gello.connect()
    gello.close()


@pytest.mark.slow
def test_dead_controller_fails_the_lab_by_name(lab: Lab) -> None:
    os.kill(lab.pid("controller"), signal.SIGKILL)
    with pytest.raises(LabFailed, match=r"the lab's controller ended \(killed by SIGKILL\)"):
        _wait_for(lambda: lab.check() is not None)


@pytest.mark.slow
def test_killed_lab_takes_its_processes_with_it_and_the_next_lab_starts(cell_file: Path, loopback_host: str) -> None:
    command = [sys.executable, "-m", "robot_bridge.twin.lab", "--cell", str(cell_file), "--host", loopback_host]
    lab = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert lab.stdout is not None
    lines = [lab.stdout.readline() for _ in range(4)]
    assert lines[-1].startswith(f"lab ready on {loopback_host}"), lines
    children = psutil.Process(lab.pid).children()
    assert len(children) == 3
    lab.kill()
    lab.wait()
    lab.stdout.close()
    _wait_for(lambda: not any(_running(child.pid) for child in children))
    second = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert second.stdout is not None
    assert [second.stdout.readline() for _ in range(4)][-1].startswith("lab ready")
    second.send_signal(signal.SIGINT)
    assert second.wait(20.0) == 0
    second.stdout.close()


@pytest.mark.slow
def test_two_labs_on_two_addresses_do_not_touch_each_other(cell_file: Path, loopback_host: str) -> None:
    head, _, tail = loopback_host.rpartition(".")
    other_host = f"{head}.{int(tail) + 1}"
    with Lab(cell_file, loopback_host) as one, Lab(cell_file, other_host) as two:
        LabClient(loopback_host).reset_scene("grasp_bottle")
        assert LabClient(loopback_host).truth()["task"] == "grasp_bottle"
        assert LabClient(other_host).truth()["task"] == "place_cube"
        OperatorClient(loopback_host).call("set_joints", q=[0.5] * 6, seconds=0.1)
        _wait_for(lambda: not OperatorClient(loopback_host).status()["busy"])
        first, second = Gello(one.cell.leader), Gello(two.cell.leader)
        first.connect()
        second.connect()
        _wait_for(lambda: abs(float(first.read().q_6[0]) - 0.5) < 0.01)
        assert abs(float(second.read().q_6[0])) < 0.01
        first.close()
        second.close()
        with D455(one.cell.camera) as camera_one, D455(two.cell.camera) as camera_two:
            # Building the new scene takes the renderer a moment.
            _wait_for(lambda: abs(camera_one.wait(10.0).color.astype(int) - camera_two.wait(10.0).color).max() > 50)
        two.stop()
        one.check()
        assert LabClient(loopback_host).status()["tick"] > 0


def test_port_in_use_names_the_port_and_its_holder(cell_file: Path, loopback_host: str) -> None:
    with socket.socket() as squatter:
        squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        squatter.bind((loopback_host, 30004))
        squatter.listen()
        with pytest.raises(LabFailed, match=rf"{loopback_host}:30004 by process {os.getpid()} \(.*python"):
            Lab(cell_file, loopback_host).start()


def test_address_that_is_not_of_this_machine_is_refused(cell_file: Path) -> None:
    with pytest.raises(LabFailed, match=r"cannot use address 203\.0\.113\.7.*loopback address"):
        Lab(cell_file, "203.0.113.7").start()


def test_second_lab_in_the_same_directory_is_refused(cell_file: Path, loopback_host: str, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as claim:
        claim.bind(f"\0prophrl-lab:{tmp_path.resolve()}/lab-{loopback_host}")
        with pytest.raises(LabFailed, match="another lab uses the directory"):
            Lab(cell_file, loopback_host).start()


def test_process_that_cannot_start_is_named_with_its_last_words(
    cell_file: Path, loopback_host: str, monkeypatch: Any
) -> None:
    cell_file.write_text(cell_file.read_text().replace("twin:\n", "twin:\n  task: fold_laundry\n"))
    with pytest.raises(LabFailed, match=r"the lab's controller ended \(exit status 1\); its last words:\n[\s\S]*fold"):
        Lab(cell_file, loopback_host).start()


def test_unknown_cell_and_real_cell_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CellError, match=r"no cell named 'twinn', there are .*twin.*did you mean 'twin'"):
        Lab("twinn")
    real = tmp_path / "real.yaml"
    real.write_text(TWIN_CELL.read_text().split("twin:\n")[0])
    with pytest.raises(CellError, match="this cell is real hardware, it needs no lab"):
        Lab(real)


def test_command_line_exits_with_an_error_and_no_traceback(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "robot_bridge.twin.lab", "--cell", str(tmp_path / "none.yaml")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 1
    assert result.stderr.startswith("lab: no cell file at") and "Traceback" not in result.stderr
