"""What a trial's bag tells the report: its video and its measured rates and delays, in one pass over the bag."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prophrl_models.data.bag import Bag, BagMessage
from prophrl_models.data.cdr import parse_image, rgb_image
from prophrl_models.trials.report import TimingRow
from prophrl_models.trials.video import TrialMedia, write_media

COLOR, CHUNK, SERVO = "/camera/color/image_raw", "/policy/chunk", "/servo/status"
VIDEO_RATE_HZ = 10.0


@dataclass
class Measurements:
    """Samples gathered over all trials, by the quantity's name."""

    samples: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, value: float) -> None:
        self.samples.setdefault(name, []).append(value)

    def rows(self, described: dict[str, tuple[str, str, float]]) -> list[TimingRow]:
        """Table rows in the order of ``described``: name to (unit, wanted, factor from SI)."""
        rows = []
        for name, (unit, wanted, factor) in described.items():
            values = np.array(self.samples.get(name, [])) * factor
            if len(values):
                median, p95 = np.percentile(values, [50, 95])
                rows.append(TimingRow(name, unit, float(median), float(p95), float(values.max()), wanted))
        return rows


DESCRIBED = {
    "camera frame interval": ("ms", "33 ms (30 Hz)", 1e3),
    "camera frame to recorder": ("ms", "below one frame", 1e3),
    "policy inference": ("ms", "below 100 ms", 1e3),
    "observation to chunk": ("ms", "below 300 ms", 1e3),
    "age of the arm's target": ("ms", "below 100 ms, then it holds", 1e3),
    "wall seconds per robot second": ("s", "1.0: the twin keeps up", 1.0),
}


def trial_media(bag_path: Path, folder: Path, name: str, measured: Measurements) -> TrialMedia:
    """Write ``<folder>/<name>.mp4`` from a trial's bag and add what the bag says about timing.

    Raises:
        BagError: the bag cannot be read.
        VideoError: it holds no colour frames.
    """
    bag = Bag(bag_path)
    topics = [topic for topic in (COLOR, CHUNK, SERVO) if topic in bag.topics]
    return write_media(folder, name, _frames(bag, topics, measured), VIDEO_RATE_HZ)


def _frames(bag: Bag, topics: list[str], measured: Measurements) -> Iterator[NDArray[np.uint8]]:
    """Colour frames at the video's rate; everything else that passes by is measured."""
    period_ns = int(1e9 / VIDEO_RATE_HZ)
    due_ns, last_ns = 0, 0
    for message in bag.messages(topics):
        if message.topic != COLOR:
            _measure(bag, message, measured)
            continue
        raw = parse_image(message.cdr)
        measured.add("camera frame to recorder", (message.log_time_ns - raw.stamp_ns) * 1e-9)
        if last_ns:
            measured.add("camera frame interval", (raw.stamp_ns - last_ns) * 1e-9)
        last_ns = raw.stamp_ns
        if raw.stamp_ns >= due_ns:
            due_ns = max(due_ns + period_ns, raw.stamp_ns + period_ns // 2)
            yield rgb_image(raw.height, raw.width, raw.encoding, raw.step, raw.data)


def _measure(bag: Bag, message: BagMessage, measured: Measurements) -> None:
    said = bag.decode(message)
    if message.topic == CHUNK:
        stamp_ns = said.header.stamp.sec * 1_000_000_000 + said.header.stamp.nanosec
        measured.add("policy inference", float(said.inference_s))
        measured.add("observation to chunk", (message.log_time_ns - stamp_ns) * 1e-9)
    elif said.state == 1 and math.isfinite(said.target_age_s):  # FOLLOWING: otherwise nobody is expected to send
        measured.add("age of the arm's target", float(said.target_age_s))
