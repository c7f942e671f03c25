"""Videos and stills: they play, they show what happened, and long trials do not fill the memory."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prophrl_models.trials.video import StillPicker, VideoError, jpeg_bytes, write_media, write_video


def frames(count: int, height: int = 120, width: int = 160) -> Iterator[np.ndarray]:
    """A bar that moves from left to right over a red-to-blue fade."""
    for k in range(count):
        frame = np.zeros((height, width, 3), np.uint8)
        frame[..., 0], frame[..., 2] = 255 - 255 * k // max(count - 1, 1), 255 * k // max(count - 1, 1)
        x = (width - 16) * k // max(count - 1, 1)
        frame[:, x : x + 16] = 255
        yield frame


def decoded(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_a_video_shows_the_frames_at_their_rate(tmp_path: Path) -> None:
    assert write_video(tmp_path / "a.mp4", frames(30), 10.0) == 30
    shown = decoded(tmp_path / "a.mp4")
    assert len(shown) == 30
    for original, seen in zip(frames(30), shown, strict=True):
        assert np.abs(original.astype(int) - seen).mean() < 12
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert float(stream.duration * stream.time_base) == pytest.approx(3.0)


def test_the_index_comes_first_so_that_a_browser_can_start_at_once(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", frames(10), 10.0)
    data = (tmp_path / "a.mp4").read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")


def test_odd_sizes_lose_one_row_and_column(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", frames(3, 121, 161), 10.0)
    assert decoded(tmp_path / "a.mp4")[0].shape == (120, 160, 3)


def test_frames_need_not_fit_into_memory(tmp_path: Path) -> None:
    alive: list[weakref.ref[np.ndarray]] = []
    most = 0

    def watched() -> Iterator[np.ndarray]:
        nonlocal most
        for frame in frames(300, 48, 64):
            alive.append(weakref.ref(frame))
            most = max(most, sum(ref() is not None for ref in alive))
            yield frame

    media = write_media(tmp_path, "long", watched(), 10.0, stills=4)
    gc.collect()
    assert most <= 4
    assert media.duration_s == pytest.approx(30.0)


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 400), stills=st.integers(2, 9))
def test_stills_are_spread_evenly_and_include_both_ends(count: int, stills: int) -> None:
    picker = StillPicker(stills)
    for k in range(count):
        picker.see(k, np.array([k]))
    picked = picker.picked()
    assert all(index == int(frame[0]) for index, frame in picked)
    indices = [index for index, _ in picked]
    assert indices[0] == 0 and indices[-1] == count - 1
    assert len(indices) == min(stills, count)
    if count > 4 * stills:
        assert max(np.diff(indices)) <= 1.3 * (count - 1) / (stills - 1) + 1


def test_the_strip_holds_the_stills_side_by_side_in_order(tmp_path: Path) -> None:
    media = write_media(tmp_path, "a", frames(50), 10.0, stills=5, still_width=80)
    strip = cv2.imdecode(np.frombuffer(media.sheet, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert strip.shape == (60, 5 * 80 + 4 * 3, 3)
    bars = [int(strip[:, 83 * k : 83 * k + 80, 1].mean(axis=0).argmax()) for k in range(5)]
    assert bars == sorted(bars) and bars[0] < 10 and bars[-1] > 65
    assert media.times_s[0] == 0.0 and media.times_s[-1] == pytest.approx(4.9)
    assert (media.width, media.height, media.video) == (160, 120, "a.mp4")


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        ([], "did the trial record images"),
        ([np.zeros((4, 4), np.uint8)], "expected RGB uint8"),
        ([np.zeros((4, 4, 3), np.float32)], "float32"),
        ([np.zeros((4, 4, 3), np.uint8), np.zeros((6, 4, 3), np.uint8)], "frame 1 has shape"),
    ],
)
def test_frames_that_make_no_video_are_refused_and_leave_nothing_behind(
    tmp_path: Path, bad: list[np.ndarray], match: str
) -> None:
    with pytest.raises(VideoError, match=match):
        write_video(tmp_path / "a.mp4", bad, 10.0)
    assert list(tmp_path.iterdir()) == []


def test_an_impossible_rate_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="got 0"):
        write_video(tmp_path / "a.mp4", frames(2), 0)


def test_a_jpeg_keeps_red_red() -> None:
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 255
    back = cv2.imdecode(np.frombuffer(jpeg_bytes(red), np.uint8), cv2.IMREAD_COLOR)
    assert back[8, 8, 2] > 240 and back[8, 8, 0] < 20
