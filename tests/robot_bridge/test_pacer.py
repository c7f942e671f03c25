"""A motion that the robot slows down is paced likewise."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from robot_bridge.pacer import SLOWEST, Pacer


def motion() -> Callable[[], list[float]]:
    """Joint 0 turns by 1 a step, from 0."""
    steps = iter(range(1, 10_000))
    return lambda: [float(next(steps)), *[0.0] * 5]


def paced(share: Callable[[int], float], periods: int) -> np.ndarray:
    pacer, step = Pacer(), motion()
    pacer.start([0.0] * 6)
    return np.array([pacer.next(share(period), step)[0] for period in range(periods)])


def test_at_full_speed_setpoints_pass_as_they_are() -> None:
    np.testing.assert_array_equal(paced(lambda _: 1.0, 50), np.arange(1, 51))


@pytest.mark.parametrize("share", [0.8, 0.5, 0.3, 0.1])
def test_a_slowed_motion_advances_by_its_share_in_every_period(share: float) -> None:
    q = paced(lambda _: share, 200)
    np.testing.assert_allclose(np.diff(q), share, atol=1e-9)
    assert abs(q[-1] - 200 * share) <= 1.0


def test_a_slider_that_moves_makes_no_jump_and_nothing_is_left_out() -> None:
    q = paced(lambda period: (0.2, 0.7, 1.0, 0.45)[period // 50 % 4], 400)
    assert np.diff(q).min() > 0.0
    assert np.diff(q).max() <= 1.0 + 1e-9


def test_a_slider_at_zero_leaves_a_crawl() -> None:
    assert paced(lambda _: 0.0, 300)[-1] == pytest.approx(300 * SLOWEST, abs=1.0)


def test_it_moves_until_two_setpoints_are_the_same() -> None:
    pacer = Pacer()
    pacer.start([0.0] * 6)
    assert not pacer.moving
    steps = iter([[1.0] * 6, [1.0] * 6, [1.0] * 6])
    moving = []
    for _ in range(5):
        pacer.next(0.5, lambda: next(steps))
        moving.append(pacer.moving)
    assert moving == [True, True, False, False, False]
