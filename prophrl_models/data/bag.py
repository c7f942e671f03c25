"""One recorded episode: an MCAP bag with ROS 2 messages, read without ROS.

A bag is a folder in the layout of rosbag2 (``metadata.yaml`` beside one or more ``.mcap`` files) or a bare
``.mcap`` file. Message types, ours included, are decoded from the schemas the bag itself carries.
What the operator and the recorder said about the episode is in ``episode.json`` beside the MCAP, in MCAP metadata
records and in the ``custom_data`` of ``metadata.yaml``; where they disagree the first of these wins, because a later
relabelling rewrites the smallest file.
"""

from __future__ import annotations

import hashlib
import heapq
import io
import json
import struct
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError
from mcap.reader import SeekingReader
from mcap.records import MessageIndex, Schema
from mcap.summary import Summary
from numpy.typing import NDArray
from zstandard import ZstdError

from prophrl_models.data.episode import NO_CALIBRATION, EpisodeMetadata
from prophrl_models.data.streams import TopicError, resolve_topic

CALIBRATION_FILE = "calibration.yaml"
_CALIBRATION_RECORD = "calibration"
_DAMAGE = (McapError, ZstdError, ValueError, KeyError, EOFError, struct.error)
_KNOWN_KEYS = (
    *("episode_id", "task", "instruction", "operator", "operator_name", "outcome", "accepted", "note"),
    *("calibration_id", "placement", "placement_json", "metadata", "metadata_json"),
)


class BagError(ValueError):
    """A bag that cannot be used; the message names the bag, what is wrong and what to do."""


@dataclass(frozen=True)
class TopicInfo:
    """One topic of a bag: ROS type name and number of messages."""

    type_name: str
    count: int


@dataclass(frozen=True)
class BagMessage:
    """One serialised message: ``log_time_ns`` is when the recorder received it, ``cdr`` are its bytes."""

    topic: str
    log_time_ns: int
    cdr: bytes
    schema: Schema


