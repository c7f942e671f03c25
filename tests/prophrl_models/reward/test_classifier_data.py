"""Labels of frames, clips made from them, and where videos come from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from prophrl_models.data.dataset import Dataset
from prophrl_models.reward.classifier_clips import ClipOptions, draw_clip, spoil
from prophrl_models.reward.classifier_data import (
    DONE,
    NOT_DONE,
    UNKNOWN,
    AsRecorded,
    LabelledVideo,
    SmallVideos,
    frame_labels,
    labelled_videos,
    last_grasp,
    split,
    video_labels,
)
from prophrl_models.reward.judge import JudgeError
from prophrl_models.reward.undo import changed_places, undone
from prophrl_models.trials.video import write_video
from tests.helpers.drawn_videos import GRASP, RED, RELEASE, TASK, carry
from tests.helpers.reaches import write_dataset


def demonstration(seed: int = 0) -> LabelledVideo:
    frames, states = carry(seed)
    grasp, release = last_grasp(states)
    return LabelledVideo(f"episode-{seed}", TASK, frames, frame_labels(states), True, grasp, release is not None)


def reds(frames_THW3: np.ndarray) -> np.ndarray:
    """Middle (x, y) of what is red in each frame [T, 2]; NaN where nothing is."""
    red = np.abs(frames_THW3.astype(int) - RED).max(-1) < 60
    return np.array([np.argwhere(frame)[:, ::-1].mean(0) if frame.any() else (np.nan, np.nan) for frame in red])


def apart(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Distance in pixels."""
    return np.asarray(np.linalg.norm(np.asarray(a) - np.asarray(b), axis=-1))


def test_a_carried_object_is_not_done_before_the_release_and_done_after_the_retreat() -> None:
    _, states = carry(0)
    label = frame_labels(states)

    assert last_grasp(states) == (GRASP, RELEASE)
    assert (label[: RELEASE - 3] == NOT_DONE).all() and (label[RELEASE - 3 : RELEASE + 8] == UNKNOWN).all()
    assert label[-1] == DONE and (np.diff(np.flatnonzero(label == DONE)) == 1).all()


def test_a_held_object_is_done_when_the_hand_has_carried_it_nearly_all_the_way() -> None:
    states = np.zeros((30, 7), np.float32)
    states[:10, 6] = 1.0
    states[10:, 2] = np.concatenate([np.linspace(0.0, 0.2, 10), np.full(10, 0.2)])
    label = frame_labels(states)

    assert last_grasp(states) == (10, None)
    way = states[:, 2] / 0.2
    assert (label[way <= 0.3] == NOT_DONE).all() and (label[way >= 0.9] == DONE).all()
    assert (label[(way > 0.3) & (way < 0.9)] == UNKNOWN).all()


def test_a_hand_that_never_closes_labels_the_ends_only() -> None:
    states = np.ones((12, 7), np.float32)
    assert frame_labels(states).tolist() == [NOT_DONE, *[UNKNOWN] * 10, DONE]


def test_outcomes_without_states_label_what_they_can() -> None:
    assert (video_labels(9, False, None) == NOT_DONE).all()
    assert video_labels(4, True, None).tolist() == [NOT_DONE, UNKNOWN, UNKNOWN, DONE]
    assert video_labels(9, True, 6).tolist() == [0, 0, 0, -1, -1, -1, 1, 1, 1]
    with pytest.raises(JudgeError, match="finish_step 9 is no frame of a video of 9"):
        video_labels(9, True, 9)


def numbered(success: bool = True, total: int = 60) -> LabelledVideo:
    """Every pixel of frame t has the value t."""
    frames = np.arange(total, dtype=np.uint8)[:, None, None, None].repeat(4, 1).repeat(4, 2).repeat(3, 3)
    label = np.where(np.arange(total) < 35, NOT_DONE, np.where(np.arange(total) < 45, UNKNOWN, DONE)).astype(np.int8)
    return LabelledVideo("n", TASK, frames, label if success else np.zeros(total, np.int8), success, 20, False)


