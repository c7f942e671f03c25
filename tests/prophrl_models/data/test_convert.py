"""Bag to episode: the action labels, the time grid, what is marked and what is reported."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import Image

from calibration.poses import ActionConvention, from_euler, integrate
from prophrl_models.data.bag import Bag, BagError
from prophrl_models.data.convert import convert_bag
from prophrl_models.data.episode import Episode
from prophrl_models.data.synchronise import SyncSpec
from tests.helpers.recording import COLOR, GRIPPER, POSE, START_NS, STATUS, Recording, Sent, record


def convert(recording: Recording, tmp_path: Path, **options: object) -> Episode:
    return convert_bag(Bag(recording.write(tmp_path)), **options)  # type: ignore[arg-type]


def between(topic: str, start_s: float, end_s: float):  # type: ignore[no-untyped-def]
    def match(sent: Sent) -> bool:
        return sent.topic == topic and start_s <= (sent.stamp_ns - START_NS) * 1e-9 < end_s

    return match


@pytest.fixture(scope="module")
def small_recording() -> Recording:
    return record(3.0, width=64, height=48)


@pytest.fixture(scope="module")
def episode(bag_path: Path) -> Episode:
    return convert_bag(Bag(bag_path))


def test_ticks_are_a_tenth_of_a_second_apart_and_images_fill_every_step(episode: Episode) -> None:
    assert (np.diff(episode.stamp_ns_T) == 100_000_000).all()
    assert episode.color_THW3.shape == (len(episode), 240, 320, 3)
    assert len(episode) == 19
    assert episode.final.stamp_ns == episode.stamp_ns_T[-1] + 100_000_000


@pytest.mark.parametrize("convention", list(ActionConvention))
def test_integrating_the_actions_from_the_first_state_reaches_the_last_one(
    bag_path: Path, convention: ActionConvention
) -> None:
    episode = convert_bag(Bag(bag_path), convention=convention)
    T = from_euler(episode.state_T7[0, :6])
    for action in episode.action_T7:
        T = integrate(T, action, convention)
    end = from_euler(episode.final.state_7[:6])
    assert np.abs(T[:3, 3] - end[:3, 3]).max() < 1e-6
    assert Rotation.from_matrix(T[:3, :3].T @ end[:3, :3]).magnitude() < 1e-5
    assert np.abs(episode.action_T7[:, 3:6]).max() < 0.05, "no action may contain a full turn"


def test_the_gripper_action_is_the_opening_commanded_at_the_next_tick(episode: Episode) -> None:
    sent_s = (episode.source_stamp_ns_T["gripper"] - START_NS) * 1e-9
    after = np.append(sent_s[1:], np.inf)
    assert episode.action_T7[:, 6].tolist() == [np.float32(0.2 if t >= 1.0 else 1.0) for t in after]
    assert episode.state_T7[:, 6].min() < 0.5 < episode.state_T7[:, 6].max()


def test_stamps_are_those_of_the_devices(episode: Episode, recording: Recording) -> None:
    for stream, topic in (("color", COLOR), ("tcp_pose", POSE), ("gripper", GRIPPER)):
        sent = {s.stamp_ns: s for s in recording.sent if s.topic == topic}
        for step, stamp_ns in enumerate(episode.source_stamp_ns_T[stream].tolist()):
            assert stamp_ns in sent, "a stamp was invented"
            assert sent[stamp_ns].log_ns <= episode.stamp_ns_T[step], "a sample was used before it arrived"


def test_images_are_the_ones_their_stamps_say(episode: Episode, recording: Recording) -> None:
    number = {s.stamp_ns: k for k, s in enumerate(s for s in recording.sent if s.topic == COLOR)}
    shown = episode.color_THW3[:, 120, 160, 0].tolist()
    assert shown == [number[stamp] for stamp in episode.source_stamp_ns_T["color"].tolist()]


def test_still_steps_are_kept_and_marked(episode: Episode) -> None:
    at_s = (episode.stamp_ns_T - START_NS) * 1e-9
    assert not episode.moving_T[at_s < 0.35].any()
    assert episode.moving_T[(at_s > 0.55) & (at_s < 1.35)].all()
    assert not episode.moving_T[at_s > 1.65].any()
    assert episode.quality["idle_steps"] == (~episode.moving_T).sum()


def test_a_frozen_camera_is_marked_not_patched(small_recording: Recording, tmp_path: Path) -> None:
    episode = convert(small_recording.without(between(COLOR, 1.0, 1.6)), tmp_path)
    at_s = (episode.stamp_ns_T - START_NS) * 1e-9
    assert (np.diff(episode.stamp_ns_T) == 100_000_000).all(), "the grid has no hole"
    assert not episode.valid_T[(at_s > 1.25) & (at_s < 1.6)].any()
    assert episode.valid_T[at_s < 1.0].all() and episode.valid_T[at_s > 1.8].all()
    timing = episode.quality["streams"]["color"]
    assert timing["largest_gap_s"] == pytest.approx(0.63, abs=0.04)
    assert timing["missing"] == pytest.approx(18, abs=1)
    assert timing["gaps"][0][0] == pytest.approx(0.97, abs=0.05)
    ((first, last, problem),) = episode.quality["stale"]
    assert problem.startswith("color: newest sample is")
    assert last - first + 1 == (~episode.valid_T).sum() - 1, "the step before a stale tick has no trustworthy action"
    assert episode.quality["largest_age_s"]["color"] > 0.5


def test_an_episode_starts_when_the_last_stream_has_spoken(small_recording: Recording, tmp_path: Path) -> None:
    late = small_recording.without(between(GRIPPER, 0.0, 1.2))
    episode = convert(late, tmp_path)
    assert episode.stamp_ns_T[0] == min(s.log_ns for s in late.sent if s.topic == GRIPPER)


def test_clamps_and_watchdog_are_counted_across_a_new_engage(small_recording: Recording, tmp_path: Path) -> None:
    counts = iter([3, 3, 5, 9, 0, 2] + [2] * 100)  # grew by 6, was reset by a new engage, grew by 2
    sent = []
    for s in small_recording.sent:
        if s.topic == STATUS:
            clamped = next(counts)
            s = replace(s, message=type(s.message)(clamped=clamped, refused=1, stale=0, header=s.message.header))
        sent.append(s)
    quality = convert(replace(small_recording, sent=tuple(sent)), tmp_path).quality
    assert (quality["clamped"], quality["refused"], quality["watchdog"]) == (8, 0, 0)


def test_without_servo_status_the_clamps_are_unknown_not_zero(small_recording: Recording, tmp_path: Path) -> None:
    assert convert(small_recording.without(lambda s: s.topic == STATUS), tmp_path).quality["clamped"] is None


@pytest.mark.parametrize("topic", [COLOR, POSE, GRIPPER])
def test_a_missing_stream_is_named_with_the_topics_that_are_there(
    small_recording: Recording, tmp_path: Path, topic: str
) -> None:
    with pytest.raises(BagError, match=rf"'{topic[1:]}' is missing; there is /"):
        convert(small_recording.without(lambda s: s.topic == topic), tmp_path)


def test_a_depth_image_on_the_colour_topic_is_refused_with_topic_and_time(tmp_path: Path) -> None:
    recording = record(0.5, width=64, height=48)
    grey = [replace(s, message=_as(s.message, "16UC1")) if s.topic == COLOR else s for s in recording.sent]
    with pytest.raises(BagError, match=r"image_raw, 0\.\d+ s after the start: .*'16UC1', accepted are rgb8"):
        convert(replace(recording, sent=tuple(grey)), tmp_path)


def _as(message: Image, encoding: str) -> Image:
    message = copy.deepcopy(message)
    message.encoding = encoding
    return message


def test_a_sample_that_is_no_number_is_left_out_and_counted_as_the_policy_node_does(
    small_recording: Recording, tmp_path: Path
) -> None:
    sent = list(small_recording.sent)
    broken = [i for i, s in enumerate(sent) if s.topic == GRIPPER][40:43]
    for i in broken:
        message = copy.deepcopy(sent[i].message)
        message.opening = float("nan")
        sent[i] = replace(sent[i], message=message)
    episode = convert(replace(small_recording, sent=tuple(sent)), tmp_path / "broken")
    assert episode.quality["unusable"] == {"color": 0, "tcp_pose": 0, "gripper": 3}
    times_ns = {sent[i].stamp_ns for i in broken}
    without = convert(
        small_recording.without(lambda s: s.topic == GRIPPER and s.stamp_ns in times_ns), tmp_path / "cut"
    )
    assert np.array_equal(episode.state_T7, without.state_T7) and np.array_equal(episode.valid_T, without.valid_T)
    assert np.isfinite(episode.action_T7).all()


def test_a_pose_in_another_frame_is_refused(small_recording: Recording, tmp_path: Path) -> None:
    recording = record(0.5, width=64, height=48)
    for sent in recording.sent:
        if sent.topic == POSE:
            sent.message.header.frame_id = "base_link"
    with pytest.raises(BagError, match="'base_link', expected 'base'"):
        convert(recording, tmp_path)


def test_one_tick_is_not_an_episode(tmp_path: Path) -> None:
    with pytest.raises(BagError, match="needs two"):
        convert(record(0.12, width=64, height=48), tmp_path)


def test_a_camera_clock_that_runs_ahead_delays_the_start_but_invents_nothing(tmp_path: Path) -> None:
    recording = record(2.0, width=64, height=48)
    for sent in recording.sent:
        if sent.topic == COLOR:
            stamp = sent.message.header.stamp
            stamp.sec, stamp.nanosec = divmod(sent.stamp_ns + 200_000_000, 1_000_000_000)
    episode = convert(recording, tmp_path)
    assert (episode.source_stamp_ns_T["color"] <= episode.stamp_ns_T).all()
    assert (episode.stamp_ns_T[0] - START_NS) * 1e-9 > 0.2


def test_another_control_rate_gives_another_grid(bag_path: Path) -> None:
    episode = convert_bag(Bag(bag_path), SyncSpec(control_rate_hz=5.0))
    assert (np.diff(episode.stamp_ns_T) == 200_000_000).all()
    assert episode.control_rate_hz == 5.0
