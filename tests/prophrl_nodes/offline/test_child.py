"""Children that work on a stage: watched, stopped in order, and their last words passed on."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from prophrl_nodes.offline.child import STAGE_STOP_TIMEOUT_S, STOP_TIMEOUT_S, ChildFailed, ChildStopped, run_child
from prophrl_nodes.offline.progress import ProgressFile, read_progress

COUNTS = "import pathlib, sys; pathlib.Path(sys.argv[1]).write_text('worked')"
FAILS = "print('error: no such task'); raise SystemExit(3)"
SAVES_WHEN_INTERRUPTED = """
import pathlib, sys, time
pathlib.Path(sys.argv[1], 'began').touch()
try:
    time.sleep(100)
except KeyboardInterrupt:
    pathlib.Path(sys.argv[1], 'saved').touch()
"""

STUBBORN = """
import os, pathlib, signal, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
folder = pathlib.Path(sys.argv[1])
(folder / 'writing').write_text(str(os.getpid()))
(folder / 'writing').rename(folder / 'pid')
time.sleep(100)
"""
FLOW = """
import pathlib
from prophrl_nodes.offline.child import run_child
run_child({stage!r}, pathlib.Path({log!r}), lambda: None, stop_timeout_s=0.5)
"""


def test_a_child_that_ends_well_was_watched_after_its_end(tmp_path: Path) -> None:
    seen: list[bool] = []
    result = tmp_path / "result"
    run_child([sys.executable, "-c", COUNTS, str(result)], tmp_path / "log", lambda: seen.append(result.is_file()))
    assert seen[-1]


def test_a_failure_says_the_childs_own_error(tmp_path: Path) -> None:
    with pytest.raises(ChildFailed, match="ended with 3: error: no such task"):
        run_child([sys.executable, "-c", FAILS], tmp_path / "log", lambda: None)


def test_a_child_that_is_stopped_has_the_time_to_save(tmp_path: Path) -> None:
    began = tmp_path / "began"
    with pytest.raises(ChildStopped, match="goes on where it stopped"):
        command = [sys.executable, "-c", SAVES_WHEN_INTERRUPTED, str(tmp_path)]
        run_child(command, tmp_path / "log", lambda: None, began.is_file)
    assert (tmp_path / "saved").is_file()


def test_a_stubborn_grandchild_does_not_outlive_its_flow(tmp_path: Path) -> None:
    stage = [sys.executable, "-c", STUBBORN, str(tmp_path)]
    flow = FLOW.format(stage=stage, log=str(tmp_path / "stage.log"))
    pid = tmp_path / "pid"
    with pytest.raises(ChildStopped):
        run_child([sys.executable, "-c", flow], tmp_path / "log", lambda: None, pid.is_file, stop_timeout_s=30.0)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
    assert STAGE_STOP_TIMEOUT_S < STOP_TIMEOUT_S


def test_progress_is_read_as_it_was_said_and_repetition_is_no_news(tmp_path: Path) -> None:
    assert read_progress(tmp_path) is None
    said = ProgressFile(tmp_path)
    first = said.say("world", 3, 10, "adapting")
    assert read_progress(tmp_path) == first
    said.say("world", 3, 10, "adapting")
    assert read_progress(tmp_path) == first
    assert said.say("world", 4, 10, "adapting").step == 4
    assert read_progress(tmp_path) != first
