"""Which samples make up a policy input, and when there is none."""

from __future__ import annotations

import json
import math
import random
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from calibration.poses import from_euler, transform
from prophrl_models.data.streams import COLOR, GRIPPER, STREAMS, TCP_POSE
from prophrl_models.data.synchronise import Synchroniser, SyncSpec, tick_ns

S = 1_000_000_000


def image(value: int) -> np.ndarray:
    return np.full((240, 320, 3), value, np.uint8)


def filled(stamp_ns: int = 10 * S) -> Synchroniser:
    synchroniser = Synchroniser(SyncSpec(), "pick it up")
    synchroniser.push(COLOR, stamp_ns, image(1))
    synchroniser.push(TCP_POSE, stamp_ns, transform([0.1, 0.2, 0.3]))
    synchroniser.push(GRIPPER, stamp_ns, (0.4, 0.5))
    return synchroniser


def test_each_stream_contributes_its_newest_sample_at_or_before_the_tick() -> None:
    synchroniser = filled()
    synchroniser.push(COLOR, 10 * S + 30_000_000, image(2))
    synchroniser.push(COLOR, 10 * S + 50_000_000, image(3))
    at = synchroniser.snapshot(10 * S + 30_000_000)
    assert at.observation is not None
    assert at.observation.image_HW3[0, 0, 0] == 2, "a sample stamped exactly at the tick belongs to it"
    assert at.stamp_ns[COLOR] == 10 * S + 30_000_000
    before = synchroniser.snapshot(10 * S + 29_999_999)
    assert before.observation is not None
    assert before.observation.image_HW3[0, 0, 0] == 1


def test_an_observation_carries_the_instruction_the_tick_and_the_measured_opening() -> None:
    snapshot = filled().snapshot(10 * S + 5)
    assert snapshot.observation is not None
    assert snapshot.observation.instruction == "pick it up"
    assert snapshot.observation.stamp_ns == 10 * S + 5
    assert snapshot.observation.state_7[6] == np.float32(0.4)
    assert snapshot.target_opening == 0.5
    assert snapshot.T_base_tcp is not None
    assert snapshot.T_base_tcp[:3, 3].tolist() == [0.1, 0.2, 0.3]


def test_missing_streams_are_all_named() -> None:
    synchroniser = Synchroniser(SyncSpec())
    synchroniser.push(TCP_POSE, 0, np.eye(4))
    snapshot = synchroniser.snapshot(1)
    assert snapshot.observation is None
    assert snapshot.held is None
    assert math.isnan(snapshot.target_opening)
    assert [p.split(":")[0] for p in snapshot.problems] == [COLOR, GRIPPER]


@pytest.mark.parametrize("stream", STREAMS)
def test_a_stream_older_than_allowed_withholds_the_observation_but_is_still_reported(stream: str) -> None:
    synchroniser = filled()
    limit_ns = round(synchroniser.spec.max_age_s[stream] * 1e9)
    fresh = {COLOR: image(1), TCP_POSE: np.eye(4), GRIPPER: (0.0, 0.0)}
    for other in STREAMS:
        if other != stream:
            synchroniser.push(other, 10 * S + limit_ns, fresh[other])
    assert synchroniser.snapshot(10 * S + limit_ns).observation is not None
    late = synchroniser.snapshot(10 * S + limit_ns + 1_000_000)
    assert late.observation is None
    assert late.held is not None
    assert late.age_s[stream] == pytest.approx(synchroniser.spec.max_age_s[stream] + 0.001)
    assert len(late.problems) == 1 and late.problems[0].startswith(stream)


def test_stamps_from_the_future_are_explained_and_not_used() -> None:
    synchroniser = filled()
    snapshot = synchroniser.snapshot(8 * S)
    assert snapshot.held is None
    assert "2.000 s ahead of this clock" in snapshot.problems[0]


@settings(max_examples=60, deadline=None)
@given(
    stamps=st.lists(st.integers(0, 200), min_size=3, max_size=14, unique=True),
    now=st.integers(0, 220),
    seed=st.integers(0, 99),
)
def test_the_order_of_arrival_does_not_matter_once_all_samples_are_there(
    stamps: list[int], now: int, seed: int
) -> None:
    def ask(order: list[int]) -> object:
        synchroniser = Synchroniser(SyncSpec(max_age_s=dict.fromkeys(STREAMS, 1e-06)))
        for stamp in order:
            synchroniser.push(TCP_POSE, stamp, transform([stamp, 0, 0]))
        snapshot = synchroniser.snapshot(now)
        return None if snapshot.T_base_tcp is None else (snapshot.stamp_ns[TCP_POSE], snapshot.T_base_tcp[0, 3])

    shuffled = random.Random(seed).sample(stamps, len(stamps))
    past = [stamp for stamp in stamps if stamp <= now]
    assert ask(stamps) == ask(shuffled) == ((max(past), float(max(past))) if past else None)


