"""``prophrl bag info`` and ``prophrl bag check``: what a bag holds and whether it is fit for use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from prophrl_nodes.recorder.inspection import check_bag, inspect_bag

MakeBag = Callable[..., Path]


def test_a_good_bag_has_no_problems(make_bag: MakeBag) -> None:
    found = check_bag(make_bag(100), required=["joint_states"], max_gap_s=0.02, max_dropped=0)
    assert found.problems == []
    assert found.complete and not found.recording
    assert found.topics["/joint_states"]["rate_hz"] == pytest.approx(125.0)
    assert found.topics["/mode"]["replayed"] == 1
    assert found.duration_s == pytest.approx(99 * 0.008, abs=1e-3)


def test_a_missing_topic_is_a_problem_that_lists_what_there_is(make_bag: MakeBag) -> None:
    found = check_bag(make_bag(10), required=["camera/color/image_raw"])
    assert found.problems == ["no message on camera/color/image_raw; the bag has /bulk, /joint_states, /mode"]


def test_a_topic_without_messages_is_as_bad_as_none(make_bag: MakeBag) -> None:
    assert "no message on /bulk" in check_bag(make_bag(10), required=["/bulk"]).problems[0]


def test_silence_longer_than_allowed_is_a_problem(make_bag: MakeBag) -> None:
    found = check_bag(make_bag(10), required=["/joint_states"], max_gap_s=0.005)
    assert found.problems == ["/joint_states was silent for 0.008 s, allowed are 0.005 s"]


def test_a_cut_bag_is_a_problem_with_its_remedy(make_bag: MakeBag) -> None:
    folder = make_bag(300, payload_bytes=30_000)
    file = folder / "episode_0.mcap"
    file.write_bytes(file.read_bytes()[:-10])
    found = check_bag(folder)
    assert not found.complete
    assert "run: prophrl bag recover" in found.problems[0]


def test_missing_metadata_is_a_problem_for_check_but_not_for_info(make_bag: MakeBag) -> None:
    folder = make_bag(10)
    (folder / "metadata.yaml").unlink()
    assert inspect_bag(folder).messages == 11
    assert "no metadata.yaml" in check_bag(folder).problems[0]
