"""Rebuilds the bag of a recording that was killed, cut off or damaged.

Everything whole is written into a new file with a fresh index, which then takes the place of the old one; the
old one stays beside it (``.damaged``) whenever something in it could not be read. Exit codes as in
``mcap recover``: 0 everything recovered, 3 something was lost, 1 nothing could be done.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any

from mcap.records import Channel, Message, Metadata, Schema
from mcap.writer import CompressionType

from prophrl_models.data.files import sync_folder
from prophrl_nodes.recorder.episode import FORMAT, EpisodeError, EpisodeFolder, open_episode
from prophrl_nodes.recorder.files import is_being_written
from prophrl_nodes.recorder.mcap_copy import McapCopy
from prophrl_nodes.recorder.mcap_records import Damage, read_records
from prophrl_nodes.recorder.metadata import (
    OfferedQos,
    TopicEntry,
    parse_qos_yaml,
    render_metadata,
    write_atomically,
)
from prophrl_nodes.recorder.statistics import TopicStatistics
from prophrl_nodes.recorder.writer import EPISODE_RECORD


class RecoverStatus(IntEnum):
    """Also the exit codes of ``prophrl bag recover``."""

    OK = 0
    FAILED = 1
    LOSSY = 3


class RecoverError(ValueError):
    """Nothing could be recovered; the message says why."""


@dataclass
class RecoverReport:
    """What recovery found and did."""

    path: str
    status: RecoverStatus
    was_complete: bool
    messages: int = 0
    topics: dict[str, int] = field(default_factory=dict)
    duration_s: float = 0.0
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {**asdict(self), "status": self.status.name.lower()}


@dataclass
class _Topic:
    channel: Channel
    qos: tuple[OfferedQos, ...]
    statistics: TopicStatistics


@dataclass
class _Rebuilt:
    """The content of one rebuilt file."""

    topics: dict[int, _Topic] = field(default_factory=dict)
    episode: dict[str, str] = field(default_factory=dict)
    first_ns: int = 0
    last_ns: int = 0

    @property
    def messages(self) -> int:
        return sum(t.statistics.count for t in self.topics.values())


def find_bag_file(path: Path) -> Path:
    """The MCAP file of a bag: ``path`` itself, or the only one in the folder ``path``.

    Raises:
        RecoverError: none or several.
    """
    if path.is_file():
        return path
    files = sorted(path.glob("*.mcap")) if path.is_dir() else []
    if len(files) != 1:
        found = f"{len(files)} .mcap files" if path.is_dir() else "nothing"
        raise RecoverError(f"{path}: found {found}; name one bag folder, or one .mcap file")
    return files[0]


def recover_bag(path: Path) -> RecoverReport:
    """Make a bag readable again; a bag that was closed properly is only checked.

    Args:
        path: bag folder or MCAP file.

    Raises:
        RecoverError: no such bag, or not a single message in it.
        OSError: no room for the rebuilt file.
    """
    file = find_bag_file(path)
    if is_being_written(file):
        raise RecoverError(f"{file} is being recorded right now; finish the episode first")
    damage = Damage()
    temporary = file.with_suffix(".mcap.recovering")
    try:
        rebuilt = _rebuild(file, temporary, damage)
        if not rebuilt.messages:
            raise RecoverError(f"{file} holds no readable message: {'; '.join(damage.notes) or 'it is empty'}")
        if damage.complete:
            temporary.unlink()
        else:
            if damage.lossy:
                _keep_aside(file)
            os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)
    status = RecoverStatus.LOSSY if damage.lossy else RecoverStatus.OK
    report = RecoverReport(
        path=str(file),
        status=status,
        was_complete=damage.complete,
        messages=rebuilt.messages,
        topics={t.channel.topic: t.statistics.count for t in rebuilt.topics.values()},
        duration_s=(rebuilt.last_ns - rebuilt.first_ns) * 1e-9,
        notes=damage.notes,
    )
    _write_beside(file, rebuilt, report)
    return report


def _rebuild(source: Path, target: Path, damage: Damage) -> _Rebuilt:
    rebuilt = _Rebuilt()
    types: dict[int, str] = {}
    with McapCopy(target, CompressionType.NONE) as copy:
        for record in read_records(source, damage):
            copied = copy.add(record)
            if isinstance(record, Message):
                if copied:
                    _count(rebuilt, record)
                else:
                    damage.lose(f"messages of channel {record.channel_id} have no description left")
            elif isinstance(record, Schema):
                types[record.id] = record.name
            elif isinstance(record, Channel) and record.id not in rebuilt.topics:
                qos = parse_qos_yaml(record.metadata.get("offered_qos_profiles", ""))
                durable = any(q.transient_local for q in qos)
                statistics = TopicStatistics(record.topic, types.get(record.schema_id, ""), durable)
                rebuilt.topics[record.id] = _Topic(record, qos, statistics)
            elif isinstance(record, Metadata) and record.name == EPISODE_RECORD:
                rebuilt.episode = dict(record.metadata)
    return rebuilt


def _count(rebuilt: _Rebuilt, message: Message) -> None:
    statistics = rebuilt.topics[message.channel_id].statistics
    rebuilt.first_ns = min(rebuilt.first_ns, message.log_time) if rebuilt.first_ns else message.log_time
    rebuilt.last_ns = max(rebuilt.last_ns, message.log_time)
    if statistics.durable and message.publish_time < rebuilt.first_ns:  # latched before the episode began
        statistics.replay(len(message.data))
    else:
        statistics.add(message.publish_time, len(message.data))


def _write_beside(file: Path, rebuilt: _Rebuilt, report: RecoverReport) -> None:
    """``metadata.yaml``, and what recovery knows in ``episode.json``."""
    folder = file.parent
    entries = [
        TopicEntry(
            t.channel.topic,
            t.statistics.type_name,
            t.channel.metadata.get("topic_type_hash", ""),
            t.statistics.count,
            t.qos,
        )
        for t in rebuilt.topics.values()
    ]
    if not report.was_complete or not (folder / "metadata.yaml").is_file():
        text = render_metadata(file.name, rebuilt.first_ns, rebuilt.last_ns, entries)
        write_atomically(folder / "metadata.yaml", text)
    if not report.was_complete:
        _update_episode(folder, rebuilt, report)
    sync_folder(folder)


def _update_episode(folder: Path, rebuilt: _Rebuilt, report: RecoverReport) -> None:
    try:
        episode = open_episode(folder)
    except EpisodeError as error:
        if not rebuilt.episode:
            report.notes.append(f"no episode.json written: {error}")
            return
        known: dict[str, Any] = {"format": FORMAT, **{k: _unpack(v) for k, v in rebuilt.episode.items()}}
        episode = EpisodeFolder(folder, {"outcome": "unknown", **known})
    summaries = {
        t.channel.topic: t.statistics.summary(rebuilt.first_ns, rebuilt.last_ns) for t in rebuilt.topics.values()
    }
    episode.record.update(
        state="recovered",
        stop_reason=episode.record.get("stop_reason") or "the recorder was killed",
        end_ns=rebuilt.last_ns,
        duration_s=round(report.duration_s, 6),
        messages=rebuilt.messages,
        bytes=sum(t.statistics.bytes for t in rebuilt.topics.values()),
        topics=summaries,
        recovered={"lossy": report.status is RecoverStatus.LOSSY, "notes": report.notes},
    )
    episode.save()


def _unpack(value: str) -> Any:
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value


def _keep_aside(file: Path) -> None:
    """Give a damaged file a second name, ``.mcap.damaged`` (or ``.damaged.1`` ...), before it is replaced."""
    first = file.with_suffix(".mcap.damaged")
    name = next(p for p in [first, *(first.with_name(f"{first.name}.{n}") for n in range(1, 1000))] if not p.exists())
    try:
        os.link(file, name)
    except OSError:  # file systems without hard links (exFAT)
        os.rename(file, name)
