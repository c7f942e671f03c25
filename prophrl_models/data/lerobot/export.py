"""Our dataset to a LeRobotDataset v3.0 folder.

Episodes are encoded side by side into ``.NAME.export`` beside the folder wanted; when all are there the folder is put
together inside it and appears under its name in one step. So a folder with that name is always complete, and an
export that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import fcntl
import multiprocessing
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from prophrl_models.data.dataset import Dataset
from prophrl_models.data.episode import ACTION_DIM, ACTION_NAMES, STATE_DIM, STATE_NAMES, Episode
from prophrl_models.data.files import publish_tree
from prophrl_models.data.image import POLICY_HEIGHT, POLICY_WIDTH
from prophrl_models.data.lerobot.action_frames import episode_camera
from prophrl_models.data.lerobot.extras import (
    CALIBRATIONS,
    DEPTH_FRAME_FEATURES,
    FRAME_FEATURES,
    SideData,
    SideRow,
    calibration_name,
    episode_columns,
    write_side_rows,
)
from prophrl_models.data.lerobot.format import (
    ACTION,
    DEPTH,
    IMAGES,
    STATE,
    Feature,
    LeRobotError,
    picture_feature,
    whole_rate,
)
from prophrl_models.data.lerobot.stage import StagedEpisode, StagePlan, stage_episode
from prophrl_models.data.lerobot.video import VideoCodec
from prophrl_models.data.lerobot.writer import EpisodeData, FolderWriter
from prophrl_models.data.streams import STREAMS

ROBOT_TYPE = "ur30"
_ASSEMBLY = "folder"


@dataclass(frozen=True)
class ExportReport:
    """What ``export_dataset`` did.

    Attributes:
        folder: the result.
        episodes, frames: in it.
        resumed: episodes whose pictures an earlier, interrupted export had encoded.
        bytes: size of the folder.
        recorded_s: how long the robot moved for it.
        seconds: how long the export took.
    """

    folder: Path
    episodes: int
    frames: int
    resumed: int
    bytes: int
    recorded_s: float
    seconds: float


def export_dataset(
    dataset_folder: str | Path,
    out: str | Path,
    *,
    codec: VideoCodec | None = None,
    camera: str = "camera",
    depth: bool = False,
    action_frames: bool = False,
    workers: int = 0,
    progress: bool = True,
) -> ExportReport:
    """Write a dataset as LeRobotDataset v3.0.

    Args:
        dataset_folder: a complete dataset of ours.
        out: the folder to appear; must not exist, or be empty.
        codec: how videos are encoded; AV1 when None.
        camera: name of the camera: the video is ``observation.images.<camera>``.
        depth: write depth pictures as ``observation.depth`` (16-bit PNG, millimetres).
        action_frames: draw ``observation.images.action_frame``; every episode needs a calibration.
        workers: processes that encode in parallel; 0 encodes in this one.
        progress: show a progress bar on standard error.

    Raises:
        DatasetError: the dataset is incomplete or damaged.
        LeRobotError: ``out`` is taken or being written, the dataset has no depth or an episode no calibration while
            they are asked for, the rate is not a whole number, or a worker process died.
    """
    started_s = time.perf_counter()
    dataset, out = Dataset(dataset_folder), Path(out).absolute()
    plan = StagePlan(
        dataset=dataset.folder,
        staging=out.with_name(f".{out.name}.export") / "episodes",
        fps=whole_rate(dataset.control_rate_hz),
        codec=codec or VideoCodec(),
        camera_key=f"{IMAGES}.{camera}",
        action_frame_key=f"{IMAGES}.action_frame" if action_frames else None,
        depth=depth,
    )
    _check(dataset, out, plan)
    with _staging(plan.staging.parent):
        missing = [i for i, row in enumerate(dataset.table) if not plan.folder(row).is_dir()]
        for leftover in plan.staging.glob(".partial-*"):
            shutil.rmtree(leftover)
        with tqdm(total=len(dataset), initial=len(dataset) - len(missing), disable=not progress, unit="episode") as bar:
            for _ in _stage(plan, missing, workers):
                bar.update()
        assembly = plan.staging.parent / _ASSEMBLY
        shutil.rmtree(assembly, ignore_errors=True)
        _assemble(dataset, plan, assembly)
        size = sum(file.stat().st_size for file in assembly.rglob("*") if file.is_file())
        publish_tree(assembly, out)
        shutil.rmtree(plan.staging.parent)
    return ExportReport(
        folder=out,
        episodes=len(dataset),
        frames=sum(row.steps for row in dataset.table),
        resumed=len(dataset) - len(missing),
        bytes=size,
        recorded_s=sum(row.quality.duration_s for row in dataset.table),
        seconds=time.perf_counter() - started_s,
    )


def _check(dataset: Dataset, out: Path, plan: StagePlan) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise LeRobotError(f"{out} exists and is not an empty folder; choose another one, or remove it first")
    if not len(dataset):
        raise LeRobotError(f"{dataset.folder} has no episodes to export")
    name = plan.camera_key.removeprefix(f"{IMAGES}.")
    if not name.replace("_", "").isalnum() or name == "action_frame":
        raise LeRobotError(f"camera {name!r}: a name has letters, digits and underscores, and is not action_frame")
    if plan.depth and not dataset.has_depth:
        raise LeRobotError(f"{dataset.folder} has no depth; build it with 'prophrl dataset build --depth'")
    if plan.action_frame_key is not None:
        for position, row in enumerate(dataset.table):
            episode_camera(dataset.calibration_yaml(position), row.episode_id, dataset.image_region)


def _stage(plan: StagePlan, positions: list[int], workers: int) -> Iterator[None]:
    """Encode these episodes; yields once for each."""
    if workers <= 0:
        for position in positions:
            stage_episode(plan, position)
            yield
        return
    # spawn: a fork would copy the threads' locks of whatever the caller runs (ROS, torch)
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(stage_episode, plan, position) for position in positions]
        try:
            for future in as_completed(futures):
                future.result()
                yield
        except BrokenProcessPool as error:
            raise LeRobotError(
                "an encoding process died (out of memory?); run again with fewer workers, finished episodes are kept"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _assemble(dataset: Dataset, plan: StagePlan, folder: Path) -> None:
    writer = FolderWriter(folder, plan.fps, _features(plan), ROBOT_TYPE)
    (folder / CALIBRATIONS).mkdir(parents=True)
    side: list[SideRow] = []
    header = dataset.header if plan.depth else replace(dataset.header, depth=None)
    for position, row in enumerate(dataset.table):
        episode, staged = dataset[position], StagedEpisode(plan.folder(row))
        if staged.frames != len(episode):
            raise LeRobotError(f"{staged.folder} has {staged.frames} frames, its episode {len(episode)}; remove it")
        text, name = dataset.calibration_yaml(position), ""
        if text is not None:
            name = calibration_name(row.calibration_id, text)
            (folder / name).write_text(text, encoding="utf-8")
        writer.add(
            EpisodeData(
                task=row.instruction,
                numbers=_numbers(episode, plan.depth),
                images={DEPTH: staged.depth_pngs()} if plan.depth else {},
                videos={key: staged.video(key) for key in plan.video_keys},
                histograms=staged.histograms(),
                columns=episode_columns(row, dataset.header),
            )
        )
        side.append(SideRow.of(position, episode, row, name, with_depth=plan.depth))
    writer.finish()
    write_side_rows(folder, side)
    SideData(header, dataset.content_hash, plan.camera_key, plan.codec.name, plan.codec.quality).write(folder)


def _features(plan: StagePlan) -> dict[str, Feature]:
    video = picture_feature(
        "video", POLICY_HEIGHT, POLICY_WIDTH, 3, **plan.codec.info(POLICY_HEIGHT, POLICY_WIDTH, plan.fps)
    )
    features = {
        STATE: Feature("float32", (STATE_DIM,), STATE_NAMES),
        ACTION: Feature("float32", (ACTION_DIM,), ACTION_NAMES),
        **dict.fromkeys(plan.video_keys, video),
        **FRAME_FEATURES,
    }
    if plan.depth:
        features[DEPTH] = picture_feature("image", POLICY_HEIGHT, POLICY_WIDTH, 1, is_depth_map=True, depth_unit="mm")
        features |= DEPTH_FRAME_FEATURES
    return features


def _numbers(episode: Episode, with_depth: bool) -> dict[str, NDArray[Any]]:
    numbers: dict[str, NDArray[Any]] = {
        STATE: episode.state_T7,
        ACTION: episode.action_T7,
        "stamp_ns": episode.stamp_ns_T,
        "valid": episode.valid_T,
        "moving": episode.moving_T,
        "source_stamp_ns": np.stack([episode.source_stamp_ns_T[stream] for stream in STREAMS], axis=1),
    }
    if with_depth:
        assert episode.depth is not None
        numbers |= {"depth_stamp_ns": episode.depth.stamp_ns_T, "depth_valid": episode.depth.valid_T}
    return numbers


@contextmanager
def _staging(folder: Path) -> Iterator[None]:
    """The staging folder, held by this process alone; it stays when the export fails, to go on from."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LeRobotError(f"{folder} is in use by another export; wait for it to end") from error
        yield
