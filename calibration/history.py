"""Keeps the files that newer ones replace: a calibration somebody trusted is never lost to a careless second one."""

from __future__ import annotations

import os
from pathlib import Path

HISTORY = "history"
"""Folder beside a file that keeps what stood there before."""


def keep_copy(path: Path, label: str) -> Path:
    """Copy a file to ``history/<stem>-<label><suffix>`` beside it; the same content is kept once.

    Raises:
        OSError: it cannot be read or written; the caller must not replace it then.
    """
    content = path.read_bytes()
    folder = path.parent / HISTORY
    folder.mkdir(exist_ok=True)
    count = 1
    while True:
        kept = folder / f"{path.stem}-{label}{f'-{count}' if count > 1 else ''}{path.suffix}"
        if kept.exists() and kept.read_bytes() != content:
            count += 1
            continue
        if not kept.exists():
            with kept.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        return kept