def test_clips_keep_the_order_of_time_and_the_labels_of_their_frames() -> None:
    video, rng, kinds = numbered(), np.random.default_rng(0), set()
    for _ in range(400):
        frames, label = draw_clip(video, 8, ClipOptions(), rng)
        index = frames[:, 0, 0, 0].astype(int)
        assert frames.shape == (8, 4, 4, 3) and label.shape == (8,)
        assert index[0] < 35, "the first frame never shows the task done"
        if (np.diff(index) >= 0).all():
            assert (label == video.label_T[index]).all()
            kinds.add(("cut", "whole")[int(index[-1] == 59)])
        else:
            assert index.max() < 35 and (label == NOT_DONE).all()
            turn = index.argmax()
            assert (np.diff(index[: turn + 1]) >= 0).all() and (np.diff(index[turn:]) <= 0).all()
            kinds.add("turned back")
    assert kinds == {"whole", "cut", "turned back"}


def test_clips_of_failures_are_failures_to_the_end() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        frames, label = draw_clip(numbered(False), 8, ClipOptions(), rng)
        assert (label == NOT_DONE).all() and frames[-1, 0, 0, 0] == 59


def test_a_clip_without_the_carry_says_done_exactly_where_the_cube_lies_in_the_bowl() -> None:
    video, rng, outcomes = demonstration(), np.random.default_rng(0), []
    start, end = reds(video.frames_THW3)[[0, -1]]
    for _ in range(60):
        frames, label = draw_clip(video, 10, ClipOptions(skip=1.0), rng)
        outcomes.append(bool(label[-1] == DONE))
        assert bool(apart(reds(frames[-1:])[0], end) < 2.0) == outcomes[-1]
        assert apart(reds(frames[:1])[0], start) < 2.0 and label[0] == NOT_DONE
    assert 0.25 < np.mean(outcomes) < 0.75


def test_spoiling_keeps_shape_and_content_and_is_repeatable() -> None:
    frames = demonstration().frames_THW3[::4]
    all_ = ClipOptions(blur=1.0, resample=1.0, ghost=1.0, jpeg=1.0, noise=1.0)
    one, same, other = (spoil(frames, all_, np.random.default_rng(seed)) for seed in (0, 0, 1))

    assert one.shape == frames.shape and one.dtype == np.uint8
    assert (one == same).all() and (one != other).any()
    assert 1.0 < np.abs(one.astype(int) - frames).mean() < 50.0
    assert one[..., 0].mean() > one[..., 2].mean(), "red and blue are not swapped on the way"
    still = ClipOptions(blur=0, resample=0, ghost=0, jpeg=0, noise=0, shift_px=0, gain=0)
    assert np.abs(spoil(frames, still, np.random.default_rng(0)).astype(int) - frames).max() <= 1


def test_what_was_put_down_is_taken_back_and_the_arm_is_left_alone() -> None:
    video = demonstration(3)
    first, late = video.frames_THW3[0], video.frames_THW3[RELEASE + 8 :]
    places = changed_places(first, late)
    start, end = reds(video.frames_THW3)[[0, -1]]
    middles = [np.argwhere(place)[:, ::-1].mean(0) for place in places]
    changed = [undone(first, late, late, np.random.default_rng(seed)) for seed in range(12)]

    assert len(places) == 2 and all(min(apart(start, m), apart(end, m)) < 2.0 for m in middles)
    assert all(frames is not None and not (apart(reds(frames), end) < 3.0).any() for frames in changed)
    dark = (late < 60).all(-1)
    assert all(np.abs(f.astype(int) - late)[dark].mean() < 12 for f in changed if f is not None)
    assert {bool((apart(reds(f), start) < 2.0).all()) for f in changed if f is not None} == {True, False}


def test_where_nothing_was_put_down_nothing_is_taken_back() -> None:
    frames, _ = carry(3, moves_cube=False)
    assert undone(frames[0], frames[RELEASE + 8 :], frames[-3:], np.random.default_rng(0)) is None


def test_a_dataset_gives_its_episodes_with_their_final_frames(tmp_path: Path) -> None:
    dataset = Dataset(write_dataset(tmp_path / "dataset", count=2))
    small, full = (
        list(labelled_videos(dataset.folder, store))
        for store in (SmallVideos(tmp_path / "clips", 24, 32), AsRecorded())
    )
    episode = dataset[0]

    assert [video.id for video in small] == [row.source for row in dataset.table]
    assert len(full[0].label_T) == len(episode) + 1 == len(full[0].frames_THW3)
    assert (full[0].frames_THW3[-1] == episode.final.image_HW3).all()
    assert small[0].frames_THW3.shape == (len(episode) + 1, 24, 32, 3)
    again = list(labelled_videos(dataset.folder, SmallVideos(tmp_path / "clips", 24, 32)))
    assert (again[1].frames_THW3 == small[1].frames_THW3).all() and len(list((tmp_path / "clips").iterdir())) == 2


