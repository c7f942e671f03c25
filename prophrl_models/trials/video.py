"""Pictures of a trial: an H.264 video that any browser plays, and a strip of stills. Memory stays bounded.

Frames are RGB uint8 [H, W, 3] and may come from any iterable, a memory-mapped array or a generator; they are looked
at once, in order.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from prophrl_models.data.image import Image

_GAP = 3  # pixels between stills


class VideoError(ValueError):
    """Frames that cannot become a video; the message names what is wrong with them."""


@dataclass(frozen=True)
class Still:
    """One frame as a JPEG file's bytes, and when it was seen."""

    jpeg: bytes
    time_s: float


@dataclass(frozen=True)
class TrialMedia:
    """All pictures of one trial.

    Attributes:
        video: file name of the video.
        poster: the frame shown before it plays.
        sheet: stills side by side in one JPEG; ``times_s`` says when each was seen.
        duration_s: length of the video.
    """

    video: str
    poster: Still
    sheet: bytes
    times_s: tuple[float, ...]
    width: int
    height: int
    duration_s: float


class StillPicker:
    """Picks ``count`` frames spread evenly over a stream whose length nobody knows.

    Every ``stride``-th frame is kept; whenever eight times as many as wanted have gathered, every second one is
    dropped and the stride doubles. So a pick is off its ideal place by an eighth of the spacing at most.
    """

    _SPARE = 8

    def __init__(self, count: int) -> None:
        if count < 2:
            raise ValueError(f"a strip has a first and a last still, so at least 2; got {count}")
        self._count = count
        self._stride = 1
        self._kept: list[tuple[int, Image]] = []
        self._last: tuple[int, Image] | None = None

    def see(self, index: int, frame: Image) -> None:
        """Look at the next frame; it is copied only if kept."""
        if index % self._stride == 0:
            if len(self._kept) == self._SPARE * self._count:
                self._kept = self._kept[::2]
                self._stride *= 2
            if index % self._stride == 0:
                self._kept.append((index, frame.copy()))
        self._last = (index, frame.copy())

    def picked(self) -> list[tuple[int, Image]]:
        """At most ``count`` (index, frame), evenly spread, the first and the last frame always among them."""
        if self._last is None:
            return []
        frames = self._kept if self._kept[-1][0] == self._last[0] else [*self._kept, self._last]
        wanted = np.linspace(0, self._last[0], min(self._count, len(frames)))
        indices = np.array([index for index, _ in frames])
        chosen = sorted({int(np.abs(indices - target).argmin()) for target in wanted})
        return [frames[i] for i in chosen]


def write_media(
    folder: Path, name: str, frames: Iterable[Image], rate_hz: float, *, stills: int = 6, still_width: int = 160
) -> TrialMedia:
    """Write ``<folder>/<name>.mp4`` and make the stills, in one pass over the frames.

    Args:
        folder: where the video goes; made if absent.
        name: the video's name without ending.
        frames: RGB uint8 [H, W, 3], all of one size.
        rate_hz: frames per second of real time.
        stills: stills in the strip.
        still_width: width of a still in pixels.

    Raises:
        VideoError: no frames, frames of different sizes, or not RGB uint8. No video is left behind then.
    """
    picker = StillPicker(stills)
    seen = 0

    def watched() -> Iterator[Image]:
        nonlocal seen
        for frame in frames:
            picker.see(seen, frame)
            seen += 1
            yield frame

    folder.mkdir(parents=True, exist_ok=True)
    write_video(folder / f"{name}.mp4", watched(), rate_hz)
    picked = picker.picked()
    poster_index, poster = picked[(2 * len(picked)) // 3]  # late enough to show what it is about
    height, width = poster.shape[:2]
    thumbs = [_scaled(frame, still_width) for _, frame in picked]
    gap = np.full((thumbs[0].shape[0], _GAP, 3), 255, np.uint8)
    strip = [piece for thumb in thumbs for piece in (thumb, gap)][:-1]
    return TrialMedia(
        video=f"{name}.mp4",
        poster=Still(jpeg_bytes(poster), poster_index / rate_hz),
        sheet=jpeg_bytes(np.concatenate(strip, axis=1), 78),
        times_s=tuple(index / rate_hz for index, _ in picked),
        width=width,
        height=height,
        duration_s=seen / rate_hz,
    )


def write_video(path: Path, frames: Iterable[Image], rate_hz: float, *, quality: int = 24) -> int:
    """Encode frames as H.264 (4:2:0, header first, so that it plays while loading); returns the number of frames.

    Odd sizes lose their last row or column. The file appears under its name when it is complete.

    Args:
        path: an .mp4 file.
        frames: RGB uint8 [H, W, 3], all of one size.
        rate_hz: frames per second.
        quality: x264's constant rate factor; smaller is better and larger.

    Raises:
        VideoError: no frames, frames of different sizes, or not RGB uint8.
    """
    if not 0 < rate_hz <= 1000:
        raise VideoError(f"a video needs a rate between 0 and 1000 frames per second, got {rate_hz}")
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.mp4")
    try:
        count = _encode(temporary, frames, rate_hz, quality)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return count


def _encode(path: Path, frames: Iterable[Image], rate_hz: float, quality: int) -> int:
    count, shape = 0, None
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(rate_hz).limit_denominator(1000))
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": str(quality), "preset": "veryfast"}
        for frame in frames:
            if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
                raise VideoError(f"frame {count} is {frame.dtype} {frame.shape}, expected RGB uint8 [H, W, 3]")
            if shape is None:
                shape = frame.shape
                stream.height, stream.width = shape[0] // 2 * 2, shape[1] // 2 * 2
            if frame.shape != shape:
                raise VideoError(f"frame {count} has shape {frame.shape}, the first had {shape}")
            even = np.ascontiguousarray(frame[: stream.height, : stream.width])
            for packet in stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")):
                container.mux(packet)
            count += 1
        if shape is None:
            raise VideoError(f"no frames for {path.name}: did the trial record images?")
        for packet in stream.encode():
            container.mux(packet)
    return count


def jpeg_bytes(rgb_HW3: Image, quality: int = 85) -> bytes:
    """An RGB image as the bytes of a JPEG file."""
    done, data = cv2.imencode(".jpg", np.ascontiguousarray(rgb_HW3[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise VideoError(f"an image of shape {rgb_HW3.shape} and type {rgb_HW3.dtype} cannot be stored as JPEG")
    return bytes(data)


def _scaled(rgb_HW3: Image, width: int) -> Image:
    height = max(1, round(rgb_HW3.shape[0] * width / rgb_HW3.shape[1]))
    return np.asarray(cv2.resize(rgb_HW3, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)
