"""TFRecord files: length, masked CRC of the length, data, masked CRC of the data; again and again.

Written from the description of the framing in TensorFlow's documentation; TensorFlow itself is not needed.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

from prophrl_models.data.registry.crc32c import masked_crc32c
from prophrl_models.data.registry.errors import CorruptFileError

_HEADER, _FOOTER = 12, 4


def record_offsets(file: Path) -> list[int]:
    """Where each record starts, found by reading the length fields only (each with its own CRC checked).

    Raises:
        CorruptFileError: a damaged length or a truncated record, with file and offset.
    """
    size = os.path.getsize(file)
    offsets, position = [], 0
    with file.open("rb") as stream:
        while position < size:
            length = _length(stream.read(_HEADER), file, position)
            end = position + _HEADER + length + _FOOTER
            if end > size:
                raise CorruptFileError(
                    f"{file}: the record at byte {position} needs bytes up to {end}, the file ends at {size}; "
                    "fetch the file again"
                )
            offsets.append(position)
            stream.seek(end)
            position = end
    return offsets


def read_record(file: Path, offset: int) -> bytes:
    """The data of the record that starts at a byte offset.

    Raises:
        CorruptFileError: its length, its data or one of the CRCs is damaged, with file and offset.
    """
    with file.open("rb") as stream:
        stream.seek(offset)
        length = _length(stream.read(_HEADER), file, offset)
        data, footer = stream.read(length), stream.read(_FOOTER)
    if len(data) < length or len(footer) < _FOOTER:
        raise CorruptFileError(f"{file}: the record at byte {offset} is cut off; fetch the file again")
    stored, found = struct.unpack("<I", footer)[0], masked_crc32c(data)
    if stored != found:
        raise CorruptFileError(
            f"{file}: the data of the record at byte {offset} ({length} bytes) has CRC {found:#010x}, stored is "
            f"{stored:#010x}; fetch the file again"
        )
    return data


def records(file: Path) -> Iterator[bytes]:
    """All records of a file in order."""
    for offset in record_offsets(file):
        yield read_record(file, offset)


def _length(header: bytes, file: Path, offset: int) -> int:
    if len(header) < _HEADER:
        raise CorruptFileError(f"{file}: the file ends inside the record header at byte {offset}; fetch it again")
    length, stored = struct.unpack("<QI", header)
    found = masked_crc32c(header[:8])
    if stored != found:
        raise CorruptFileError(
            f"{file}: the record length at byte {offset} has CRC {found:#010x}, stored is {stored:#010x}; this is no "
            "TFRecord file, or it is damaged: fetch it again"
        )
    return int(length)