def test_folders_of_videos_are_read_with_their_labels(tmp_path: Path) -> None:
    frames, _ = carry(0)
    (tmp_path / "success").mkdir()
    (tmp_path / "failure").mkdir()
    write_video(tmp_path / "success" / "a.mp4", frames, 10.0)
    write_video(tmp_path / "failure" / "b.mp4", frames[:12], 10.0)
    by_folder = list(labelled_videos(tmp_path, AsRecorded(), TASK))
    lines = [{"video": "failure/b.mp4", "task": "x", "success": False},
             {"video": "success/a.mp4", "task": TASK, "success": True, "finish_step": 30}]  # fmt: skip
    (tmp_path / "labels.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    by_list = list(labelled_videos(tmp_path, AsRecorded()))

    assert [(v.id, v.success, v.task) for v in by_folder] == [
        ("success/a.mp4", True, TASK),
        ("failure/b.mp4", False, TASK),
    ]
    assert [(v.id, v.success, v.task) for v in by_list] == [
        ("failure/b.mp4", False, "x"),
        ("success/a.mp4", True, TASK),
    ]
    assert by_list[1].undecided_from == 27 and by_list[1].frames_THW3.shape == frames.shape


def test_unusable_folders_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(JudgeError, match=r"labels\.jsonl nor folders"):
        list(labelled_videos(tmp_path, AsRecorded()))
    (tmp_path / "success").mkdir()
    with pytest.raises(JudgeError, match="--task"):
        list(labelled_videos(tmp_path, AsRecorded()))
    (tmp_path / "labels.jsonl").write_text('{"video": "a.mp4", "task": "x", "success": "yes"}\n')
    with pytest.raises(JudgeError, match=r"line 1: success is true or false"):
        list(labelled_videos(tmp_path, AsRecorded()))
    (tmp_path / "labels.jsonl").write_text('{"video": "a.mp4", "task": "x", "success": true}\n')
    with pytest.raises(JudgeError, match=r"names a\.mp4, which is not in"):
        list(labelled_videos(tmp_path, AsRecorded()))


def test_a_video_that_shows_a_recording_again_stays_on_its_side(tmp_path: Path) -> None:
    label, frames = np.array([0, 1], np.int8), np.zeros((2, 4, 4, 3), np.uint8)
    recorded = [LabelledVideo(f"bag-{n}", "a", frames, label, True) for n in range(20)]
    again = [
        LabelledVideo(f"bag-{n} {time}.mp4", "a", frames, label, True, shows=f"bag-{n}")
        for n in range(20) for time in range(3)
    ]  # fmt: skip
    alone, together = split(recorded, 0.2, 0.1, seed=0), split(recorded + again, 0.2, 0.1, seed=0)
    for before, after in zip(alone, together, strict=True):
        assert {v.recording for v in after} == {v.id for v in before}
        assert len(after) == 4 * len(before)

    write_video(tmp_path / "a.mp4", frames.repeat(8, axis=1).repeat(8, axis=2), 10.0)
    line = {"video": "a.mp4", "task": TASK, "success": True, "shows": "bag-3"}
    (tmp_path / "labels.jsonl").write_text(json.dumps(line) + "\n")
    (found,) = labelled_videos(tmp_path, AsRecorded())
    assert found.recording == "bag-3" and found.id != "bag-3"


def test_a_split_divides_each_task_and_outcome_and_holds_nothing_twice() -> None:
    label = np.array([0, 1], np.int8)
    frames = np.zeros((2, 4, 4, 3), np.uint8)
    videos = [
        LabelledVideo(f"{task}{good}{n}", task, frames, label, good)
        for task in "ab" for good in (True, False) for n in range(20)
    ]  # fmt: skip
    parts = split(videos, 0.2, 0.1, seed=0)

    assert [len(part) for part in parts] == [4 * 14, 4 * 4, 4 * 2]
    assert sorted(v.id for part in parts for v in part) == sorted(v.id for v in videos)
    for part in parts:
        assert len({(v.task, v.success) for v in part}) == 4
    assert [[v.id for v in p] for p in split(videos[::-1], 0.2, 0.1, seed=0)] == [[v.id for v in p] for p in parts]
    assert {v.id for v in split(videos, 0.2, 0.1, seed=1)[1]} != {v.id for v in parts[1]}
