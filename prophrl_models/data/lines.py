"""Records in a file that only grows, one JSON object per line: what was appended survives any crash.

A program that dies while it writes leaves a last line without its end. Readers leave such a line out, and never touch
the file: another program may just be writing it. Whoever appends next cuts it off first.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


class LineError(ValueError):
    """A line that is no record; the message names file, line and remedy."""

    def __init__(self, path: Path, number: int, reason: object) -> None:
        super().__init__(f"{path}, line {number} is damaged ({reason}); restore or remove that line")


def read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number (from 1) and record of each complete line; nothing where there is no file.

    Raises:
        LineError: a complete line is no JSON object.
    """
    data = path.read_bytes() if path.exists() else b""
    for number, line in enumerate(data[: data.rfind(b"\n") + 1].splitlines(), start=1):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise LineError(path, number, error) from error
        if not isinstance(record, dict):
            raise LineError(path, number, f"a {type(record).__name__} instead of an object")
        yield number, record


def append_line(path: Path, record: Mapping[str, Any]) -> None:
    """Add one record; it is on the disk when this returns."""
    line = json.dumps(record).encode() + b"\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        _cut_half_a_line(file.fileno(), path)
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def _cut_half_a_line(descriptor: int, path: Path) -> None:
    size = os.fstat(descriptor).st_size
    if size and os.pread(descriptor, 1, size - 1) != b"\n":
        os.ftruncate(descriptor, path.read_bytes().rfind(b"\n") + 1)
