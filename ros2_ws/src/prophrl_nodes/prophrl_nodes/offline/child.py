"""A child process that works on a flow's stage: watched twice a second, stopped in order, its log kept."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from prophrl_nodes.processes import heed_interrupts, stopped_in_order

POLL_S = 0.5
STOP_TIMEOUT_S = 60.0
"""What a flow is given to save before it is killed."""
STAGE_STOP_TIMEOUT_S = 45.0
"""What the flow gives its stage: shorter, or the flow would be killed while it waits, and leave the stage running."""
TAIL_LINES = 12


class ChildFailed(RuntimeError):
    """The child ended with an error; the message has the end of its log, ``code`` is its exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class ChildStopped(RuntimeError):
    """The child was stopped on request before it was done."""


def run_child(
    command: list[str],
    log_path: Path,
    watch: Callable[[], None],
    should_stop: Callable[[], bool] = lambda: False,
    *,
    stop_timeout_s: float = STOP_TIMEOUT_S,
) -> None:
    """Run a command to its end; ``watch`` is called twice a second and once after the end.

    Args:
        stop_timeout_s: what the child is given after an interrupt before it is killed.

    Raises:
        ChildFailed: it ended with an error.
        ChildStopped: ``should_stop`` said so; the child got an interrupt and the time to save.
    """
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with log_path.open("a") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
            preexec_fn=heed_interrupts, env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        with stopped_in_order(process, stop_timeout_s):
            while process.poll() is None:
                if should_stop():
                    raise ChildStopped("stopped on request; the same run goes on where it stopped")
                time.sleep(POLL_S)
                watch()
    watch()
    if process.returncode != 0:
        lines = log_path.read_text(errors="replace").splitlines()[-TAIL_LINES:]
        said = next((line for line in reversed(lines) if line.startswith("error: ")), "")
        tail = said or "\n".join(["", *("  " + line for line in lines)])
        what = " ".join(command[2:6])
        raise ChildFailed(f"{what} ended with {process.returncode}: {tail} (log: {log_path})", process.returncode)
