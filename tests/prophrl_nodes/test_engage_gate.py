"""The gate between leader and follower: which differences open it, and what it says when it stays closed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prophrl_nodes.engage_gate import EngageGate, GateClosed

GATE = EngageGate(limit_rad=0.2, max_age_s=0.1)
HOME = np.array([0.0, -1.57, 1.57, -1.57, -1.57, 0.0])


def turns(leader: np.ndarray, follower: np.ndarray = HOME, leader_age_s: float = 0.0, follower_age_s: float = 0.0):  # type: ignore[no-untyped-def]
    return GATE.turns(leader, leader_age_s, follower, follower_age_s)


def test_equal_poses_open_the_gate_without_turns() -> None:
    np.testing.assert_allclose(turns(HOME + 0.1), np.zeros(6), atol=1e-12)


@pytest.mark.parametrize("offset", [0.25, -0.25])
def test_a_difference_of_either_sign_closes_it_and_names_the_joint(offset: float) -> None:
    leader = HOME.copy()
    leader[2] += offset
    with pytest.raises(GateClosed, match="elbow_joint") as closed:
        turns(leader)
    assert f"{offset:+.2f} rad" in str(closed.value)
    assert "0.20" in str(closed.value)


@given(st.lists(st.integers(-2, 2), min_size=6, max_size=6), st.floats(-0.19, 0.19))
def test_whole_turns_do_not_close_it_and_are_added_back(lost: list[int], offset: float) -> None:
    leader = HOME + offset + 2.0 * math.pi * np.array(lost)
    np.testing.assert_allclose(leader + turns(leader), HOME + offset, atol=1e-9)


def test_the_difference_is_measured_across_the_wrap() -> None:
    follower, leader = HOME.copy(), HOME.copy()
    follower[5], leader[5] = math.pi - 0.05, -math.pi + 0.05
    np.testing.assert_allclose((leader + turns(leader, follower))[5], math.pi + 0.05, atol=1e-9)


@pytest.mark.parametrize(
    ("ages", "who"), [((0.4, 0.0), "leader"), ((0.0, math.inf), "follower"), ((math.nan, 0.0), "leader")]
)
def test_stale_data_closes_it_and_says_whose(ages: tuple[float, float], who: str) -> None:
    with pytest.raises(GateClosed, match=f"no joint positions from the {who}"):
        turns(HOME, HOME, *ages)


def test_a_position_that_is_not_a_number_closes_it() -> None:
    leader = HOME.copy()
    leader[0] = math.nan
    with pytest.raises(GateClosed):
        turns(leader)
