"""Ends child processes in order: interrupted first, so that they can save and close what is open, then killed."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Iterator


@contextlib.contextmanager
def stopped_in_order(process: subprocess.Popen[bytes], timeout_s: float) -> Iterator[None]:
    """Whatever happens inside, the process has ended afterwards.

    Args:
        timeout_s: what it is given after the interrupt before it is killed.
    """
    try:
        yield
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def heed_interrupts() -> None:
    """For ``Popen(preexec_fn=...)``: the child can be interrupted even where its parent ignores interrupts.

    Whoever starts us in the background may ignore them, and children inherit that: they would only die of the kill.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
