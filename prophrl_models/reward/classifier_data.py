"""Labelled videos for the success classifier: where they come from, and which of their frames show a finished task.

A demonstration says more than its outcome. From its states it is known until when the task cannot have been finished
(the object is in its place, or still in the hand) and from when it was, so every frame but those in between gets a
label. A folder of videos gives one label for each video, and a frame number where somebody wrote it down.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from prophrl_models.data.dataset import Dataset
from prophrl_models.data.dataset_format import DATASET_FILE
from prophrl_models.data.episode import Episode
from prophrl_models.data.split import original_name
from prophrl_models.reward.frames import find_videos, read_video, resized
from prophrl_models.reward.judge import JudgeError, Video

LABELS_FILE = "labels.jsonl"
UNKNOWN, NOT_DONE, DONE = -1, 0, 1
_BEFORE_RELEASE, _AFTER_RELEASE = 3, 8
"""Steps (of 0.1 s) around an opening hand that are not labelled: nobody sees in which of them the object came free."""

_LEAST_CLOSING = 0.1
"""Change of the opening (0..1) below which a hand has not closed."""


@dataclass(frozen=True)
class LabelledVideo:
    """One video at the classifier's size; the frames may be memory-mapped.

    Attributes:
        id: unique and stable; splits go by it.
        task: instruction.
        frames_THW3: RGB uint8.
        label_T: int8, for every frame ``DONE``, ``NOT_DONE`` or ``UNKNOWN``.
        success: whether the task was accomplished at the end.
        untouched: frames before the hand closed on anything; 0 where that is not known.
        released: at the end the hand is open and what it carried lies where it was put.
        shows: id of the recording that this video shows again (imagined, filmed from elsewhere); empty for a recording.
            Splits go by it: what was learned from one must not be tested on the other.
    """

    id: str
    task: str
    frames_THW3: Video
    label_T: NDArray[np.int8]
    success: bool
    untouched: int = 0
    released: bool = False
    shows: str = ""

    @property
    def recording(self) -> str:
        """Id of the recording behind it; of an episode that was made from another one, the other's."""
        return original_name(self.shows or self.id)

    @property
    def undecided_from(self) -> int:
        """Frames before this one show a task not done; 0 where that is not known of any frame."""
        later = np.flatnonzero(self.label_T != NOT_DONE)
        return int(later[0]) if len(later) else len(self.label_T)


class VideoStore(Protocol):
    """Where labelled videos get their frames from."""

    def get(self, key: str, make: Callable[[], Video]) -> Video:
        """The video under ``key``; ``make()`` gives its frames."""
        ...


class AsRecorded:
    """Frames at the size they were recorded in, made anew each time."""

    def get(self, key: str, make: Callable[[], Video]) -> Video:
        return make()


class SmallVideos:
    """Videos at one size in a folder of .npy files, so that a training reads pixels from disk and only once resized."""

    def __init__(self, folder: Path, height: int, width: int) -> None:
        self.folder, self.height, self.width = folder, height, width
        folder.mkdir(parents=True, exist_ok=True)

    def get(self, key: str, make: Callable[[], Video]) -> Video:
        """The video under ``key``, memory-mapped; ``make()`` gives its frames the first time."""
        name = hashlib.sha256(f"{key} {self.width}x{self.height}".encode()).hexdigest()[:24]
        path = self.folder / f"{name}.npy"
        if not path.is_file():
            temporary = path.with_name(f".{name}.{os.getpid()}.npy")
            np.save(temporary, resized(make(), self.height, self.width))
            os.replace(temporary, path)
        loaded: Video = np.load(path, mmap_mode="r")
        return loaded


def labelled_videos(place: Path, store: VideoStore, task: str | None = None) -> Iterator[LabelledVideo]:
    """Videos of a dataset folder, or of a folder of video files (see ``from_folder``).

    Raises:
        JudgeError, DatasetError: nothing to learn from, or something damaged.
    """
    if (place / DATASET_FILE).is_file():
        return from_dataset(Dataset(place), store)
    return from_folder(place, store, task)


