"""The episode being recorded: its folder, its bag, and how it ends."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from typing import Any

from prophrl_nodes.recorder.episode import EpisodeFolder, EpisodeInfo, EpisodeStore
from prophrl_nodes.recorder.feeds import Arrival, TopicFeed
from prophrl_nodes.recorder.schemas import SchemaError
from prophrl_nodes.recorder.writer import BagTopic, BagWriteError, BagWriter

_IN_FILE = ("episode_id", "task", "instruction", "operator", "calibration_id", "cell", "git_revision", "started_at")


class Recording:
    """One episode from its first message to its last. Ends with ``close``; where it is filed is decided later."""

    def __init__(
        self,
        store: EpisodeStore,
        info: EpisodeInfo,
        *,
        max_duration_s: float = 0.0,
        flush_period_s: float = 0.5,
        sync_period_s: float = 1.0,
    ) -> None:
        """Open folder and bag; nothing is written before ``begin``.

        Raises:
            DiskFullError, EpisodeError: see ``EpisodeStore.start``.
            OSError: the bag cannot be created.
        """
        self.folder: EpisodeFolder = store.start(info)
        self.writer = BagWriter(
            self.folder.path,
            self.folder.episode_id,
            episode=_strings(self.folder.record),
            calibration=self.folder.calibration,
            flush_period_s=flush_period_s,
            sync_period_s=sync_period_s,
        )
        self.problems: dict[str, str] = {}
        self.stop_reason = ""
        self._max_duration_s = max_duration_s
        self._started_s = time.monotonic()
        self._topics: dict[str, BagTopic | None] = {}
        self._closing = threading.Lock()
        self._closed = False

    def begin(self, feeds: Mapping[str, TopicFeed]) -> None:
        """Register the topics that are there and write their latched state, in the thread that will write the rest.

        Raises:
            BagWriteError: the bag cannot be written.
        """
        for feed in feeds.values():
            if feed.available and (topic := self._topic_of(feed)) is not None:
                for data, publish_ns in feed.latched():
                    self.writer.replay(topic, data, publish_ns)

    @property
    def elapsed_s(self) -> float:
        """Seconds since the episode began."""
        return time.monotonic() - self._started_s

    @property
    def overdue(self) -> bool:
        """The longest duration asked for has passed."""
        return 0.0 < self._max_duration_s <= self.elapsed_s

    def write(self, feed: TopicFeed, arrival: Arrival) -> None:
        """Write one message of a feed.

        Raises:
            BagWriteError: the bag cannot be written any further.
        """
        topic = self._topic_of(feed)
        if topic is None:
            return
        if feed.durable and arrival.publish_ns < self.writer.start_ns:  # latched, from a publisher found late
            self.writer.replay(topic, arrival.data, arrival.publish_ns)
            return
        self.writer.write(topic, arrival.data, arrival.log_ns, arrival.publish_ns, arrival.publisher, arrival.sequence)

    def close(self, stop_reason: str, feeds: Mapping[str, TopicFeed]) -> None:
        """Finish the bag and complete ``episode.json``; the episode stays in ``incomplete/`` until it is filed.

        May be called from several threads: all return when the bag is finished.

        Args:
            stop_reason: why it ended; the first reason given is kept.
            feeds: all topics of the list by resolved name, to report those that gave nothing.
        """
        with self._closing:
            if not self._closed:
                self._closed = True
                self.stop_reason = stop_reason
                self._finish(feeds)

    def _finish(self, feeds: Mapping[str, TopicFeed]) -> None:
        duration_s, record = self.elapsed_s, self.folder.record
        try:
            self.writer.close()
            record["state"] = "complete"
        except BagWriteError as error:
            self.stop_reason = str(error)
        if self.writer.failure:
            record["state"] = "damaged"
        silent = [n for n in feeds if n not in self.writer.topics or not self.writer.topics[n].statistics.count]
        why = {n: self.problems.get(n) or feeds[n].problem or "no message came" for n in silent}
        record.update(
            stop_reason=self.stop_reason,
            end_ns=self.writer.end_ns,
            duration_s=round(duration_s, 6),
            messages=self.writer.messages,
            bytes=self.writer.size_bytes,
            topics=self.writer.summary(),
            missing_topics=[{"topic": n, "why": why[n]} for n in silent],
        )
        self.folder.save()

    def _topic_of(self, feed: TopicFeed) -> BagTopic | None:
        """The feed's topic in the bag, registered at its first use; None when its type cannot be described."""
        if feed.name not in self._topics:
            try:
                self._topics[feed.name] = self.writer.add_topic(feed.name, feed.type_name, feed.qos, feed.type_hash)
            except (SchemaError, ValueError) as error:
                self._topics[feed.name] = None
                self.problems[feed.name] = str(error)
        return self._topics[feed.name]


def _strings(record: Mapping[str, Any]) -> dict[str, str]:
    """What the MCAP file itself says about the episode."""
    known = {name: str(record[name]) for name in _IN_FILE}
    return {**known, "placement": json.dumps(record["placement"]), "metadata": json.dumps(record["metadata"])}
