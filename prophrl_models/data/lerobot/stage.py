"""The expensive part of an export, one episode at a time: encode its pictures into a folder of its own.

A staged episode is named by everything that decides its content, so an interrupted export finds and keeps it, and a
changed dataset or codec never meets pictures of another one.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from prophrl_models.data.dataset import Dataset
from prophrl_models.data.dataset_format import EpisodeRow
from prophrl_models.data.files import publish_folder, write_json
from prophrl_models.data.image import Image
from prophrl_models.data.lerobot.action_frames import action_frames, episode_camera
from prophrl_models.data.lerobot.extras import encode_png
from prophrl_models.data.lerobot.format import DEPTH
from prophrl_models.data.lerobot.statistics import PictureStatistics, color_statistics, depth_statistics
from prophrl_models.data.lerobot.video import VideoCodec, encode_video

_DEPTH_FILE, _HISTOGRAMS_FILE, _RECORD_FILE = "depth.parquet", "histograms.npz", "staged.json"
_LAYOUT = 1
"""Raised when staged folders change, so that those of an older program are not taken up."""


@dataclass(frozen=True)
class StagePlan:
    """What to encode of every episode, and from where.

    Attributes:
        dataset: folder of our dataset.
        staging: where staged episodes go.
        fps: frames per second.
        codec: how videos are encoded.
        camera_key, action_frame_key: names of the videos; no action frames are drawn when the latter is None.
        depth: encode depth pictures.
    """

    dataset: Path
    staging: Path
    fps: int
    codec: VideoCodec
    camera_key: str
    action_frame_key: str | None
    depth: bool

    @property
    def video_keys(self) -> tuple[str, ...]:
        return (self.camera_key,) if self.action_frame_key is None else (self.camera_key, self.action_frame_key)

    def folder(self, row: EpisodeRow) -> Path:
        """Where the staged episode of a row is or will be."""
        made_of = {
            "layout": _LAYOUT,
            "episode": row.sha256,
            "fps": self.fps,
            "codec": asdict(self.codec),
            "videos": self.video_keys,
            "depth": self.depth,
        }
        return self.staging / hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:24]


@dataclass(frozen=True)
class StagedEpisode:
    """A complete staged folder."""

    folder: Path

    @property
    def frames(self) -> int:
        return int(json.loads((self.folder / _RECORD_FILE).read_text())["frames"])

    def video(self, key: str) -> Path:
        return self.folder / f"{key}.mp4"

    def depth_pngs(self) -> list[bytes]:
        pngs: list[bytes] = pq.ParquetFile(self.folder / _DEPTH_FILE).read().column("png").to_pylist()
        return pngs

    def histograms(self) -> dict[str, NDArray[np.int64]]:
        """Of the pictures, [C, values] by feature."""
        with np.load(self.folder / _HISTOGRAMS_FILE) as stored:
            return {key: stored[key] for key in stored.files}


def stage_episode(plan: StagePlan, position: int) -> None:
    """Encode one episode, unless that has been done; runs in worker processes.

    Raises:
        DatasetError: the episode is damaged.
        LeRobotError: it has no usable calibration, and action frames are asked for.
    """
    dataset = _open(plan.dataset)
    final = plan.folder(dataset.table[position])
    if final.is_dir():
        return
    partial = final.with_name(f".partial-{final.name}-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    staged = StagedEpisode(partial)
    episode = dataset.verified(position)
    collected: dict[str, PictureStatistics] = {}

    def watched(key: str, frames: Iterable[Image]) -> Iterator[Image]:
        collected[key] = color_statistics()
        for frame in frames:
            collected[key].add(frame)
            yield frame

    encode_video(staged.video(plan.camera_key), watched(plan.camera_key, episode.color_THW3), plan.fps, plan.codec)
    if plan.action_frame_key is not None:
        calibration = dataset.calibration_yaml(position)
        camera = episode_camera(calibration, episode.metadata.episode_id, dataset.image_region)
        drawn = watched(plan.action_frame_key, action_frames(episode, camera))
        encode_video(staged.video(plan.action_frame_key), drawn, plan.fps, plan.codec)
    if plan.depth:
        assert episode.depth_THW is not None  # checked before the export began
        collected[DEPTH] = depth_statistics()
        pngs = []
        for depth in episode.depth_THW:
            collected[DEPTH].add(depth)
            pngs.append(encode_png(depth))
        pq.write_table(pa.table({"png": pa.array(pngs, pa.binary())}), partial / _DEPTH_FILE, compression="none")
    histograms = {key: statistics.histogram_CV for key, statistics in collected.items()}
    np.savez_compressed(partial / _HISTOGRAMS_FILE, **histograms)  # type: ignore[arg-type]
    write_json(partial / _RECORD_FILE, {"frames": len(episode)})
    publish_folder(partial, final)


@functools.lru_cache(maxsize=1)
def _open(folder: Path) -> Dataset:
    return Dataset(folder)