class Bag:
    """A complete bag, opened by reading its indexes only.

    Attributes:
        metadata: what was said about the episode.
        topics: what was recorded, by absolute topic name.
        start_ns, end_ns: receive times of the first and the last message.

    Raises:
        BagError: no such bag, cut off, damaged, or empty.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.files = _mcap_files(self.path)
        self._summaries = [self._summary(file) for file in self.files]
        counts: dict[str, int] = defaultdict(int)
        types: dict[str, str] = {}
        for summary in self._summaries:
            assert summary.statistics is not None  # guaranteed by _summary
            for channel in summary.channels.values():
                counts[channel.topic] += summary.statistics.channel_message_counts.get(channel.id, 0)
                schema = summary.schemas.get(channel.schema_id)
                types[channel.topic] = schema.name if schema else ""
        self.topics = {topic: TopicInfo(types[topic], counts[topic]) for topic in sorted(counts)}
        statistics = [s.statistics for s in self._summaries if s.statistics and s.statistics.message_count]
        if not statistics:
            raise BagError(f"{self.path} holds no messages; delete it or record the episode again")
        self.start_ns = min(s.message_start_time for s in statistics)
        self.end_ns = max(s.message_end_time for s in statistics)
        self._said = self._read_said()
        self.metadata = _metadata(self.path, self._said)
        self._decoders: dict[tuple[str, bytes], Callable[[bytes], Any]] = {}

    @property
    def name(self) -> str:
        """The bag's own name, for messages."""
        return self.path.name

    @property
    def bytes(self) -> int:
        return sum(file.stat().st_size for file in self.files)

    @cached_property
    def content_id(self) -> str:
        """Identifies what was recorded (topics, types, every receive time) and what was said about it.

        Moving, splitting or compressing a bag keeps it; relabelling an episode changes it.
        """
        digest = hashlib.sha256(json.dumps(self._said, sort_keys=True, default=str).encode())
        for topic, times in self.log_times_ns().items():
            digest.update(f"{topic} {self.topics[topic].type_name} ".encode() + times.astype("<i8").tobytes())
        return digest.hexdigest()

    @cached_property
    def calibration_yaml(self) -> str | None:
        """The camera calibration in force, as its file read: beside the MCAP, else inside it; None without one."""
        beside = self.path / CALIBRATION_FILE
        if beside.is_file():
            return beside.read_text(encoding="utf-8")
        with self._damage_named():
            for file in self.files:
                with file.open("rb") as stream:
                    for record in SeekingReader(stream).iter_metadata():
                        if record.name == _CALIBRATION_RECORD and CALIBRATION_FILE in record.metadata:
                            return record.metadata[CALIBRATION_FILE]
        return None

    def resolve(self, name: str) -> str:
        """The absolute topic of a relative name.

        Raises:
            BagError: absent or ambiguous; lists what was recorded.
        """
        try:
            return resolve_topic(name, [topic for topic, info in self.topics.items() if info.count])
        except TopicError as error:
            raise BagError(f"{self.name}: {error}") from error

    def messages(self, topics: Collection[str]) -> Iterator[BagMessage]:
        """Messages of these absolute topics in the order the recorder received them.

        Raises:
            BagError: a chunk is damaged (checksums are verified where the writer stored them).
        """
        with self._damage_named(), ExitStack() as stack:
            streams = [self._file_messages(stack.enter_context(file.open("rb")), topics) for file in self.files]
            yield from heapq.merge(*streams, key=lambda message: message.log_time_ns)

    def decode(self, message: BagMessage) -> Any:
        """The message as an object with ROS field names, decoded from the schema in the bag.

        Raises:
            BagError: the bytes do not fit the schema.
        """
        from mcap_ros2.decoder import DecoderFactory  # costs 0.1 s to import; many callers never decode

        key = (message.schema.name, message.schema.data)
        if key not in self._decoders:
            decoder = DecoderFactory().decoder_for("cdr", message.schema)
            if decoder is None:
                raise BagError(f"{self.name}: {message.topic} has a schema of encoding {message.schema.encoding!r}")
            self._decoders[key] = decoder
        with self._damage_named():
            return self._decoders[key](message.cdr)

    def log_times_ns(self) -> dict[str, NDArray[np.int64]]:
        """Receive times of every topic, sorted; taken from the indexes without reading the messages."""
        times: dict[str, list[int]] = {topic: [] for topic in self.topics}
        with self._damage_named():
            for file, summary in zip(self.files, self._summaries, strict=True):
                if not all(chunk.message_index_offsets for chunk in summary.chunk_indexes) or not summary.chunk_indexes:
                    with file.open("rb") as stream:
                        for _, channel, message in SeekingReader(stream).iter_messages():
                            times[channel.topic].append(message.log_time)
                    continue
                with file.open("rb") as stream:
                    for chunk in summary.chunk_indexes:
                        for channel_id, offset in chunk.message_index_offsets.items():
                            stream.seek(offset + 1 + 8)  # opcode and record length
                            index = MessageIndex.read(ReadDataStream(stream))
                            times[summary.channels[channel_id].topic].extend(stamp for stamp, _ in index.records)
        return {topic: np.sort(np.asarray(values, dtype=np.int64)) for topic, values in times.items()}

    def _file_messages(self, stream: io.BufferedReader, topics: Collection[str]) -> Iterator[BagMessage]:
        reader = SeekingReader(stream, validate_crcs=True)
        for schema, channel, message in reader.iter_messages(topics=list(topics)):
            if schema is None:
                raise BagError(f"{self.name}: {channel.topic} was recorded without a schema; record it again")
            yield BagMessage(channel.topic, message.log_time, message.data, schema)

    def _summary(self, file: Path) -> Summary:
        with self._damage_named(), file.open("rb") as stream:
            summary = SeekingReader(stream).get_summary()
            if summary is None or summary.statistics is None:
                raise BagError(f"{file} has no index: rebuild it with 'prophrl bag recover {self.path}'")
            return summary

    def _read_said(self) -> dict[str, Any]:
        """All that was said about the episode, flattened into one mapping."""
        said: dict[str, Any] = {}
        yaml_file = self.path / "metadata.yaml"
        if yaml_file.is_file():
            raw = yaml.safe_load(yaml_file.read_text()) or {}
            said.update(raw.get("rosbag2_bagfile_information", {}).get("custom_data") or {})
        with self._damage_named():
            for file in self.files:
                with file.open("rb") as stream:
                    for record in SeekingReader(stream).iter_metadata():
                        if record.name.startswith("prophrl"):
                            said.update(record.metadata)
        sidecar = self.path / "episode.json"
        if sidecar.is_file():
            try:
                said.update(json.loads(sidecar.read_text()))
            except (json.JSONDecodeError, TypeError) as error:
                raise BagError(f"{sidecar} is not a JSON object: {error}; restore it or delete it") from error
        return said

    @contextmanager
    def _damage_named(self) -> Iterator[None]:
        try:
            yield
        except BagError:
            raise
        except _DAMAGE as error:
            raise BagError(
                f"{self.path} is cut off or damaged ({type(error).__name__}: {error}); "
                f"run 'prophrl bag recover {self.path}' to save what is readable"
            ) from error


