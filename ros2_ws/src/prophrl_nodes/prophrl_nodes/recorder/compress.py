"""Packs the bags of recorded episodes with zstd, after the fact and verified before anything is replaced."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mcap.records import Attachment, Channel, Message, Metadata, Schema
from mcap.writer import CompressionType

from prophrl_models.data.files import sync_folder
from prophrl_nodes.recorder.files import is_being_written
from prophrl_nodes.recorder.mcap_copy import McapCopy
from prophrl_nodes.recorder.mcap_records import Damage, read_records
from prophrl_nodes.recorder.recover import find_bag_file


class CompressError(ValueError):
    """The bag was left as it was; the message says why."""


@dataclass(frozen=True)
class CompressReport:
    """Sizes in bytes; equal when packing would not have helped."""

    path: str
    messages: int
    before: int
    after: int

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return asdict(self)


def compress_bag(path: Path) -> CompressReport:
    """Replace a bag's file by one with zstd chunks and the same content.

    The packed file is read back and compared record by record before it takes the place of the old one in one
    rename, so an interruption at any moment leaves one whole bag. ``metadata.yaml`` does not change: chunk
    compression is MCAP's own affair.

    Args:
        path: bag folder or MCAP file.

    Raises:
        CompressError: damaged, being recorded, too little room, or the packed file differs.
    """
    file = find_bag_file(path)
    if is_being_written(file):
        raise CompressError(f"{file} is being recorded right now; finish the episode first")
    before = file.stat().st_size
    if shutil.disk_usage(file.parent).free < before:
        raise CompressError(f"too little room beside {file} to pack it ({before / 1e6:.0f} MB needed at worst)")
    packed = file.with_suffix(".mcap.packing")
    try:
        damage = Damage()
        messages, digest = _pack(file, packed, damage)
        if not damage.complete:
            raise CompressError(f"{file} is damaged ({'; '.join(damage.notes)}); run: prophrl bag recover {path}")
        check = Damage()
        if _fingerprint(read_records(packed, check)) != (messages, digest) or not check.complete:
            raise CompressError(f"the packed copy of {file} differs from the original; nothing was changed")
        after = packed.stat().st_size
        if after >= before:
            return CompressReport(str(file), messages, before, before)
        os.replace(packed, file)
        sync_folder(file.parent)
        return CompressReport(str(file), messages, before, after)
    finally:
        packed.unlink(missing_ok=True)


def _pack(source: Path, target: Path, damage: Damage) -> tuple[int, str]:
    """Write ``source`` to ``target`` with zstd; returns the fingerprint of what was read."""
    fingerprint = _Fingerprint()
    with McapCopy(target, CompressionType.ZSTD) as copy:
        for record in read_records(source, damage):
            fingerprint.add(record)
            copy.add(record)
    return fingerprint.result()


class _Fingerprint:
    """Number and digest of all content, independent of how it is cut into chunks and numbered."""

    def __init__(self) -> None:
        self._messages = 0
        self._hash = hashlib.blake2b(digest_size=16)
        self._topics: dict[int, str] = {}
        self._schemas: dict[int, tuple[str, str, bytes]] = {}

    def add(self, record: Any) -> None:
        if isinstance(record, Message):
            self._messages += 1
            self._put(self._topics.get(record.channel_id), record.log_time, record.publish_time, record.sequence)
            self._hash.update(record.data)
        elif isinstance(record, Schema):
            self._schemas[record.id] = (record.name, record.encoding, record.data)
        elif isinstance(record, Channel) and record.id not in self._topics:
            self._topics[record.id] = record.topic
            schema = self._schemas.get(record.schema_id)
            self._put(record.topic, record.message_encoding, sorted(record.metadata.items()), schema)
        elif isinstance(record, Metadata):
            self._put(record.name, sorted(record.metadata.items()))
        elif isinstance(record, Attachment):
            self._put(record.name, record.media_type, record.create_time, record.log_time, record.data)

    def _put(self, *values: Any) -> None:
        self._hash.update(repr(values).encode())

    def result(self) -> tuple[int, str]:
        return self._messages, self._hash.hexdigest()


def _fingerprint(records: Iterable[Any]) -> tuple[int, str]:
    fingerprint = _Fingerprint()
    for record in records:
        fingerprint.add(record)
    return fingerprint.result()
