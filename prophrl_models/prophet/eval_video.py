"""Closed loops to look at: the real video and every model's beside it, plain and with the action frames drawn over.

The action frames show where the logged actions say the hand should be; in a good model's video it is there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from calibration.action_frame import draw_over
from prophrl_models.data.dataset import Dataset
from prophrl_models.data.files import NpyStream
from prophrl_models.data.image import Image
from prophrl_models.prophet.eval_data import Clip, ClipReader
from prophrl_models.prophet.motion import drawn_action_frames, integrated
from prophrl_models.trials.video import TrialMedia, write_media

MOST_COLUMNS = 6
"""Videos side by side, the real one included."""
_PANEL_WIDTH_PX, _GAP_PX, _HEAD_PX = 256, 4, 22
_PAPER, _INK = (251, 250, 246), (28, 33, 30)


class FrameStore:
    """Keeps the frames of some clips of one row on disk while the clips are played, one file for each."""

    def __init__(self, folder: Path | None, row: str, clips: Sequence[int]) -> None:
        """``folder`` None, or no clips, keeps nothing."""
        self._folder, self._row = folder, row
        self._clips = frozenset(clips if folder is not None else ())
        self._streams: dict[int, NpyStream] = {}

    def add(self, clip: int, frames_THW3: Image) -> None:
        """The next frames of a clip; ignored for clips that are not kept."""
        if clip not in self._clips or self._folder is None:
            return
        if clip not in self._streams:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._streams[clip] = NpyStream(frames_file(self._folder, self._row, clip), frames_THW3.shape[1:])
        for frame in frames_THW3:
            self._streams[clip].append(frame)

    def __enter__(self) -> FrameStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for stream in self._streams.values():
            stream.close()


def frames_file(folder: Path, row: str, clip: int) -> Path:
    """Where the frames of a clip of a row are kept: uint8 [T, H, W, 3], without the known frame."""
    return folder / f"{hashlib.sha256(row.encode()).hexdigest()[:12]}_{clip:04d}.npy"


def pick_shown(dataset: Dataset, clips: Sequence[Clip], count: int) -> tuple[int, ...]:
    """Numbers of ``count`` clips to show, tasks in turns."""
    queues: dict[str, list[int]] = {}
    for number, clip in enumerate(clips):
        queues.setdefault(dataset.table[clip.position].task, []).append(number)
    chosen: list[int] = []
    while len(chosen) < min(count, len(clips)):
        for queue in queues.values():
            if queue and len(chosen) < count:
                chosen.append(queue.pop(0))
    return tuple(sorted(chosen))


def write_clip_video(
    folder: Path,
    name: str,
    reader: ClipReader,
    clip: Clip,
    number: int,
    rows: Sequence[str],
    kept: Path,
    rate_hz: float,
) -> TrialMedia:
    """Write one closed loop's video with all rows side by side (the first ones, if there are many).

    Args:
        folder: where the video goes.
        name: its name without ending.
        reader: of the dataset, at the frames' size.
        clip, number: the clip, and its number among the closed loops.
        rows: names of the rows whose frames were kept.
        kept: the folder given to ``FrameStore``.
        rate_hz: frames per second.

    Raises:
        FileNotFoundError: frames of a row were not kept.
    """
    shown = list(rows)[: MOST_COLUMNS - 1]
    videos = [np.load(frames_file(kept, row, number), mmap_mode="r") for row in shown]
    return write_media(folder, name, _side_by_side(reader, clip, shown, videos), rate_hz, stills=5, still_width=320)


def action_frames(reader: ClipReader, clip: Clip) -> Image | None:
    """Where the logged actions lead the hand, at the known frame and after each action [T + 1, H, W, 3]; black
    elsewhere. None without a camera."""
    camera = reader.camera(clip)
    if camera is None:
        return None
    actions = reader.actions(clip, 0, clip.frames)
    states_1T7 = integrated(reader.state(clip)[None], actions[None], reader.dataset.convention)
    drawn: Image = drawn_action_frames(states_1T7, [camera])[0]
    return drawn


def _side_by_side(reader: ClipReader, clip: Clip, names: Sequence[str], videos: Sequence[Image]) -> Iterator[Image]:
    overlay = action_frames(reader, clip)
    first = reader.frames(clip, 0, 1)[0]
    for k in range(clip.frames + 1):
        pictures = [reader.frames(clip, k, 1)[0]]
        pictures += [np.asarray(video[k - 1]) if k else first for video in videos]
        lines = [_line(pictures)]
        if overlay is not None:
            lines.append(_line([draw_over(picture, overlay[k]) for picture in pictures]))
        yield np.concatenate([_head(["real", *names], lines[0].shape[1]), *lines])


def _line(pictures: Sequence[Image]) -> Image:
    """Pictures beside each other, enlarged to a size that can be looked at."""
    height, width = pictures[0].shape[:2]
    size = (max(_PANEL_WIDTH_PX, width), round(height * max(_PANEL_WIDTH_PX, width) / width))
    gap = np.full((size[1] + _GAP_PX, _GAP_PX, 3), _PAPER, np.uint8)
    under = np.full((_GAP_PX, size[0], 3), _PAPER, np.uint8)
    pieces = []
    for picture in pictures:
        large = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC), dtype=np.uint8)
        pieces += [np.concatenate([large, under]), gap]
    return np.concatenate(pieces[:-1], axis=1)


def _head(names: Sequence[str], width: int) -> Image:
    """The columns' names."""
    head = np.full((_HEAD_PX, width, 3), _PAPER, np.uint8)
    pitch = (width + _GAP_PX) / len(names)
    for k, name in enumerate(names):
        words = name if len(name) <= 26 else name[:25] + "."
        place = (round(k * pitch) + 3, _HEAD_PX - 7)
        cv2.putText(head, words, place, cv2.FONT_HERSHEY_SIMPLEX, 0.42, _INK, 1, cv2.LINE_AA)
    return head
