"""Processes of a launch file as they live and die: real processes, real signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

STUBBORN = (
    "import signal,time,os; [signal.signal(s, lambda *_: None) for s in (signal.SIGINT, signal.SIGTERM)];"
    "print('deaf', os.getpid(), flush=True); [time.sleep(0.1) for _ in range(600)]"
)
OBEDIENT = "import os,time; print('here', os.getpid(), flush=True); time.sleep(60)"


class Launch:
    """``prophrl launch --own-runner`` on a file made of executables."""

    def __init__(self, folder: Path, text: str, *words: str) -> None:
        file = folder / "x.launch.yaml"
        file.write_text(textwrap.dedent(text))
        for name, code in {"stubborn": STUBBORN, "obedient": OBEDIENT}.items():
            (folder / f"{name}.py").write_text(code)
        self.log = folder / "output.txt"
        command = [sys.executable, "-m", "prophrl_nodes.cli.main", "launch", "--own-runner", str(file), *words]
        with self.log.open("w") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, cwd=folder)

    @property
    def output(self) -> str:
        return self.log.read_text()

    def until(self, words: str, count: int = 1, timeout_s: float = 20.0) -> str:
        deadline_s = time.monotonic() + timeout_s
        while self.output.count(words) < count:
            assert time.monotonic() < deadline_s, f"{count} x {words!r} not within {timeout_s} s:\n{self.output}"
            time.sleep(0.02)
        return self.output

    def wait(self, timeout_s: float = 20.0) -> int:
        return self.process.wait(timeout_s)

    def pids(self) -> list[int]:
        """Process ids the children printed."""
        lines = [line.split() for line in self.output.splitlines()]
        return [int(words[2]) for words in lines if words[1:2] in (["here"], ["deaf"], ["left"])]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Launch]]:
    started: list[Launch] = []

    def start(text: str, *words: str) -> Launch:
        started.append(Launch(tmp_path, text.replace("PYTHON", sys.executable), *words))
        return started[-1]

    yield start
    for launch in started:
        if launch.process.poll() is None:
            launch.process.kill()
            launch.process.wait()
    assert gone([pid for launch in started for pid in launch.pids()])


def gone(pids: list[int], timeout_s: float = 10.0) -> bool:
    """Whether all of these processes end in time."""
    deadline_s = time.monotonic() + timeout_s
    while any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids):
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.02)
    return True


TWO = """
    launch:
      - executable: {cmd: PYTHON obedient.py, name: one}
      - executable: {cmd: PYTHON obedient.py, name: two}
