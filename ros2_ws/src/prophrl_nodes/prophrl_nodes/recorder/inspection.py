"""Says what a bag holds, and whether it is fit for use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mcap.records import Channel, Message, Schema

from prophrl_nodes.recorder.episode import EpisodeError, open_episode
from prophrl_nodes.recorder.files import is_being_written
from prophrl_nodes.recorder.mcap_records import Damage, read_records
from prophrl_nodes.recorder.recover import find_bag_file
from prophrl_nodes.recorder.statistics import TopicStatistics


@dataclass
class BagInspection:
    """Everything ``prophrl bag info`` prints; ``problems`` is what ``prophrl bag check`` fails on."""

    path: str
    bytes: int
    complete: bool
    recording: bool
    start_ns: int = 0
    end_ns: int = 0
    messages: int = 0
    topics: dict[str, dict[str, Any]] = field(default_factory=dict)
    episode: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def duration_s(self) -> float:
        """Seconds from first to last message."""
        return (self.end_ns - self.start_ns) * 1e-9

    def as_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {**asdict(self), "duration_s": round(self.duration_s, 6)}


def inspect_bag(path: Path) -> BagInspection:
    """Read a whole bag, checking every CRC on the way.

    Raises:
        RecoverError: no such bag.
    """
    file = find_bag_file(path)
    damage = Damage()
    found = BagInspection(str(file), file.stat().st_size, complete=False, recording=is_being_written(file))
    topics = _read_statistics(file, damage, found)
    found.topics = {t.name: t.summary(found.start_ns, found.end_ns) for t in sorted(topics, key=lambda t: t.name)}
    found.messages = sum(t.count for t in topics)
    found.complete = damage.complete
    found.notes = damage.notes
    try:
        found.episode = open_episode(file.parent).record
    except EpisodeError as error:
        found.notes.append(str(error))
    for name, kept in found.episode.get("topics", {}).items():
        if name in found.topics:
            found.topics[name]["dropped"] = kept.get("dropped")  # counted live; a bag alone cannot tell
    return found


def check_bag(
    path: Path, *, required: Sequence[str] = (), max_gap_s: float | None = None, max_dropped: int | None = None
) -> BagInspection:
    """Inspect a bag and list what makes it unfit for use in ``problems``.

    Args:
        path: bag folder or MCAP file.
        required: topics that must hold messages, resolved (``/joint_states``) or as the tail of a resolved name.
        max_gap_s: longest silence allowed on the required topics, seconds.
        max_dropped: most messages that may have been lost on any topic.

    Raises:
        RecoverError: no such bag.
    """
    found = inspect_bag(path)
    problems = found.problems
    if found.recording:
        problems.append("it is being recorded right now")
    elif not found.complete:
        problems.append(f"it is damaged ({'; '.join(found.notes)}); run: prophrl bag recover {path}")
    if not (Path(found.path).parent / "metadata.yaml").is_file() and not found.recording:
        problems.append(f"it has no metadata.yaml, ros2 bag cannot open it; run: prophrl bag recover {path}")
    for wanted in required:
        matching = {n: t for n, t in found.topics.items() if n == wanted or n.endswith("/" + wanted.lstrip("/"))}
        if not any(t["count"] for t in matching.values()):
            problems.append(f"no message on {wanted}; the bag has {', '.join(found.topics) or 'no topics'}")
        for name, topic in matching.items():
            gap_s = topic["largest_gap_s"]
            if max_gap_s is not None and gap_s is not None and gap_s > max_gap_s:
                problems.append(f"{name} was silent for {gap_s:.3f} s, allowed are {max_gap_s:.3f} s")
    for name, topic in found.topics.items():
        if max_dropped is not None and (topic["dropped"] or 0) > max_dropped:
            problems.append(f"{topic['dropped']} messages of {name} were lost, allowed are {max_dropped}")
    return found


def _read_statistics(file: Path, damage: Damage, found: BagInspection) -> list[TopicStatistics]:
    types: dict[int, str] = {}
    topics: dict[int, TopicStatistics] = {}
    for record in read_records(file, damage):
        if isinstance(record, Message) and record.channel_id in topics:
            topic = topics[record.channel_id]
            found.start_ns = min(found.start_ns, record.log_time) if found.start_ns else record.log_time
            found.end_ns = max(found.end_ns, record.log_time)
            if topic.durable and record.publish_time < found.start_ns:
                topic.replay(len(record.data))
            else:
                topic.add(record.publish_time, len(record.data))
        elif isinstance(record, Schema):
            types[record.id] = record.name
        elif isinstance(record, Channel) and record.id not in topics:
            durable = "transient_local" in record.metadata.get("offered_qos_profiles", "")
            topics[record.id] = TopicStatistics(record.topic, types.get(record.schema_id, ""), durable)
    return list(topics.values())
