"""What the recorder says about its topics: rates over the last two seconds, gaps and totals of the episode."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping

from prophrl_interfaces.msg import RecorderStatus

from prophrl_nodes.messages import header
from prophrl_nodes.recorder.feeds import TopicFeed
from prophrl_nodes.recorder.recording import Recording

WINDOW_S = 2.0


class TopicRates:
    """Rates of all feeds, from two samples of their counters: costs nothing per message."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, dict[str, int]]] = deque()

    def sample(self, feeds: Mapping[str, TopicFeed]) -> None:
        """Remember the counters as they are now; call this at a steady pace."""
        now_s = time.monotonic()
        self._samples.append((now_s, {name: feed.received for name, feed in feeds.items()}))
        while len(self._samples) > 1 and now_s - self._samples[1][0] >= WINDOW_S:
            self._samples.popleft()

    def rate_hz(self, name: str) -> float:
        """Messages per second over the window, 0 before the second sample."""
        if len(self._samples) < 2:
            return 0.0
        (then_s, before), (now_s, after) = self._samples[0], self._samples[-1]
        return (after.get(name, 0) - before.get(name, after.get(name, 0))) / (now_s - then_s)


def status_message(
    feeds: Mapping[str, TopicFeed], rates: TopicRates, recording: Recording | None, free_bytes: int
) -> RecorderStatus:
    """The message on ``recorder/status``; the gap of a topic that has none to speak of is NaN."""
    message = RecorderStatus(header=header(time.time_ns()), state=RecorderStatus.IDLE)
    message.disk_free_bytes = float(free_bytes)
    gaps_s: dict[str, float | None] = {}
    if recording is not None:
        message.state = RecorderStatus.RECORDING
        message.episode_id = recording.folder.episode_id
        message.elapsed_s = recording.elapsed_s
        message.messages = recording.writer.messages
        message.bytes = recording.writer.size_bytes
        gaps_s = {name: figures["largest_gap_s"] for name, figures in recording.writer.summary().items()}
    for name in feeds:
        gap_s = gaps_s.get(name)
        message.topics.append(name)
        message.rates_hz.append(rates.rate_hz(name))
        message.largest_gap_s.append(math.nan if gap_s is None else gap_s)
    return message