"""


def test_output_carries_the_name_of_its_process_line_by_line(run: Callable[..., Launch]) -> None:
    launch = run(
        """
        launch:
          - executable: {cmd: sh -c 'echo a; printf b', name: first}
          - executable: {cmd: sh -c 'echo out; echo err >&2; exit 0', name: second}
        """
    )
    assert launch.wait() == 0
    for line in ("[first-1] a", "[first-1] b", "[second-2] out", "[second-2] err", "[second-2] -- finished"):
        assert line in launch.output.splitlines()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_runner_ends_every_child(run: Callable[..., Launch], number: signal.Signals) -> None:
    launch = run(TWO)
    launch.until("here", 2)
    launch.process.send_signal(number)
    assert launch.wait() == 0
    assert gone(launch.pids())
    assert f"shutting down: {number.name}" in launch.output


def test_the_last_started_is_stopped_first(run: Callable[..., Launch]) -> None:
    launch = run(TWO)
    launch.until("here", 2)
    launch.process.send_signal(signal.SIGINT)
    launch.wait()
    assert launch.output.index("[two-2] -- died") < launch.output.index("[one-1] -- died")


def test_a_child_that_ignores_signals_is_killed_after_its_deadlines(run: Callable[..., Launch]) -> None:
    launch = run(
        """
        launch:
          - executable: {cmd: PYTHON stubborn.py, name: deaf, sigterm_timeout: 0.3, sigkill_timeout: 0.3}
        """
    )
    launch.until("deaf ")
    launch.process.send_signal(signal.SIGINT)
    assert launch.wait() == 0
    assert "still running, sending SIGTERM" in launch.output and "sending SIGKILL" in launch.output
    assert gone(launch.pids())


def test_impatient_ctrl_c_does_not_wait_for_the_deadlines(run: Callable[..., Launch]) -> None:
    launch = run("launch: [{executable: {cmd: PYTHON stubborn.py, sigterm_timeout: 60.0, sigkill_timeout: 60.0}}]")
    launch.until("deaf ")
    for _ in range(3):
        launch.process.send_signal(signal.SIGINT)
        launch.until("shutting down", _ + 1)
    assert launch.wait() == 0
    assert gone(launch.pids())


def test_children_die_with_a_runner_that_is_killed(run: Callable[..., Launch]) -> None:
    launch = run(TWO)
    launch.until("here", 2)
    launch.process.kill()
    launch.wait()
    assert gone(launch.pids())


def test_what_a_child_leaves_behind_is_ended_too(run: Callable[..., Launch]) -> None:
    launch = run("launch: [{executable: {cmd: sh -c 'sleep 60 & echo left $!; exit 0'}}]")
    assert launch.wait() == 0
    assert gone(launch.pids())


def test_the_end_of_a_required_process_ends_everything_with_its_code(run: Callable[..., Launch]) -> None:
    launch = run(
        """
        launch:
          - executable: {cmd: PYTHON obedient.py}
          - executable: {cmd: sh -c 'sleep 0.5; exit 7', name: vital, on_exit: shutdown}
        """
    )
    assert launch.wait() == 7
    assert "vital-2 ended and is required" in launch.output
    assert gone(launch.pids())


def test_a_required_process_that_ends_well_is_a_good_end(run: Callable[..., Launch]) -> None:
    launch = run(
        """
        launch:
          - executable: {cmd: PYTHON obedient.py}
          - executable: {cmd: sh -c 'sleep 0.5', on_exit: shutdown}
        """
    )
    assert launch.wait() == 0


def test_a_process_that_is_not_required_may_die_but_is_not_forgotten(run: Callable[..., Launch]) -> None:
    launch = run(
        """
        launch:
          - executable: {cmd: sh -c 'exit 3', name: weak}
          - executable: {cmd: PYTHON obedient.py}
        """
    )
    launch.until("[weak-1] -- died: exit code 3")
    launch.until("here")
    assert launch.process.poll() is None
    launch.process.send_signal(signal.SIGINT)
    assert launch.wait() == 3


def test_a_process_is_respawned_as_often_as_allowed(run: Callable[..., Launch]) -> None:
    launch = run(
        """
        launch:
          - executable:
              cmd: sh -c 'echo life; exit 1'
              name: phoenix
              respawn: "true"
              respawn_delay: 0.1
              respawn_max_retries: 2
        """
    )
    assert launch.wait() == 1
    assert launch.output.count("[phoenix-1] life") == 3


def test_no_respawn_once_everything_is_to_end(run: Callable[..., Launch]) -> None:
    launch = run('launch: [{executable: {cmd: PYTHON obedient.py, respawn: "true"}}]')
    launch.until("here")
    os.kill(launch.pids()[0], signal.SIGKILL)
    launch.until("here", 2)
    launch.process.send_signal(signal.SIGINT)
    assert launch.wait() == 0
    assert len(launch.pids()) == 2


def test_a_command_that_does_not_exist_ends_the_launch_with_its_name(run: Callable[..., Launch]) -> None:
    launch = run("launch: [{executable: {cmd: PYTHON obedient.py}}, {executable: {cmd: no-such-program}}]")
    assert launch.wait() == 127
    assert "cannot start: [Errno 2] No such file or directory: 'no-such-program'" in launch.output
    assert gone(launch.pids())


def test_children_get_the_environment_of_ros_and_of_the_file(run: Callable[..., Launch]) -> None:
    launch = run(
        """
        launch:
          - set_env: {name: ROS_DOMAIN_ID, value: "57"}
          - executable: {cmd: env}
        """
    )
    assert launch.wait() == 0
    for line in ("ROS_DOMAIN_ID=57", "PYTHONUNBUFFERED=1", "ROS_AUTOMATIC_DISCOVERY_RANGE="):
        assert f"[env-1] {line}" in launch.output


def test_nothing_is_started_when_the_file_has_an_error_further_down(run: Callable[..., Launch]) -> None:
    launch = run("launch: [{executable: {cmd: touch started}}, {executable: {cmd: $(var oops)}}]")
    assert launch.wait() == 1
    assert "error: x.launch.yaml[1].executable: $(var oops): not set" in launch.output
    assert not (launch.log.parent / "started").exists()
