"""Videos whose frames are found by number: frame k has presentation time k / rate, exactly.

Every second frame is a key frame by default, so a random window costs at most one frame more than it shows. There are
no B-frames: packets lie in the order they are shown, and episodes are put into one file without encoding them again.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from prophrl_models.data.image import Image
from prophrl_models.data.lerobot.format import LeRobotError

CODECS = ("av1", "h264")
_ENCODER = {"av1": "libsvtav1", "h264": "libx264"}
_SMPTE170M, _LIMITED = 6, 1
"""ITU-T H.273 codes of what the conversion to YUV does: BT.601 coefficients, 16..235."""


@dataclass(frozen=True)
class VideoCodec:
    """How videos are encoded.

    Attributes:
        name: "av1" (smallest) or "h264" (decodes everywhere).
        crf: quality, smaller is better; a good default of the codec when None.
        keyframe_interval: every how many frames decoding can begin.
    """

    name: str = "av1"
    crf: int | None = None
    keyframe_interval: int = 2

    def __post_init__(self) -> None:
        if self.name not in CODECS:
            raise LeRobotError(f"unknown codec {self.name!r}, choose {' or '.join(CODECS)}")
        if not 0 <= self.quality <= (63 if self.name == "av1" else 51) or self.keyframe_interval < 1:
            raise LeRobotError(f"crf {self.crf} or key frame interval {self.keyframe_interval} is out of range: {self}")

    @property
    def quality(self) -> int:
        """The crf in force."""
        return (30 if self.name == "av1" else 23) if self.crf is None else self.crf

    @property
    def preset(self) -> str:
        return "10" if self.name == "av1" else "medium"

    @property
    def options(self) -> dict[str, str]:
        """Options of the encoder; one thread each, because episodes are encoded side by side."""
        shared = {"crf": str(self.quality), "preset": self.preset, "g": str(self.keyframe_interval)}
        return {**shared, "svtav1-params": "lp=1"} if self.name == "av1" else {**shared, "bf": "0", "threads": "1"}

    def info(self, height: int, width: int, fps: int) -> dict[str, Any]:
        """What ``info.json`` says about a video."""
        return {
            "video.height": height,
            "video.width": width,
            "video.codec": self.name,
            "video.pix_fmt": "yuv420p",
            "video.fps": fps,
            "video.channels": 3,
            "has_audio": False,
            "video.g": self.keyframe_interval,
            "video.crf": self.quality,
            "video.preset": int(self.preset) if self.name == "av1" else self.preset,
            "is_depth_map": False,
        }


def encode_video(path: Path, frames: Iterable[Image], fps: int, codec: VideoCodec) -> int:
    """Write frames, RGB uint8 [H, W, 3] of one even size, as MP4; returns how many.

    Raises:
        LeRobotError: no frames, or frames of odd or different sizes.
    """
    os.environ.setdefault("SVT_LOG", "1")  # SVT-AV1 prints a page about itself otherwise
    count, size = 0, (0, 0)
    with av.open(str(path), "w", format="mp4") as container:
        stream: Any = container.add_stream(_ENCODER[codec.name], rate=fps, options=codec.options)
        stream.pix_fmt = "yuv420p"
        stream.time_base = Fraction(1, fps)
        context = stream.codec_context
        context.colorspace, context.color_primaries, context.color_trc = _SMPTE170M, _SMPTE170M, _SMPTE170M
        context.color_range = _LIMITED
        for image in frames:
            if count == 0:
                size = image.shape[:2]
                if size[0] % 2 or size[1] % 2:
                    raise LeRobotError(f"frames of {size[1]}x{size[0]} pixels: both sides must be even (4:2:0)")
                stream.height, stream.width = size
            if image.shape[:2] != size:
                raise LeRobotError(f"frame {count} of {path.name} is {image.shape[:2]}, the ones before it {size}")
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts, frame.time_base = count, Fraction(1, fps)
            for packet in stream.encode(frame):
                container.mux(packet)
            count += 1
        if count == 0:
            raise LeRobotError(f"{path.name}: a video needs at least one frame")
        for packet in stream.encode(None):
            container.mux(packet)
    return count


def concatenate_videos(paths: Sequence[Path], out: Path, fps: int) -> list[int]:
    """Put videos of the same codec and size one after another, packets untouched; returns the frames of each.

    Raises:
        LeRobotError: a video is not what ``encode_video`` writes: frames missing or out of order.
    """
    counts: list[int] = []
    with av.open(str(out), "w", format="mp4", options={"movflags": "faststart"}) as target:
        stream: Any = None
        for path in paths:
            with av.open(str(path)) as source:
                video = source.streams.video[0]
                if stream is None:
                    stream = target.add_stream_from_template(video, opaque=True)
                    stream.time_base = Fraction(1, fps)
                first, count = sum(counts), 0
                packet: Any
                for packet in source.demux(video):
                    if packet.pts is None:
                        continue  # the flush at the end
                    shown = Fraction(packet.pts) * packet.time_base * fps
                    if shown != count or (count == 0 and not packet.is_keyframe):
                        raise LeRobotError(f"{path}: packet {count} is shown as frame {shown}; export it again")
                    packet.stream = stream
                    packet.time_base = Fraction(1, fps)
                    packet.pts = packet.dts = first + count
                    packet.duration = 1
                    target.mux(packet)
                    count += 1
            counts.append(count)
    return counts


def iterate_frames(path: Path, fps: int, first: int, count: int) -> Iterator[Image]:
    """Frames ``first`` .. ``first + count - 1`` of a video, RGB uint8 [H, W, 3] each; one is in memory at a time.

    Raises:
        LeRobotError: the video cannot be read, or does not have these frames at these times.
    """
    if first < 0 or count < 0:
        raise LeRobotError(f"frames {first}..{first + count - 1} of {path}: numbers begin at 0")
    wanted, end = first, first + count
    try:
        with av.open(str(path)) as container:
            stream: Any = container.streams.video[0]
            frame: Any
            stream.codec_context.thread_count = 1
            container.seek(round(Fraction(first, fps) / stream.time_base), stream=stream, backward=True)
            for frame in container.decode(stream) if count else ():
                number = round(frame.pts * stream.time_base * fps)
                if number < wanted:
                    continue  # between the key frame and the first one wanted
                if number > wanted:
                    break
                yield frame.to_ndarray(format="rgb24")
                wanted += 1
                if wanted == end:
                    return
    except (av.FFmpegError, IndexError, OSError) as error:
        raise LeRobotError(f"{path} cannot be decoded ({error}); fetch or export the dataset again") from error
    if wanted < end:
        raise LeRobotError(f"{path} has no frame {wanted} at {wanted / fps:.3f} s; fetch or export the dataset again")


def read_frames(path: Path, fps: int, first: int, count: int) -> Image:
    """The same as one array [count, H, W, 3]."""
    frames = list(iterate_frames(path, fps, first, count))
    return np.stack(frames) if frames else np.zeros((0, 0, 0, 3), dtype=np.uint8)
