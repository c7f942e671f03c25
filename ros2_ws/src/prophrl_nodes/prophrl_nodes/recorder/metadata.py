"""The ``metadata.yaml`` of rosbag2 (version 9), so that ``ros2 bag`` and every reader of its bags opens ours."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from prophrl_models.data.files import sync_folder

VERSION = 9
_INFINITE = {"sec": 9223372036, "nsec": 854775807}  # how rosbag2 spells an unlimited duration
_HISTORIES = {1: "keep_last", 2: "keep_all", 3: "unknown"}
_RELIABILITIES = {0: "system_default", 1: "reliable", 2: "best_effort", 3: "unknown", 4: "best_available"}
_DURABILITIES = {0: "system_default", 1: "transient_local", 2: "volatile", 3: "unknown", 4: "best_available"}
_LIVELINESS = {0: "system_default", 1: "automatic", 3: "manual_by_topic", 4: "unknown", 5: "best_available"}


@dataclass(frozen=True)
class OfferedQos:
    """The quality of service a publisher offered, in rosbag2's words; deadline and lifespan are not used here."""

    history: str = "keep_last"
    depth: int = 10
    reliability: str = "reliable"
    durability: str = "volatile"
    liveliness: str = "automatic"

    @classmethod
    def of_profile(cls, profile: Any) -> OfferedQos:
        """From an ``rclpy.qos.QoSProfile`` (only its integer-valued policies are read)."""
        return cls(
            history=_HISTORIES.get(int(profile.history), "unknown"),
            depth=int(profile.depth),
            reliability=_RELIABILITIES.get(int(profile.reliability), "unknown"),
            durability=_DURABILITIES.get(int(profile.durability), "unknown"),
            liveliness=_LIVELINESS.get(int(profile.liveliness), "unknown"),
        )

    @property
    def transient_local(self) -> bool:
        """Late subscribers are given the last messages."""
        return self.durability == "transient_local"

    def as_dict(self) -> dict[str, Any]:
        """One entry of ``offered_qos_profiles``."""
        return {
            "history": self.history,
            "depth": self.depth,
            "reliability": self.reliability,
            "durability": self.durability,
            "deadline": dict(_INFINITE),
            "lifespan": dict(_INFINITE),
            "liveliness": self.liveliness,
            "liveliness_lease_duration": dict(_INFINITE),
            "avoid_ros_namespace_conventions": False,
        }


@dataclass(frozen=True)
class TopicEntry:
    """One topic of a bag."""

    name: str
    type_name: str
    type_hash: str
    count: int
    qos: tuple[OfferedQos, ...] = ()


def qos_yaml(profiles: Sequence[OfferedQos]) -> str:
    """Offered profiles as the YAML text rosbag2 keeps in the metadata of an MCAP channel."""
    return yaml.safe_dump([q.as_dict() for q in profiles], sort_keys=False).strip() if profiles else ""


def parse_qos_yaml(text: str) -> tuple[OfferedQos, ...]:
    """Inverse of ``qos_yaml``; text from other writers may hold integers, which are kept as "unknown"."""
    entries = yaml.safe_load(text) if text else None
    names = ("history", "reliability", "durability", "liveliness")
    return tuple(
        OfferedQos(depth=int(e.get("depth", 0)), **{n: e[n] if isinstance(e.get(n), str) else "unknown" for n in names})
        for e in entries or []
    )


def render_metadata(file_name: str, start_ns: int, end_ns: int, topics: Sequence[TopicEntry]) -> str:
    """Text of ``metadata.yaml`` for a bag of one MCAP file.

    Args:
        file_name: the MCAP file, relative to the bag's folder.
        start_ns, end_ns: log times of first and last message, Unix epoch.
        topics: what the file holds.
    """
    count = sum(t.count for t in topics)
    starting_time = {"nanoseconds_since_epoch": start_ns}
    duration = {"nanoseconds": max(0, end_ns - start_ns)}
    information = {
        "version": VERSION,
        "storage_identifier": "mcap",
        "duration": duration,
        "starting_time": starting_time,
        "message_count": count,
        "topics_with_message_count": [
            {
                "topic_metadata": {
                    "name": t.name,
                    "type": t.type_name,
                    "serialization_format": "cdr",
                    "offered_qos_profiles": [q.as_dict() for q in t.qos],
                    "type_description_hash": t.type_hash,
                },
                "message_count": t.count,
            }
            for t in topics
        ],
        "compression_format": "",
        "compression_mode": "",
        "relative_file_paths": [file_name],
        "files": [
            {"path": file_name, "starting_time": starting_time, "duration": duration, "message_count": count},
        ],
        "custom_data": None,
        "ros_distro": os.environ.get("ROS_DISTRO", "unknown"),
    }
    return yaml.dump({"rosbag2_bagfile_information": information}, Dumper=_NoAliases, sort_keys=False)


class _NoAliases(yaml.SafeDumper):
    """rosbag2's reader does not need anchors, and people should not have to read them."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def write_atomically(path: Path, text: str) -> None:
    """Replace a small text file so that a crash leaves either the old or the new content, never half of it."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_folder(path.parent)
