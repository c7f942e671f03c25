"""Files that are either complete or absent: small JSON, growing .npy, whole folders."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file so that a crash leaves the old or the new one, never half of one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w") as file:
        json.dump(value, file, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Bring renames inside a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def publish_folder(temporary: Path, final: Path) -> None:
    """Make a finished folder appear under its final name in one step, with its content on the disk first."""
    for file in temporary.iterdir():
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
    sync_folder(temporary)
    temporary.rename(final)
    sync_folder(final.parent)


def publish_tree(temporary: Path, final: Path) -> None:
    """``publish_folder`` for a folder with folders in it; ``final`` may be an empty folder."""
    for path in sorted(temporary.rglob("*"), reverse=True):
        if path.is_dir():
            sync_folder(path)
        else:
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
    sync_folder(temporary)
    os.replace(temporary, final)
    sync_folder(final.parent)


class NpyStream:
    """Writes an array [T, ...] of unknown T as a .npy file, row by row, hashing the rows on the way.

    The header is written with a fixed size and completed when T is known, so memory holds one row at most.
    """

    _HEADER_BYTES = 128  # NumPy's own header for such arrays; a multiple of 64 as the format asks

    def __init__(self, path: Path, row_shape: tuple[int, ...], dtype: Any = np.uint8) -> None:
        self._row_shape, self._dtype = row_shape, np.dtype(dtype)
        self._file = path.open("wb")
        self._file.write(bytes(self._HEADER_BYTES))
        self._hash = hashlib.sha256()
        self.rows = 0

    def append(self, row: NDArray[Any]) -> None:
        """Add one row.

        Raises:
            ValueError: another shape or dtype than announced.
        """
        if row.shape != self._row_shape or row.dtype != self._dtype:
            raise ValueError(f"rows are {self._dtype} {self._row_shape}, got {row.dtype} {row.shape}")
        data = np.ascontiguousarray(row).data
        self._file.write(data)
        self._hash.update(data)
        self.rows += 1

    @property
    def sha256(self) -> str:
        """Hash of the rows so far (of the values, not of the file)."""
        return self._hash.hexdigest()

    def close(self) -> None:
        """Complete the header and close; without this the file is not readable."""
        if self._file.closed:
            return
        shape = (self.rows, *self._row_shape)
        text = repr({"descr": np.lib.format.dtype_to_descr(self._dtype), "fortran_order": False, "shape": shape})
        body = text.encode("latin1").ljust(self._HEADER_BYTES - 11) + b"\n"  # 10 bytes of magic, version and length
        self._file.seek(0)
        self._file.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(body)) + body)
        self._file.close()

    def __enter__(self) -> NpyStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._file.close()


def array_sha256(array: NDArray[Any]) -> str:
    """Hash of an array's values in C order; equals ``NpyStream.sha256`` of the same rows. Reads row by row."""
    digest = hashlib.sha256()
    for row in array:
        digest.update(np.ascontiguousarray(row).data)
    return digest.hexdigest()
