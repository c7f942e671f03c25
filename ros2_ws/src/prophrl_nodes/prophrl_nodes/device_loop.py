"""A thread that keeps one device running: connect, work, and after an error close, say why, and try again."""

from __future__ import annotations

from collections.abc import Callable

from prophrl_nodes.periodic import PeriodicThread


class DeviceLoop:
    """Runs ``work`` every ``period_s`` seconds while the device is connected.

    Args:
        name: thread name.
        connect, work, close: what to do with the device; ``work`` may block up to about a second.
        errors: exceptions that mean "the device failed, try again"; anything else goes to ``on_bug``.
        period_s: 0 when ``work`` itself waits for the device.
        retry_s: pause before connecting again.
        on_bug: told about exceptions nobody foresaw; the loop ends.
    """

    def __init__(
        self,
        name: str,
        *,
        connect: Callable[[], None],
        work: Callable[[], None],
        close: Callable[[], None],
        errors: tuple[type[Exception], ...],
        period_s: float,
        on_bug: Callable[[BaseException], None],
        retry_s: float = 1.0,
    ) -> None:
        self._connect, self._work, self._close = connect, work, close
        self._errors = errors
        self._retry_s = retry_s
        self._thread = PeriodicThread(name, period_s, self._step, on_bug)
        self._connected = False
        self.problem = "connecting"
        """Why the device does not run, in words for the operator; empty while it does."""
        self.failures = 0
        """Errors since the start."""

    @property
    def first_attempt(self) -> bool:
        """True until the first connection has succeeded or failed."""
        return bool(self.problem) and not self.failures

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread and close the device."""
        self._thread.stop(timeout_s=5.0)
        if self._connected:
            self._connected = False
            self._close()

    def _step(self) -> None:
        try:
            if not self._connected:
                self._connect()
                self._connected = True
            self._work()
            self.problem = ""
        except self._errors as error:
            self.failures += 1
            self.problem = str(error)
            self._drop()
            self._thread.stopping.wait(self._retry_s)

    def _drop(self) -> None:
        if self._connected:
            self._connected = False
            try:
                self._close()
            except self._errors as error:
                self.problem += f" (and closing it failed: {error})"
