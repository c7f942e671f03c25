"""Rates, gaps and losses of a topic."""

from __future__ import annotations

import pytest
from prophrl_nodes.recorder.statistics import TopicStatistics

MS = 1_000_000


def feed(stamps_ms: list[int], **options: bool) -> TopicStatistics:
    topic = TopicStatistics("/t", "std_msgs/msg/String", **options)
    for k, stamp in enumerate(stamps_ms):
        topic.add(stamp * MS, 10, b"p", k)
    return topic


def test_rate_is_the_mean_between_first_and_last_message() -> None:
    assert feed([0, 10, 20, 30, 40]).rate_hz() == pytest.approx(100.0)
    assert feed([0]).rate_hz() == 0.0
    assert feed([]).rate_hz() == 0.0


def test_the_largest_gap_counts_the_beginning_and_the_end_of_the_episode() -> None:
    topic = feed([50, 60, 100, 110])
    assert topic.largest_gap_s(50 * MS, 110 * MS) == pytest.approx(0.040)
    assert topic.largest_gap_s(0, 110 * MS) == pytest.approx(0.050)
    assert topic.largest_gap_s(50 * MS, 1000 * MS) == pytest.approx(0.890)


def test_a_topic_that_never_came_was_silent_all_the_time() -> None:
    assert feed([]).largest_gap_s(0, 5000 * MS) == pytest.approx(5.0)


def test_state_that_changes_rarely_has_no_gap_but_a_durable_stream_has() -> None:
    state = TopicStatistics("/mode", "t", durable=True)
    state.replay(5)
    state.add(100 * MS, 5, b"p", 3)
    assert state.largest_gap_s(0, 9000 * MS) is None
    assert feed([0, 10, 500], durable=True).largest_gap_s(0, 500 * MS) == pytest.approx(0.490)


def test_latched_messages_enter_the_count_but_not_the_rate() -> None:
    topic = TopicStatistics("/tf_static", "t", durable=True)
    topic.replay(100)
    topic.replay(100)
    topic.add(1000 * MS, 100, b"p", 1)
    topic.add(1100 * MS, 100, b"p", 2)
    assert (topic.count, topic.replayed, topic.bytes, topic.live) == (4, 2, 400, 2)
    assert topic.rate_hz() == pytest.approx(10.0)


def test_lost_messages_are_counted_by_the_publishers_own_numbers() -> None:
    topic = TopicStatistics("/t", "t")
    sent = [(b"a", 7), (b"b", 100), (b"a", 8), (b"a", 11), (b"b", 101), (b"b", 103)]
    for stamp, (publisher, sequence) in enumerate(sent):
        topic.add(stamp, 1, publisher, sequence)
    assert topic.dropped == 3  # a: 9 and 10, b: 102


def test_a_publisher_that_started_anew_lost_nothing() -> None:
    topic = TopicStatistics("/t", "t")
    for stamp, sequence in enumerate([50, 51, 0, 1, 2]):
        topic.add(stamp, 1, b"a", sequence)
    assert topic.dropped == 0


def test_without_sequence_numbers_losses_are_unknown_not_zero() -> None:
    topic = TopicStatistics("/t", "t")
    topic.add(1, 1)
    assert topic.summary(0, 1)["dropped"] is None
