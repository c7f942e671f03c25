"""Videos: every frame at its number, key frames close together, files joined without touching a picture."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from prophrl_models.data.lerobot.format import LeRobotError
from prophrl_models.data.lerobot.video import VideoCodec, concatenate_videos, encode_video, iterate_frames, read_frames
from tests.helpers.numbered_episodes import make_episode, psnr_db, read_number

CODECS = pytest.mark.parametrize("codec", [VideoCodec("av1"), VideoCodec("h264")], ids=lambda c: str(c.name))


@pytest.fixture(scope="module")
def pictures() -> NDArray[np.uint8]:
    return make_episode(0, 13, depth=False).color_THW3


@CODECS
@pytest.mark.parametrize("fps", [10, 7, 30])
def test_frames_come_back_in_place_and_close_to_what_they_were(
    codec: VideoCodec, fps: int, pictures: NDArray[np.uint8], tmp_path: Path
) -> None:
    assert encode_video(tmp_path / "v.mp4", pictures, fps, codec) == 13
    frames = read_frames(tmp_path / "v.mp4", fps, 0, 13)
    assert frames.shape == pictures.shape and frames.dtype == np.uint8
    assert [read_number(frame) for frame in frames] == list(range(13))
    assert min(psnr_db(a, b) for a, b in zip(frames, pictures, strict=True)) > 32.0


@CODECS
def test_any_window_equals_that_part_of_the_whole(
    codec: VideoCodec, pictures: NDArray[np.uint8], tmp_path: Path
) -> None:
    encode_video(tmp_path / "v.mp4", pictures, 10, codec)
    whole = read_frames(tmp_path / "v.mp4", 10, 0, 13)
    for first in range(13):
        for count in {1, 2, 13 - first}:
            if first + count <= 13:
                assert (read_frames(tmp_path / "v.mp4", 10, first, count) == whole[first : first + count]).all()
    assert read_frames(tmp_path / "v.mp4", 10, 4, 0).shape[0] == 0


@CODECS
def test_decoding_can_begin_at_every_second_frame(
    codec: VideoCodec, pictures: NDArray[np.uint8], tmp_path: Path
) -> None:
    encode_video(tmp_path / "v.mp4", pictures, 10, codec)
    with av.open(str(tmp_path / "v.mp4")) as container:
        stream: Any = container.streams.video[0]
        packets = [p for p in container.demux(stream) if p.pts is not None]
        assert [p.is_keyframe for p in packets] == [k % 2 == 0 for k in range(13)]
        assert [Fraction(p.pts) * p.time_base for p in packets] == [Fraction(k, 10) for k in range(13)]
        assert all(p.pts == p.dts for p in packets), "no frame waits for another"
        context = stream.codec_context
        assert (context.colorspace, context.color_range) == (6, 1), "players need not guess the colours"


@CODECS
def test_joined_videos_show_the_same_pictures(codec: VideoCodec, pictures: NDArray[np.uint8], tmp_path: Path) -> None:
    parts = {"a": pictures[:5], "b": pictures[5:6], "c": pictures[6:]}
    for name, part in parts.items():
        encode_video(tmp_path / f"{name}.mp4", part, 10, codec)
    paths = [tmp_path / f"{name}.mp4" for name in parts]
    assert concatenate_videos(paths, tmp_path / "all.mp4", 10) == [5, 1, 7]
    apart = np.concatenate(
        [read_frames(path, 10, 0, len(part)) for path, part in zip(paths, parts.values(), strict=True)]
    )
    assert (read_frames(tmp_path / "all.mp4", 10, 0, 13) == apart).all()
    assert (read_frames(tmp_path / "all.mp4", 10, 5, 3) == apart[5:8]).all()


def test_videos_with_reordered_frames_are_not_joined(pictures: NDArray[np.uint8], tmp_path: Path) -> None:
    with av.open(str(tmp_path / "b.mp4"), "w") as container:
        stream: Any = container.add_stream("libx264", rate=10, options={"bf": "2", "g": "12"})
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    with pytest.raises(LeRobotError, match=r"packet \d+ is shown as frame"):
        concatenate_videos([tmp_path / "b.mp4"], tmp_path / "out.mp4", 10)


def test_frames_that_are_not_there_are_named(pictures: NDArray[np.uint8], tmp_path: Path) -> None:
    encode_video(tmp_path / "v.mp4", pictures, 10, VideoCodec("h264"))
    with pytest.raises(LeRobotError, match=r"no frame 13 at 1\.300 s"):
        read_frames(tmp_path / "v.mp4", 10, 11, 4)
    with pytest.raises(LeRobotError, match="numbers begin at 0"):
        list(iterate_frames(tmp_path / "v.mp4", 10, -1, 2))


def test_a_damaged_video_is_refused(pictures: NDArray[np.uint8], tmp_path: Path) -> None:
    encode_video(tmp_path / "v.mp4", pictures, 10, VideoCodec("h264"))
    (tmp_path / "v.mp4").write_bytes((tmp_path / "v.mp4").read_bytes()[:2000])
    with pytest.raises(LeRobotError, match="cannot be decoded"):
        read_frames(tmp_path / "v.mp4", 10, 0, 13)


def test_frames_a_video_cannot_hold_are_refused(tmp_path: Path) -> None:
    picture = np.zeros((48, 64, 3), np.uint8)
    for frames, reason in (
        ([], "at least one frame"),
        ([picture[:47]], "must be even"),
        ([picture, picture[:24]], "frame 1 of v.mp4 is"),
    ):
        with pytest.raises(LeRobotError, match=reason):
            encode_video(tmp_path / "v.mp4", frames, 10, VideoCodec("h264"))


@pytest.mark.parametrize("options", [{"name": "hevc"}, {"crf": 64}, {"crf": -1}, {"keyframe_interval": 0}])
def test_a_codec_that_cannot_be_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(LeRobotError, match=r"choose av1 or h264|out of range"):
        VideoCodec(**options)
