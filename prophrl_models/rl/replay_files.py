"""Logged episodes imagined again, as a folder of labelled videos: what a judge of imagined videos learns from.

    labels.jsonl    one line for each video: its task, the real outcome, and the episode it shows again
    videos/*.mp4    at the world's size

A judge that has only seen photographs is asked about pictures it does not know. Here it sees the world model's blur and
its mistakes beside what really came of the same actions. ``reward.classifier_data`` reads such folders, and keeps the
videos of an episode on one side of its split.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from prophrl_models.data.dataset import Dataset
from prophrl_models.data.files import publish_tree
from prophrl_models.prophet.rollout import ImaginedWorld
from prophrl_models.reward.classifier_data import DONE, LABELS_FILE, frame_labels
from prophrl_models.rl.replays import LoggedEpisode, logged_episodes, replay_videos
from prophrl_models.training.settings import TrainingError
from prophrl_models.trials.video import write_video

VIDEO_FOLDER = "videos"


def write_replays(
    world: ImaginedWorld,
    datasets: Sequence[Dataset],
    folder: Path,
    *,
    keep: int = 0,
    times: int = 1,
    seed: int = 0,
    batch: int = 16,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Imagine every usable episode of the datasets, ``times`` times with other noise; returns the number of videos.

    Args:
        folder: new; appears when it is complete.
        keep: see ``replays.replay_videos``; that of the rollouts that will be judged.
        progress: told (videos done, videos in all).

    Raises:
        TrainingError: the folder is there already, or no episode has a known outcome and no gap.
        ValueError: ``keep`` or ``times`` out of range, or the world cannot begin with an episode.
    """
    if times < 1:
        raise ValueError(f"every episode is imagined once at least, got times = {times}")
    if folder.exists():
        raise TrainingError(f"{folder} is there already; choose a new folder, or remove it to make it anew")
    found = [
        (dataset, position, episode)
        for dataset in datasets
        for position, episode in _usable(dataset)
    ]  # fmt: skip
    if not found:
        raise TrainingError(
            "no gapless episode of the datasets is marked success or failure; build them with failures, too "
            "('prophrl dataset build' takes the outcomes to keep)"
        )
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    (temporary / VIDEO_FOLDER).mkdir(parents=True)
    rows: list[dict[str, object]] = []
    try:
        # Sorted by length, so that what is imagined together ends together.
        for number, group in enumerate(_groups(sorted(found, key=lambda item: len(item[2].actions_T7)), batch)):
            for time in range(times):
                episodes = [episode for _, _, episode in group]
                videos = replay_videos(world, episodes, keep=keep, seed=seed + (number * times + time) * batch)
                for (dataset, position, episode), video in zip(group, videos, strict=True):
                    name = f"{VIDEO_FOLDER}/{len(rows):05d}.mp4"
                    write_video(temporary / name, iter(video), world.control_rate_hz)
                    rows.append({"video": name, **_label(dataset, position, episode)})
                progress(len(rows), len(found) * times)
        (temporary / LABELS_FILE).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        publish_tree(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return len(rows)


def _usable(dataset: Dataset) -> list[tuple[int, LoggedEpisode]]:
    """(position, episode) of those with a known outcome and no gap; of a dataset that has none, nothing."""
    position = {row.episode_id: place for place, row in enumerate(dataset.table)}
    try:
        episodes = logged_episodes(dataset, frames=False)
    except TrainingError:
        return []
    return [(position[episode.prompt.source], episode) for episode in episodes]


def _groups(
    found: Sequence[tuple[Dataset, int, LoggedEpisode]], size: int
) -> list[Sequence[tuple[Dataset, int, LoggedEpisode]]]:
    return [found[first : first + size] for first in range(0, len(found), size)]


def _label(dataset: Dataset, position: int, episode: LoggedEpisode) -> dict[str, object]:
    """What ``classifier_data.from_folder`` reads; frame numbers are those of the recording."""
    label: dict[str, object] = {
        "task": episode.prompt.instruction,
        "success": episode.success,
        "shows": dataset.table[position].source,
    }
    if episode.success:
        recorded = dataset[position]
        states = np.concatenate([recorded.state_T7, recorded.final.state_7[None]])
        label["finish_step"] = int(np.flatnonzero(frame_labels(states) == DONE)[0])
    return label