def from_dataset(dataset: Dataset, store: VideoStore) -> Iterator[LabelledVideo]:
    """Episodes whose outcome is known; frame t of T + 1 was seen before action t."""
    for position, row in enumerate(dataset.table):
        episode = dataset[position]
        if episode.metadata.outcome not in ("success", "failure"):
            continue
        success = episode.metadata.outcome == "success"
        video = store.get(row.sha256, partial(_frames, episode))
        if not success:
            yield LabelledVideo(row.source, episode.instruction, video, _all(len(video), NOT_DONE), False)
            continue
        states = np.concatenate([episode.state_T7, episode.final.state_7[None]])
        grasp, release = last_grasp(states)
        label_T = frame_labels(states)
        yield LabelledVideo(row.source, episode.instruction, video, label_T, True, grasp, release is not None)


def _frames(episode: Episode) -> Video:
    return np.concatenate([np.asarray(episode.color_THW3), episode.final.image_HW3[None]])


def last_grasp(state_T7: NDArray[np.float32]) -> tuple[int, int | None]:
    """The step at which the hand closes for the last time, and the one at which it opens again (None: it never does).

    (0, None) for a hand that never closes. States are ``[x y z ex ey ez g]`` with g the measured opening; what counts
    as closed is relative to the range that the recording shows.
    """
    opening = state_T7[:, 6]
    closed = opening < 0.5 * (opening.min() + opening.max())
    if opening.max() - opening.min() < _LEAST_CLOSING or not closed.any():
        return 0, None
    last = int(np.flatnonzero(closed)[-1])
    open_before = np.flatnonzero(~closed[: last + 1])
    grasp = int(open_before[-1]) + 1 if len(open_before) else 0
    return grasp, last + 1 if last + 1 < len(state_T7) else None


def frame_labels(state_T7: NDArray[np.float32]) -> NDArray[np.int8]:
    """Labels [T] of the frames of a successful demonstration, from the states ``[x y z ex ey ez g]`` at its frames.

    What the hand holds last decides. If it lets go at the end, the task is not done until shortly before it opens, and
    done when it has opened and gone 60 % of its way back. If it holds on, the task is not done in the first 30 % of the
    way that it carries the object, and done in the last 10 %. A hand that never closes tells nothing: then only the
    first and the last frame are labelled.
    """
    total, label = len(state_T7), _all(len(state_T7), UNKNOWN)
    label[0], label[-1] = NOT_DONE, DONE
    grasp, release = last_grasp(state_T7)
    if grasp == 0 and release is None:
        return label
    way_T = np.linalg.norm(state_T7[:, :3] - state_T7[grasp if release is None else release - 1, :3], axis=1)
    if release is not None:
        not_done, earliest = release - _BEFORE_RELEASE, release + _AFTER_RELEASE
        gone = way_T >= 0.6 * way_T[-1]
    else:
        away = np.flatnonzero((np.arange(total) > grasp) & (way_T > 0.3 * way_T[-1]))
        not_done = int(away[0]) if len(away) else grasp
        earliest, gone = not_done + 1, way_T >= 0.9 * way_T[-1]
    label[1 : max(not_done, 1)] = NOT_DONE
    label[_from_here_on(gone, earliest) :] = DONE
    return label


def _from_here_on(holds: NDArray[np.bool_], earliest: int) -> int:
    """First index at or after ``earliest`` from which a condition holds to the end; the last index at the latest."""
    broken = np.flatnonzero(~holds)
    return min(max(earliest, int(broken[-1]) + 1 if len(broken) else 0), len(holds) - 1)


def from_folder(folder: Path, store: VideoStore, task: str | None = None) -> Iterator[LabelledVideo]:
    """Videos with a label each.

    Either ``labels.jsonl`` lists them, one JSON object per line with ``video`` (a path below the folder), ``task``,
    ``success`` and, where known, ``finish_step`` (the frame by which it was done) and ``shows`` (the source of the
    episode that the video shows again); or they lie in the folders ``success`` and ``failure``, and ``task`` says what
    should have been done.

    Raises:
        JudgeError: neither, or a line that cannot be read.
    """
    listed = folder / LABELS_FILE
    rows = list(_listed(listed)) if listed.is_file() else list(_sorted_by_folder(folder, task))
    for video_file, name, success, finish_step, shows in rows:
        path = folder / video_file
        if not path.is_file():
            raise JudgeError(f"{listed} names {video_file}, which is not in {folder}")
        # The file's size and time are part of the key: another video of that name is another video.
        stat = path.stat()
        key = f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}"
        video = store.get(key, partial(read_video, path))
        label_T = video_labels(len(video), success, finish_step)
        # Videos of two folders may have one name; where a recording is known, it tells them apart.
        name_of_video = f"{shows} {video_file}" if shows else str(video_file)
        yield LabelledVideo(name_of_video, name, video, label_T, success, shows=shows)


