"""An append-only file that always ends at a whole record, and reaches the disk without stalling its writer."""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path

_SYNC_THREAD_JOIN_S = 30.0


class AppendFile:
    """The output stream under ``mcap.writer.Writer``: every write goes to the kernel at once, in one piece.

    Python's own buffering is left out on purpose: what a killed process had written is then whatever the kernel
    was given, and that is a sequence of complete records. ``fdatasync`` runs in a thread of its own, because on
    a busy disk it takes long enough to make a subscription overflow.
    """

    def __init__(self, path: Path, sync_period_s: float = 1.0) -> None:
        """Create the file; it must not exist yet.

        Raises:
            FileExistsError: nothing is ever overwritten.
        """
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)  # held while recording; see is_being_written
        self._size = 0
        self._synced = 0
        self.sync_error: OSError | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._sync_loop, args=(sync_period_s,), name="bag-fdatasync", daemon=True
        )
        self._thread.start()

    def write(self, data: bytes) -> int:
        """Append ``data`` completely.

        Raises:
            OSError: the disk is full or broken; the file may now end in half a record (see ``truncate``).
        """
        view = memoryview(data)
        while view:
            written = os.write(self._descriptor, view)
            self._size += written
            view = view[written:]
        return len(data)

    def tell(self) -> int:
        """Bytes written so far."""
        return self._size

    def flush(self) -> None:
        """Nothing is buffered here."""

    def truncate(self, size: int) -> None:
        """Drop everything after ``size``: used after a failed write to get back to a whole record."""
        os.ftruncate(self._descriptor, size)
        os.lseek(self._descriptor, size, os.SEEK_SET)
        self._size = size

    @property
    def closed(self) -> bool:
        """``close`` has been called, successfully or not."""
        return self._descriptor < 0

    def close(self) -> None:
        """Stop the thread, bring everything to the disk and close.

        Raises:
            OSError: the last or an earlier ``fdatasync`` failed, so the data may not be on the disk.
        """
        if self._descriptor < 0:
            return
        self._stop.set()
        self._thread.join(_SYNC_THREAD_JOIN_S)
        try:
            os.fdatasync(self._descriptor)
        finally:
            os.close(self._descriptor)
            self._descriptor = -1
        if self.sync_error is not None:
            raise self.sync_error

    def _sync_loop(self, period_s: float) -> None:
        while not self._stop.wait(period_s):
            size = self._size
            if size == self._synced:
                continue
            try:
                os.fdatasync(self._descriptor)
            except OSError as error:
                self.sync_error = error  # raised by close(); the recorder shows it meanwhile
                return
            self._synced = size


def is_being_written(path: Path) -> bool:
    """Whether a living process holds this file open through ``AppendFile``."""
    with open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False