def find_bags(roots: Collection[str | Path], *, discarded: bool = False) -> list[Path]:
    """All bags at or below these folders, sorted; ``incomplete`` folders below them are left out.

    Args:
        discarded: look into ``discarded`` folders too.

    Raises:
        BagError: a root does not exist.
    """
    found: set[Path] = set()
    passed_over = {"incomplete"} if discarded else {"discarded", "incomplete"}
    for root in map(Path, roots):
        if not root.exists():
            raise BagError(f"no bag at {root}; pass folders that the recorder wrote, or .mcap files")
        if root.is_file():
            found.add(root)
            continue
        for file in root.rglob("*.mcap"):
            if not passed_over & set(file.relative_to(root).parts[:-1]):
                whole = any((file.parent / name).is_file() for name in ("metadata.yaml", "episode.json"))
                found.add(file.parent if whole or file.parent == root else file)
    return sorted(found)


def _mcap_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    files = sorted(path.glob("*.mcap"), key=lambda file: (len(file.name), file.name))  # _2 before _10
    if not files:
        raise BagError(f"no .mcap file in {path}; pass a bag folder or a .mcap file")
    return files


def _metadata(path: Path, said: Mapping[str, Any]) -> EpisodeMetadata:
    """Typed episode metadata from the flat mapping; objects may be given as JSON text (``placement_json``)."""
    extra = {key: value for key, value in said.items() if key not in _KNOWN_KEYS and value is not None}
    extra.update(_json_object(path, said, "metadata"))
    accepted = said.get("accepted", True)
    text = {key: str(said.get(key) or "") for key in _KNOWN_KEYS}
    return EpisodeMetadata(
        episode_id=text["episode_id"] or path.name.removesuffix(".mcap"),
        task=text["task"],
        instruction=text["instruction"],
        operator_name=text["operator"] or text["operator_name"],
        outcome=text["outcome"] or "unknown",
        accepted=accepted if isinstance(accepted, bool) else str(accepted).lower() == "true",
        note=text["note"],
        calibration_id=text["calibration_id"] or str(extra.get("calibration_id") or NO_CALIBRATION),
        placement=_json_object(path, said, "placement"),
        extra=extra,
    )


def _json_object(path: Path, said: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The object under ``key`` or, as text, under ``key`` or ``key_json``; an empty one when absent."""
    text = said.get(key) or said.get(f"{key}_json") or "{}"
    try:
        value = json.loads(text) if isinstance(text, str) else text
    except json.JSONDecodeError as error:
        raise BagError(f"{path}: {key} is not JSON: {error}; correct it in {path}/episode.json") from error
    if not isinstance(value, dict):
        raise BagError(f"{path}: {key} must hold a JSON object, got {text!r}; correct it in {path}/episode.json")
    return value
