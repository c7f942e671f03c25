"""Frames of videos: which ones a judge looks at, in what size, and how they travel."""

from __future__ import annotations

import base64
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from prophrl_models.reward.judge import JudgeError, Video

VIDEO_ENDINGS = (".mp4", ".mkv", ".webm", ".avi", ".mov")


def sample_indices(total: int, count: int) -> NDArray[np.int64]:
    """At most ``count`` different frame indices, evenly over 0..total-1, the first and the last always among them.

    Raises:
        JudgeError: no frames, or fewer than two asked for.
    """
    if total < 1 or count < 2:
        raise JudgeError(f"frames are sampled from at least 1, at least 2 of them; got {count} of {total}")
    return np.unique(np.round(np.linspace(0, total - 1, min(total, count))).astype(np.int64))


def snap(step: int, sampled: NDArray[np.int64]) -> int:
    """The sampled index nearest to a frame number that a judge named; -1 (or less) means the last one."""
    if step < 0:
        return int(sampled[-1])
    return int(sampled[np.abs(sampled - step).argmin()])


def resized(video: Video, height: int, width: int) -> Video:
    """All frames area-resized to ``height`` x ``width``; the array itself when it has that size already."""
    if video.shape[1:3] == (height, width):
        return video
    frames = [cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA) for frame in video]
    return np.asarray(frames, dtype=np.uint8)


def fitted(rgb_HW3: Video, longest: int) -> Video:
    """One image scaled down so that its longer side has at most ``longest`` pixels; never scaled up."""
    height, width = rgb_HW3.shape[:2]
    scale = longest / max(height, width)
    if scale >= 1.0:
        return rgb_HW3
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(rgb_HW3, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def jpeg(rgb_HW3: Video, quality: int = 90) -> bytes:
    """An RGB image as the bytes of a JPEG file."""
    done, data = cv2.imencode(".jpg", np.ascontiguousarray(rgb_HW3[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise JudgeError(f"an image of shape {rgb_HW3.shape} and type {rgb_HW3.dtype} cannot be stored as JPEG")
    return bytes(data)


def data_url(rgb_HW3: Video, quality: int = 90) -> str:
    """An RGB image as a JPEG in a ``data:`` address."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg(rgb_HW3, quality)).decode("ascii")


def read_video(path: Path) -> Video:
    """All frames of a video file.

    Raises:
        JudgeError: no such file, not a video, or one without frames.
    """
    import av

    if not path.is_file():
        raise JudgeError(f"no video at {path}")
    try:
        with av.open(str(path)) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    except (av.FFmpegError, IndexError) as error:
        raise JudgeError(f"{path} cannot be read as a video ({error}); render or fetch it again") from error
    if not frames:
        raise JudgeError(f"{path} has no frames; render or fetch it again")
    return np.stack(frames)


def find_videos(place: Path) -> list[Path]:
    """A video file itself, or all videos in a folder and its folders, sorted.

    Raises:
        JudgeError: nothing there.
    """
    if place.is_file():
        return [place]
    found = sorted(path for path in place.rglob("*") if path.suffix.lower() in VIDEO_ENDINGS)
    if not found:
        raise JudgeError(f"no video in {place}; looked for {', '.join(VIDEO_ENDINGS)}")
    return found
