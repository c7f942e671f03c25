"""A plain thread that calls a function at a fixed rate by absolute deadlines.

rclpy timers skip periods on a busy machine; a thread that sleeps until the next deadline keeps the count. After an
overrun longer than one period the missed calls are dropped, never made up in a burst.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

logger = logging.getLogger(__name__)


class PeriodicThread:
    """Calls ``work()`` every ``period_s`` seconds until stopped.

    An exception in ``work`` ends the thread and is handed to ``on_error``: a loop that goes on after an error that
    nobody foresaw would hide it.
    """

    def __init__(
        self, name: str, period_s: float, work: Callable[[], None], on_error: Callable[[BaseException], None]
    ) -> None:
        self._period_s = period_s
        self._work = work
        self._on_error = on_error
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start calling; once only."""
        self._thread.start()

    def stop(self, timeout_s: float = 2.0) -> None:
        """Ask the thread to end and wait for it; safe to call twice or from the thread itself."""
        self._stopping.set()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                logger.warning("thread %s did not end within %.1f s", self._thread.name, timeout_s)

    @property
    def stopping(self) -> threading.Event:
        """Set when the thread should end; ``work`` may wait on it instead of sleeping."""
        return self._stopping

    def _run(self) -> None:
        deadline_s = time.monotonic()
        try:
            while not self._stopping.is_set():
                self._work()
                deadline_s += self._period_s
                now_s = time.monotonic()
                if deadline_s < now_s - self._period_s:
                    deadline_s = now_s
                self._stopping.wait(max(0.0, deadline_s - now_s))
        except Exception as error:
            self._on_error(error)
