"""Children end in order: interrupted, given time, and killed only when that is up."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from prophrl_nodes.processes import heed_interrupts, stopped_in_order

SAVES = """
import pathlib, sys, time
try:
    pathlib.Path(sys.argv[1], 'began').touch()
    time.sleep(100)
except KeyboardInterrupt:
    pathlib.Path(sys.argv[1], 'saved').touch()
"""
DEAF = """
import pathlib, signal, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
pathlib.Path(sys.argv[1], 'began').touch()
time.sleep(100)
"""


def started(program: str, folder: Path) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", program, str(folder)], preexec_fn=heed_interrupts)
    while not (folder / "began").is_file():
        assert process.poll() is None
    return process


def test_an_error_beside_a_child_gives_it_the_time_to_save(tmp_path: Path) -> None:
    process = started(SAVES, tmp_path)
    with pytest.raises(ZeroDivisionError), stopped_in_order(process, 30.0):
        _ = 1 / 0
    assert process.returncode == 0 and (tmp_path / "saved").is_file()


def test_a_child_that_does_not_listen_is_killed(tmp_path: Path) -> None:
    process = started(DEAF, tmp_path)
    with stopped_in_order(process, 0.1):
        pass
    assert process.returncode == -signal.SIGKILL


def test_a_child_that_has_ended_is_left_alone(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    with stopped_in_order(process, 30.0):
        process.wait()
    assert process.returncode == 3


def test_a_child_heeds_interrupts_where_its_parent_ignores_them(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stopped_in_order(started(SAVES, tmp_path), 30.0):
            pass
    finally:
        signal.signal(signal.SIGINT, before)
    assert (tmp_path / "saved").is_file()
