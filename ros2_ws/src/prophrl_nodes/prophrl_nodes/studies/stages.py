"""Stages of a study that run as launch files: started like a user would, watched through what they write."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from prophrl_nodes.environment import ros_environment
from prophrl_nodes.processes import heed_interrupts, stopped_in_order

POLL_S = 0.5
STOP_TIMEOUT_S = 45.0


class StageError(RuntimeError):
    """A stage ended before its work was done; the message has the last lines of its log."""


def launch_command(launch_file: str, arguments: Mapping[str, object]) -> list[str]:
    """The `prophrl launch` command line of a launch file and its arguments."""
    given = [f"{name}:={value}" for name, value in arguments.items()]
    return [sys.executable, "-m", "prophrl_nodes.cli.main", "launch", launch_file, *given]


def run_stage(command: list[str], log_path: Path, watch: Callable[[], None], *, domain_id: int | None = None) -> None:
    """Run a launch until it ends by itself, calling ``watch`` twice a second; Ctrl-C stops it in order.

    Raises:
        StageError: it ended with an error.
    """
    with log_path.open("a") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
            env=ros_environment(domain_id), preexec_fn=heed_interrupts,
        )  # fmt: skip
        with stopped_in_order(process, STOP_TIMEOUT_S):
            while process.poll() is None:
                time.sleep(POLL_S)
                watch()
    watch()
    if process.returncode != 0:
        tail = "\n".join("  " + line for line in log_path.read_text(errors="replace").splitlines()[-12:])
        raise StageError(f"`{' '.join(command[2:5])}` ended with {process.returncode}; the end of {log_path}:\n{tail}")