def video_labels(total: int, success: bool, finish_step: int | None) -> NDArray[np.int8]:
    """Labels [T] from a video's outcome alone: of a success, what lies before ``finish_step`` is not known exactly.

    Raises:
        JudgeError: a finish step that the video does not have.
    """
    if not success:
        return _all(total, NOT_DONE)
    if finish_step is not None and not 0 <= finish_step < total:
        raise JudgeError(f"finish_step {finish_step} is no frame of a video of {total}; frames count from 0")
    label = _all(total, UNKNOWN)
    if finish_step is not None:
        label[: max(0, finish_step - _BEFORE_RELEASE)] = NOT_DONE
        label[finish_step:] = DONE
    label[0], label[-1] = NOT_DONE, DONE
    return label


def _listed(path: Path) -> Iterator[tuple[str, str, bool, int | None, str]]:
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            video, task, success, step = row["video"], row["task"], row["success"], row.get("finish_step")
            shows = str(row.get("shows", ""))
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise JudgeError(
                f"{path}, line {number}: expected an object with video, task and success, got {line!r}"
            ) from error
        if type(success) is not bool or not (step is None or type(step) is int):
            raise JudgeError(f"{path}, line {number}: success is true or false and finish_step a number, got {line!r}")
        yield str(video), str(task), success, step, shows


def _sorted_by_folder(folder: Path, task: str | None) -> Iterator[tuple[str, str, bool, int | None, str]]:
    places = [(folder / name, name == "success") for name in ("success", "failure") if (folder / name).is_dir()]
    if not places:
        raise JudgeError(
            f"{folder} is no dataset and has neither {LABELS_FILE} nor folders success/ and failure/ with videos"
        )
    if task is None:
        raise JudgeError(f"the videos in {folder} do not say what should be done in them; give --task 'INSTRUCTION'")
    for place, success in places:
        for path in find_videos(place):
            yield str(path.relative_to(folder)), task, success, None, ""


def _all(count: int, value: int) -> NDArray[np.int8]:
    return np.full(count, value, dtype=np.int8)


class _Known(Protocol):
    """What a split goes by."""

    @property
    def task(self) -> str: ...
    @property
    def success(self) -> bool: ...
    @property
    def recording(self) -> str: ...


Known = TypeVar("Known", bound=_Known)


def split(
    videos: Sequence[Known], validation: float, test: float, seed: int
) -> tuple[list[Known], list[Known], list[Known]]:
    """Training, validation and test videos or trajectories.

    Each task and outcome is divided by itself, whole recordings at a time.

    A recording and the videos that show it again stay together. The order within a group comes from a hash of
    (seed, recording), so a video keeps its side when others are added later as far as the shares allow. A group of two
    or more recordings always gives validation one, a group of three or more also the test.
    """
    parts: tuple[list[Known], list[Known], list[Known]] = ([], [], [])
    groups: dict[tuple[str, bool], dict[str, list[Known]]] = {}
    for video in videos:
        groups.setdefault((video.task, video.success), {}).setdefault(video.recording, []).append(video)
    for _, group in sorted(groups.items()):
        order = sorted(group, key=lambda recording: hashlib.sha256(f"{seed} {recording}".encode()).digest())
        held = max(round(validation * len(order)), int(len(order) >= 2)) if validation > 0 else 0
        last = max(round(test * len(order)), int(len(order) >= 3)) if test > 0 else 0
        for place, recording in enumerate(order):
            parts[1 if place < held else 2 if place < held + last else 0].extend(group[recording])
    return parts
