"""Short episodes with depth whose frames carry their number in their pixels, so that a codec cannot hide a mix-up."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.poses import ActionConvention, difference, from_euler
from prophrl_models.data.dataset import Dataset, DatasetHeader, DatasetWriter
from prophrl_models.data.depth import DepthColumns, DepthSpec
from prophrl_models.data.episode import Episode, EpisodeMetadata, Observation
from prophrl_models.data.quality import EpisodeQuality, topic_timing
from tests.helpers.reaches import places, reach

LENGTHS = (12, 7, 10)
BITS = 10
START_NS = 1_760_000_000_123_456_789
CONVENTION = ActionConvention.ABSOLUTE_POSE_DIFFERENCE


def stamp_number(image: NDArray[np.uint8], number: int) -> NDArray[np.uint8]:
    """The picture with ``number`` as a row of black and white blocks of 16 px at its top."""
    marked = image.copy()
    for bit in range(BITS):
        marked[0:16, bit * 16 : bit * 16 + 16] = 255 if number >> bit & 1 else 0
    return marked


def read_number(image: NDArray[np.uint8]) -> int:
    """The number in a picture that went through a codec."""
    return sum(int(image[4:12, bit * 16 + 4 : bit * 16 + 12].mean() > 127) << bit for bit in range(BITS))


def make_episode(number: int, length: int, *, depth: bool = True) -> Episode:
    """``length`` steps of a drawn reach: smooth pictures, some steps not valid, stamps that are no round numbers."""
    rng = np.random.default_rng(number)
    drawn = reach(places(8, 3)[number], number)
    first = number * 100
    images = np.stack([stamp_number(drawn.color_THW3[t], first + t) for t in range(length + 1)])
    states = np.concatenate([drawn.state_T7, drawn.final.state_7[None]])[: length + 1]
    action = np.zeros((length, 7), np.float32)
    for t in range(length):
        action[t, :6] = difference(from_euler(states[t, :6]), from_euler(states[t + 1, :6]), CONVENTION)
        action[t, 6] = 1.0 if t < 4 else 0.25
    stamps = START_NS + number * 10**12 + np.arange(length + 1, dtype=np.int64) * 100_000_000
    source = {name: stamps[:-1] - rng.integers(1, 90_000_000, length) for name in ("color", "tcp_pose", "gripper")}
    far = rng.integers(300, 60_000, (length + 1, 240, 320)).astype(np.uint16)
    far[:, :20] = 0
    columns = DepthColumns(source["color"], rng.random(length) > 0.2, far[-1], int(stamps[-1]) - 5, True, 0.033)
    timing = {name: topic_timing(values, int(stamps[0])) for name, values in source.items()}
    ages = dict.fromkeys(timing, 0.0875)
    apart = {"largest_apart_s": 0.033, "invalid_steps": 1} if depth else None
    quality = EpisodeQuality(timing, timing, ages, (), 1, {}, {}, {}, {"/x": 2}, 3, None, 0, apart)
    instruction = "reach for the red square" if number != 1 else "lift the gripper — slowly"
    said: dict[str, Any] = {"placement": {"cell": [1, number]}, "extra": {"lighting": "lamp"}}
    outcome = "success" if number != 2 else "failure"
    return Episode(
        metadata=EpisodeMetadata(f"e{number}", "reach", instruction, "tester", outcome, calibration_id="cal", **said),
        convention=CONVENTION,
        control_rate_hz=10.0,
        state_T7=states[:-1],
        action_T7=action,
        stamp_ns_T=stamps[:-1],
        source_stamp_ns_T=source,
        valid_T=rng.random(length) > 0.3,
        moving_T=rng.random(length) > 0.3,
        final=Observation(images[-1], states[-1], instruction, int(stamps[-1])),
        quality=quality.to_json(),
        depth=columns if depth else None,
        color_THW3=images[:-1],
        depth_THW=far[:-1] if depth else None,
    )


def write_dataset(
    folder: Path, lengths: Sequence[int] = LENGTHS, *, depth: bool = True, calibration: str | None = None
) -> Dataset:
    """A complete dataset of such episodes."""
    writer = DatasetWriter(folder, DatasetHeader(CONVENTION, depth=DepthSpec() if depth else None))
    for number, length in enumerate(lengths):
        episode = make_episode(number, length, depth=depth)
        writer.add(episode, f"{number:064x}", source=f"bag-{number}", calibration_yaml=calibration)
    writer.finish()
    return Dataset(folder)


def psnr_db(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Peak signal-to-noise ratio of two uint8 pictures."""
    error = np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)
    return float(10.0 * np.log10(255.0**2 / max(error, 1e-12)))
