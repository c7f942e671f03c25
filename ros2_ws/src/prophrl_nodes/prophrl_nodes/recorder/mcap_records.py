"""Reads an MCAP file from its beginning, record by record, and says exactly where and how it is damaged.

``mcap.stream_reader`` stops with an exception at the first damage; here damage is a result: what is whole is
delivered, a chunk whose CRC does not fit is skipped, and a file that breaks off is read up to the break.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import zstandard
from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError
from mcap.opcode import Opcode
from mcap.records import Attachment, Channel, Chunk, Header, Message, Metadata, Schema
from mcap.stream_reader import CRCValidationError, breakup_chunk
from mcap.writer import MCAP0_MAGIC

_PREFIX = struct.Struct("<BQ")
_READERS: dict[int, Any] = {
    Opcode.HEADER: Header,
    Opcode.SCHEMA: Schema,
    Opcode.CHANNEL: Channel,
    Opcode.CHUNK: Chunk,
    Opcode.ATTACHMENT: Attachment,
    Opcode.METADATA: Metadata,
}
_CARRIES_DATA = (Opcode.MESSAGE, Opcode.CHUNK, Opcode.SCHEMA, Opcode.CHANNEL, Opcode.ATTACHMENT, Opcode.METADATA)


@dataclass
class Damage:
    """What is wrong with a file. ``complete``: closed properly; ``lossy``: data that was in the file is gone."""

    complete: bool = False
    lossy: bool = False
    notes: list[str] = field(default_factory=list)
    read_bytes: int = 0

    def lose(self, note: str) -> None:
        """Note a damage that cost data."""
        self.lossy = True
        if note not in self.notes:
            self.notes.append(note)


def read_records(path: Path, damage: Damage) -> Iterator[Any]:
    """Yield ``Schema``, ``Channel``, ``Message``, ``Metadata`` and ``Attachment`` records in file order.

    Args:
        path: an MCAP file, closed properly or not.
        damage: filled in while reading; final when the iterator is exhausted.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        if file.read(len(MCAP0_MAGIC)) != MCAP0_MAGIC:
            damage.lose(f"{path.name} does not begin like an MCAP file" if size else f"{path.name} is empty")
            return
        damage.read_bytes = len(MCAP0_MAGIC)
        while True:
            prefix = file.read(_PREFIX.size)
            if len(prefix) < _PREFIX.size:
                damage.notes.append(f"{path.name} ends at byte {size} without its index: the recorder was killed")
                if prefix:
                    damage.lose(f"the last {len(prefix)} bytes are the beginning of a record")
                return
            opcode, length = _PREFIX.unpack(prefix)
            if opcode == Opcode.DATA_END:
                _check_end(file, size, damage)
                return
            if length > size - file.tell():
                _break_off(opcode, size - file.tell(), damage)
                return
            content = file.read(length)
            yield from _records_of(opcode, content, file.tell(), damage)
            damage.read_bytes = file.tell()


def _records_of(opcode: int, content: bytes, end: int, damage: Damage) -> Iterator[Any]:
    reader = ReadDataStream(BytesIO(content))
    try:
        if opcode == Opcode.MESSAGE:
            yield Message.read(reader, len(content))
        elif opcode == Opcode.CHUNK:
            yield from breakup_chunk(Chunk.read(reader), validate_crc=True)
        elif opcode in _READERS and opcode != Opcode.HEADER:
            yield _READERS[opcode].read(reader)
    except (CRCValidationError, McapError, struct.error, UnicodeDecodeError, zstandard.ZstdError, zlib.error) as error:
        name = Opcode(opcode).name.lower()
        damage.lose(f"{name} of {len(content)} bytes ending at byte {end} is corrupt and was left out ({error})")


def _break_off(opcode: int, left: int, damage: Damage) -> None:
    known = opcode in Opcode.__members__.values()
    if not known:
        damage.lose(f"no MCAP record begins at byte {damage.read_bytes}; {left} bytes after it cannot be read")
    elif opcode in _CARRIES_DATA:
        damage.lose(f"the file breaks off within a {Opcode(opcode).name.lower()}: {left} bytes are lost")
    else:
        damage.notes.append(f"the file breaks off within a {Opcode(opcode).name.lower()} record; no message is lost")


def _check_end(file: BinaryIO, size: int, damage: Damage) -> None:
    """Behind the data: the summary must reach to the closing magic."""
    file.seek(max(0, size - len(MCAP0_MAGIC)))
    damage.complete = not damage.lossy and file.read() == MCAP0_MAGIC
    if not damage.complete and not damage.lossy:
        damage.notes.append("all data is there, but the index at the end is not")
    damage.read_bytes = size
