"""Which frames are looked at, and that videos come back from files as they were."""

from __future__ import annotations

import base64
from pathlib import Path

import cv2
import numpy as np
import pytest

from prophrl_models.reward.frames import data_url, find_videos, fitted, read_video, resized, sample_indices, snap
from prophrl_models.reward.judge import JudgeError
from prophrl_models.trials.video import write_video


@pytest.mark.parametrize("total", [1, 2, 3, 15, 16, 17, 100, 1000])
@pytest.mark.parametrize("count", [2, 16, 30, 50])
def test_frames_are_even_and_hold_the_first_and_the_last(total: int, count: int) -> None:
    index = sample_indices(total, count)
    steps = np.diff(index)

    assert index[0] == 0 and index[-1] == total - 1
    assert len(index) == min(total, count)
    assert total == 1 or (steps.min() >= 1 and steps.max() - steps.min() <= 1)


def test_nothing_cannot_be_sampled() -> None:
    with pytest.raises(JudgeError, match="got 4 of 0"):
        sample_indices(0, 4)


def test_named_frames_snap_to_the_nearest_shown_one() -> None:
    index = np.array([0, 10, 20, 30])
    assert [snap(step, index) for step in (-1, 0, 4, 6, 14, 16, 30, 999)] == [30, 0, 0, 10, 10, 20, 30, 30]


def test_a_frame_travels_as_jpeg() -> None:
    ramp = np.linspace(0, 255, 64).astype(np.uint8)
    image = np.stack([np.tile(ramp, (48, 1)), np.full((48, 64), 30, np.uint8), np.full((48, 64), 200, np.uint8)], -1)
    head, _, body = data_url(image).partition(",")
    decoded = cv2.imdecode(np.frombuffer(base64.b64decode(body), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]

    assert head == "data:image/jpeg;base64"
    assert np.abs(decoded.astype(int) - image).mean() < 4.0, "red stays red"


def test_resizing_averages_areas() -> None:
    video = np.random.default_rng(0).integers(0, 255, (2, 48, 64, 3)).astype(np.uint8)
    means = video.reshape(2, 24, 2, 32, 2, 3).mean((2, 4))

    assert np.abs(resized(video, 24, 32) - means).max() <= 1.0
    assert resized(video, 48, 64) is video
    assert fitted(video[0], 32).shape == (24, 32, 3)


def test_videos_come_back_from_files(tmp_path: Path) -> None:
    frames = np.repeat(np.arange(20, 200, 20, dtype=np.uint8), 32 * 32 * 3).reshape(-1, 32, 32, 3)
    (tmp_path / "deep").mkdir()
    write_video(tmp_path / "deep" / "a.mp4", frames, 10.0, quality=1)
    (tmp_path / "note.txt").write_text("no video")

    (found,) = find_videos(tmp_path)
    video = read_video(found)
    assert video.shape == frames.shape
    assert np.abs(video.astype(int) - frames).max() <= 4


def test_what_is_no_video_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"not a video at all")
    with pytest.raises(JudgeError, match=r"broken\.mp4 cannot be read"):
        read_video(tmp_path / "broken.mp4")
    with pytest.raises(JudgeError, match=r"no video at .*absent"):
        read_video(tmp_path / "absent.mp4")
    with pytest.raises(JudgeError, match="no video in"):
        find_videos(tmp_path / "nowhere")
