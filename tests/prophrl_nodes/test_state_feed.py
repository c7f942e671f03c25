"""A policy is shown the state it was trained with."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from prophrl_nodes.state_feed import StateFeed

from calibration.poses import ActionConvention
from prophrl_models.data.episode import Observation
from prophrl_models.policies.interface import PolicySpec, Scaling

SPEC = PolicySpec(
    ActionConvention.ABSOLUTE_POSE_DIFFERENCE, Scaling((0.0,) * 7, (1.0,) * 7), Scaling((0.0,) * 7, (1.0,) * 7)
)
INTEGRATED = dataclasses.replace(SPEC, state_source="integrated")
COMMANDED = dataclasses.replace(SPEC, state_source="commanded_opening")
STEP = np.array([[0.01, 0.0, -0.02, 0.0, 0.0, 0.1, 0.25]], dtype=np.float32)


def seen(x_m: float) -> Observation:
    state = np.array([x_m, 0.0, 0.3, 0.0, 0.0, 0.2, 1.0], dtype=np.float32)
    return Observation(np.zeros((240, 320, 3), np.uint8), state, "put the red cube into the bowl", 1)


def test_a_measured_state_passes_unchanged() -> None:
    feed = StateFeed(SPEC)
    feed.begin()
    observation = seen(-0.6)
    assert feed.observe(observation, taken=False) is observation
    feed.sent(STEP)
    assert feed.observe(observation, taken=True) is observation


def test_an_integrated_state_starts_measured_and_then_adds_up_what_was_executed() -> None:
    feed = StateFeed(INTEGRATED)
    feed.begin()
    assert feed.observe(seen(-0.6), taken=False).state_7[0] == np.float32(-0.6)
    feed.sent(np.repeat(STEP, 3, axis=0))
    state = feed.observe(seen(-0.9), taken=True).state_7
    np.testing.assert_allclose(state, [-0.57, 0.0, 0.24, 0.0, 0.0, 0.5, 0.25], atol=1e-6)


def test_rows_that_the_executor_refused_are_not_counted() -> None:
    feed = StateFeed(INTEGRATED)
    feed.begin()
    before = feed.observe(seen(-0.6), taken=False).state_7
    feed.sent(STEP)
    np.testing.assert_array_equal(feed.observe(seen(-0.9), taken=False).state_7, before)
    np.testing.assert_array_equal(feed.observe(seen(-0.9), taken=True).state_7, before)


def test_a_new_run_starts_from_what_is_measured_then() -> None:
    feed = StateFeed(INTEGRATED)
    feed.begin()
    feed.observe(seen(-0.6), taken=False)
    feed.sent(STEP)
    feed.begin()
    assert feed.observe(seen(-0.7), taken=True).state_7[0] == np.float32(-0.7)


def test_an_integrated_state_and_overlapping_chunks_are_refused() -> None:
    with pytest.raises(ValueError, match="needs chunking 'synchronous'"):
        StateFeed(INTEGRATED, real_time=True)


def test_a_commanded_opening_replaces_the_measured_one_and_nothing_else() -> None:
    feed = StateFeed(COMMANDED)
    feed.begin()
    first = seen(-0.6)
    np.testing.assert_array_equal(feed.observe(first, taken=False).state_7, first.state_7)
    feed.sent(np.concatenate([STEP, STEP * [1, 1, 1, 1, 1, 1, 0]]))  # the last row says: close
    holding = seen(-0.5)  # fingers stand open around what they hold
    shown = feed.observe(holding, taken=True).state_7
    np.testing.assert_array_equal(shown[:6], holding.state_7[:6])
    assert shown[6] == 0.0
    feed.sent(STEP)
    assert feed.observe(seen(-0.5), taken=False).state_7[6] == 0.0, "refused rows command nothing"
    feed.begin()
    assert feed.observe(seen(-0.5), taken=False).state_7[6] == 1.0
    with pytest.raises(ValueError, match="state_source commanded_opening"):
        StateFeed(COMMANDED, real_time=True)
