"""Files in shared memory that appear whole, and mappings that follow them when they are replaced."""

from __future__ import annotations

import mmap
import os
import time
from pathlib import Path


class SharedStateError(RuntimeError):
    """The shared file is missing, foreign, or its writer died in the middle of a write."""


def create(path: Path, size: int) -> mmap.mmap:
    """A zeroed file of that size, mapped for writing, that appears under its name at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(temporary, "wb+") as file:
        file.truncate(size)
        mapped = mmap.mmap(file.fileno(), size)
    os.replace(temporary, path)
    return mapped


class Mapped:
    """A read-only mapping that follows its file when a restarted writer replaces it.

    Args:
        path: the file; it need not exist yet.
        what, remedy: what it holds and how it comes about, for the error message.
    """

    CHECK_EVERY_S = 0.25
    """How often the file's identity is looked up."""

    def __init__(self, path: Path, what: str, remedy: str) -> None:
        self._path, self._what, self._remedy = path, what, remedy
        self._map: mmap.mmap | None = None
        self._inode = -1
        self._checked_s = 0.0

    def buffer(self) -> mmap.mmap:
        """The current mapping.

        Raises:
            SharedStateError: there is no such file.
        """
        now = time.monotonic()
        if self._map is not None and now - self._checked_s < self.CHECK_EVERY_S:
            return self._map
        self._checked_s = now
        try:
            inode = os.stat(self._path).st_ino
            if self._map is None or inode != self._inode:
                with open(self._path, "rb") as file:
                    self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                    self._inode = os.fstat(file.fileno()).st_ino
        except OSError as error:
            raise SharedStateError(
                f"no {self._what} at {self._path} ({error.strerror}); {self._remedy}, "
                "or check the cell's twin.directory"
            ) from error
        return self._map

    def close(self) -> None:
        """Unmap the file; ``buffer`` maps it again."""
        if self._map is not None:
            self._map.close()
            self._map = None
