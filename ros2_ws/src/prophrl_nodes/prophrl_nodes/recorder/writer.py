"""Writes one episode into one rosbag2 bag (MCAP), built to survive being killed.

Serialised messages go in as they came off the wire. Chunks of 4 MB carry a CRC and are closed at least every
half second, so a killed recorder leaves a file that is readable up to that half second. Nothing is compressed
here: zstd costs several times the rest together (``benchmarks/recorder.py``); ``compress.py`` does it later.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

from mcap.writer import CompressionType, Writer

from prophrl_models.data.files import sync_folder
from prophrl_nodes.recorder.files import AppendFile
from prophrl_nodes.recorder.mcap_copy import CHUNK_BYTES, LIBRARY
from prophrl_nodes.recorder.metadata import (
    OfferedQos,
    TopicEntry,
    qos_yaml,
    render_metadata,
    write_atomically,
)
from prophrl_nodes.recorder.schemas import message_schema
from prophrl_nodes.recorder.statistics import TopicStatistics

EPISODE_RECORD = "prophrl.episode"
CALIBRATION_RECORD = "calibration"
"""MCAP metadata record with the keys ``id`` and ``calibration.yaml``: the text of the calibration in force."""
_SEQUENCE_MASK = 0xFFFFFFFF  # MCAP keeps 32 bits


class BagWriteError(OSError):
    """The bag could not be written further; what was flushed before is kept. Names the file and the cause."""


@dataclass
class BagTopic:
    """A topic of an open bag; pass it to ``BagWriter.write``."""

    name: str
    type_name: str
    type_hash: str
    qos: tuple[OfferedQos, ...]
    channel_id: int
    statistics: TopicStatistics = field(repr=False)


class BagWriter:
    """One bag: ``<folder>/<name>_0.mcap``, and ``metadata.yaml`` beside it once closed. Thread-safe."""

    def __init__(
        self,
        folder: Path,
        name: str,
        *,
        episode: Mapping[str, str] | None = None,
        calibration: str = "",
        flush_period_s: float = 0.5,
        sync_period_s: float = 1.0,
        compression: CompressionType = CompressionType.NONE,
    ) -> None:
        """Create the bag's file in an existing folder.

        Args:
            folder: the bag's folder.
            name: episode id; the file is named after it.
            episode: strings kept inside the file (task, instruction ...), so that they survive with it alone.
            calibration: text of the camera calibration in force, kept inside the file for the same reason.
            flush_period_s: longest time a message stays in memory.
            sync_period_s: how often the file is brought from the kernel to the disk.
            compression: of the chunks; NONE while recording.
        """
        self.path = folder / f"{name}_0.mcap"
        self.topics: dict[str, BagTopic] = {}
        self.failure = ""
        self.start_ns = time.time_ns()
        self.end_ns = self.start_ns
        self._first_log_ns = 0
        self._last_log_ns = 0
        self._schema_ids: dict[str, int] = {}
        self._flush_period_s = flush_period_s
        self._lock = threading.RLock()
        self._file = AppendFile(self.path, sync_period_s)
        self._mcap = Writer(cast(IO[bytes], self._file), chunk_size=CHUNK_BYTES, compression=compression)
        self._mcap.start(profile="ros2", library=LIBRARY)
        if episode:
            self._mcap.add_metadata(EPISODE_RECORD, dict(episode))
        if calibration:
            named = {"id": (episode or {}).get("calibration_id", ""), "calibration.yaml": calibration}
            self._mcap.add_metadata(CALIBRATION_RECORD, named)
        self._whole_bytes = self._file.tell()
        self._flushed_s = time.monotonic()
        self._open = True

    def add_topic(self, name: str, type_name: str, qos: Sequence[OfferedQos] = (), type_hash: str = "") -> BagTopic:
        """Register a topic; the definition of its type is embedded in the file.

        Args:
            name: fully resolved topic name.
            type_name: ``pkg/msg/Name``.
            qos: what the topic's publishers offer; replayed by ``ros2 bag play``.
            type_hash: RIHS01 hash announced on the graph; "" takes the one installed with the type, if any.

        Raises:
            SchemaError: the type's definition is not installed.
            ValueError: the topic is already in the bag with another type.
        """
        with self._lock:
            if name in self.topics:
                known = self.topics[name]
                if known.type_name != type_name:
                    raise ValueError(f"topic {name} is recorded as {known.type_name}, cannot also be {type_name}")
                return known
            schema = message_schema(type_name)
            if schema.type_name not in self._schema_ids:
                self._schema_ids[schema.type_name] = self._mcap.register_schema(
                    name=schema.type_name, encoding="ros2msg", data=schema.text.encode()
                )
            hash_ = type_hash or schema.type_hash
            channel_id = self._mcap.register_channel(
                topic=name,
                message_encoding="cdr",
                schema_id=self._schema_ids[schema.type_name],
                metadata={"offered_qos_profiles": qos_yaml(qos), "topic_type_hash": hash_},
            )
            durable = any(q.transient_local for q in qos)
            statistics = TopicStatistics(name, schema.type_name, durable)
            topic = BagTopic(name, schema.type_name, hash_, tuple(qos), channel_id, statistics)
            self.topics[name] = topic
            return topic

    def write(
        self,
        topic: BagTopic,
        data: bytes,
        log_ns: int,
        publish_ns: int,
        publisher: Any = None,
        sequence: int | None = None,
    ) -> None:
        """Write one live message.

        Args:
            topic: from ``add_topic``.
            data: CDR bytes, header included, as the middleware delivered them.
            log_ns: when it was received, Unix epoch.
            publish_ns: when it was published, Unix epoch.
            publisher, sequence: the publisher's identity and its own message counter, for counting losses.

        Raises:
            BagWriteError: this or an earlier write failed.
        """
        with self._lock:
            self._add(topic.channel_id, data, log_ns, publish_ns, sequence or 0)
            topic.statistics.add(publish_ns or log_ns, len(data), publisher, sequence)

    def replay(self, topic: BagTopic, data: bytes, publish_ns: int, log_ns: int = 0) -> None:
        """Write a latched message published before the bag was opened; its log time is now unless given.

        Raises:
            BagWriteError: as ``write``.
        """
        with self._lock:
            self._add(topic.channel_id, data, log_ns or time.time_ns(), publish_ns, 0)
            topic.statistics.replay(len(data))

    def flush_if_due(self) -> None:
        """Close the current chunk when it is older than the flush period; call this now and then from a timer.

        Raises:
            BagWriteError: as ``write``.
        """
        with self._lock:
            if self._open and not self.failure and time.monotonic() - self._flushed_s >= self._flush_period_s:
                self._guarded(self._flush)

    def close(self) -> None:
        """Finish index and summary, bring everything to the disk, write ``metadata.yaml``. Idempotent.

        After a failed write the file is cut back to its last whole chunk and left without an index, which
        ``prophrl bag recover`` rebuilds where there is room.

        Raises:
            BagWriteError: the file could not be finished.
        """
        with self._lock:
            if not self._open:
                return
            self._open = False
            self.end_ns = time.time_ns()
            try:
                if not self.failure:
                    self._guarded(self._finish)
            finally:
                if not self._file.closed:
                    self._file.truncate(self._whole_bytes)
                    self._file.close()

    @property
    def messages(self) -> int:
        """Messages written so far."""
        return sum(t.statistics.count for t in self.topics.values())

    @property
    def size_bytes(self) -> int:
        """Serialised bytes written so far, without MCAP's overhead."""
        return sum(t.statistics.bytes for t in self.topics.values())

    def summary(self) -> dict[str, dict[str, Any]]:
        """Per-topic figures from the opening of the bag until now (or until it was closed)."""
        end_ns = time.time_ns() if self._open else self.end_ns
        return {name: t.statistics.summary(self.start_ns, end_ns) for name, t in sorted(self.topics.items())}

    def _add(self, channel_id: int, data: bytes, log_ns: int, publish_ns: int, sequence: int) -> None:
        if self.failure or not self._open:
            raise BagWriteError(self.failure or f"{self.path} is closed")
        self._first_log_ns = min(self._first_log_ns, log_ns) if self._first_log_ns else log_ns
        self._last_log_ns = max(self._last_log_ns, log_ns)
        try:
            self._mcap.add_message(channel_id, log_ns, data, publish_ns or log_ns, sequence & _SEQUENCE_MASK)
            if time.monotonic() - self._flushed_s >= self._flush_period_s:
                self._flush()
        except OSError as error:
            self._fail(error)

    def _flush(self) -> None:
        self._flushed_s = time.monotonic()
        self._mcap.flush()
        self._whole_bytes = self._file.tell()
        if self._file.sync_error is not None:
            raise self._file.sync_error

    def _finish(self) -> None:
        self._mcap.finish()
        self._file.close()
        entries = [
            TopicEntry(t.name, t.type_name, t.type_hash, t.statistics.count, t.qos) for t in self.topics.values()
        ]
        text = render_metadata(self.path.name, self._first_log_ns or self.start_ns, self._last_log_ns, entries)
        write_atomically(self.path.parent / "metadata.yaml", text)
        sync_folder(self.path.parent)

    def _guarded(self, action: Any) -> None:
        try:
            action()
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        self.failure = f"writing {self.path} failed: {error}; free some space, then run: prophrl bag recover"
        raise BagWriteError(self.failure) from error