def test_late_and_repeated_samples_are_counted() -> None:
    synchroniser = filled()
    synchroniser.push(GRIPPER, 10 * S + 20, (0.1, 0.1))
    synchroniser.push(GRIPPER, 10 * S + 10, (0.2, 0.2))
    synchroniser.push(GRIPPER, 10 * S + 20, (0.3, 0.3))
    assert synchroniser.counts()[GRIPPER] == {"pushed": 4, "out_of_order": 1, "repeated": 1}
    assert synchroniser.snapshot(11 * S).target_opening == 0.3


def test_old_images_are_let_go() -> None:
    synchroniser = filled()
    for k in range(100):
        synchroniser.push(COLOR, 10 * S + k + 1, image(k))
    assert synchroniser.snapshot(10 * S + 50).held is None
    assert synchroniser.snapshot(10 * S + 100).held is not None


def test_the_state_does_not_jump_where_a_downward_tool_wobbles() -> None:
    spec = SyncSpec()
    states = []
    for roll in (np.pi - 0.01, np.pi + 0.01):
        synchroniser = filled()
        synchroniser.push(TCP_POSE, 10 * S + 1, from_euler([0, 0, 0.3, roll, 0.0, np.pi / 2]))
        held = synchroniser.snapshot(10 * S + 1).held
        assert held is not None
        states.append(held.state_7)
    assert np.abs(states[1] - states[0]).max() < 0.021
    assert np.abs(states[0][3:6] - spec.euler_centre_rad).max() < 0.02


@given(st.tuples(*[st.floats(-3.1, 3.1)] * 3))
@settings(max_examples=50, deadline=None)
def test_the_state_describes_the_same_rotation_on_any_branch(angles: tuple[float, float, float]) -> None:
    rotation = Rotation.from_euler("xyz", angles)
    synchroniser = filled()
    synchroniser.push(TCP_POSE, 10 * S + 1, transform([0, 0, 0], rotation))
    held = synchroniser.snapshot(10 * S + 1).held
    assert held is not None
    back = Rotation.from_matrix(from_euler(held.state_7[:6])[:3, :3])
    assert (back * rotation.inv()).magnitude() < 1e-5


@pytest.mark.parametrize(
    ("stream", "value", "match"),
    [
        ("colour", image(0), "known are color, tcp_pose, gripper"),
        (COLOR, np.zeros((4, 4), np.uint8), "RGB uint8"),
        (TCP_POSE, np.full((4, 4), np.nan), "finite"),
        (GRIPPER, (0.1,), "finite numbers of shape"),
    ],
)
def test_unusable_samples_are_refused(stream: str, value: object, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Synchroniser(SyncSpec()).push(stream, 0, value)


def test_pushing_and_asking_from_several_threads_keeps_samples_whole() -> None:
    synchroniser = filled(0)
    failures: list[BaseException] = []

    def push() -> None:
        try:
            for k in range(2000):
                synchroniser.push(GRIPPER, k, (k, k))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=push) for _ in range(3)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        snapshot = synchroniser.snapshot(2000)
        assert snapshot.stamp_ns[GRIPPER] in (0, int(snapshot.target_opening))
    assert not failures
    assert synchroniser.counts()[GRIPPER]["pushed"] == 6001


def test_a_spec_survives_storage() -> None:
    spec = SyncSpec(control_rate_hz=5.0, max_age_s={COLOR: 0.3, TCP_POSE: 0.1, GRIPPER: 0.4})
    assert SyncSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


@pytest.mark.parametrize("raw", [{}, {"control_rate_hz": 10}, {"control_rate_hz": 10, "max_age_s": 3}])
def test_a_damaged_spec_is_refused(raw: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="not a stored SyncSpec"):
        SyncSpec.from_json(raw)


@pytest.mark.parametrize("rate_hz", [0.0, -1.0, math.nan, 1000.0])
def test_impossible_rates_are_refused(rate_hz: float) -> None:
    with pytest.raises(ValueError, match="control_rate_hz"):
        SyncSpec(control_rate_hz=rate_hz)


def test_ticks_do_not_drift_at_rates_that_do_not_divide_a_second() -> None:
    assert tick_ns(5, 3 * 60 * 60, 3.0) == 5 + 60 * 60 * S
