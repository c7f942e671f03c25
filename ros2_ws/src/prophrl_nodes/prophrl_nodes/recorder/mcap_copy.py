"""Writes the records of one MCAP file into another, with new chunks and a new index."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Any

from mcap.records import Attachment, Channel, Message, Metadata, Schema
from mcap.writer import CompressionType, Writer

LIBRARY = "prophrl recorder"
CHUNK_BYTES = 4 * 1024 * 1024


class McapCopy:
    """The target of a copy. Leaving the context after an error removes the unfinished file."""

    def __init__(self, path: Path, compression: CompressionType) -> None:
        """Create ``path``, replacing what an interrupted earlier copy left there."""
        self._path = path
        path.unlink(missing_ok=True)
        self._file = open(path, "xb")  # noqa: SIM115 (closed in __exit__)
        self._writer = Writer(self._file, chunk_size=CHUNK_BYTES, compression=compression)
        self._writer.start(profile="ros2", library=LIBRARY)
        self._schemas: dict[int, int] = {0: 0}
        self._channels: dict[int, int] = {}

    def __enter__(self) -> McapCopy:
        return self

    def __exit__(self, kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        if kind is None:
            self._writer.finish()
            self._file.flush()
            os.fsync(self._file.fileno())
        self._file.close()
        if kind is not None:
            self._path.unlink(missing_ok=True)

    def add(self, record: Any) -> bool:
        """Copy one record; False for a message whose channel is not known (its description was damaged)."""
        if isinstance(record, Message):
            channel_id = self._channels.get(record.channel_id)
            if channel_id is None:
                return False
            self._writer.add_message(channel_id, record.log_time, record.data, record.publish_time, record.sequence)
        elif isinstance(record, Schema):
            if record.id not in self._schemas:
                self._schemas[record.id] = self._writer.register_schema(record.name, record.encoding, record.data)
        elif isinstance(record, Channel):
            if record.id not in self._channels:
                self._channels[record.id] = self._writer.register_channel(
                    record.topic, record.message_encoding, self._schemas.get(record.schema_id, 0), record.metadata
                )
        elif isinstance(record, Metadata):
            self._writer.add_metadata(record.name, record.metadata)
        elif isinstance(record, Attachment):
            self._writer.add_attachment(
                record.create_time, record.log_time, record.name, record.media_type, record.data
            )
        return True
