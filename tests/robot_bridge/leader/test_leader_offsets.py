"""Offsets of a leader: files that keep several leaders, and errors that say what to do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from robot_bridge.leader_offsets import (
    NOMINAL,
    JointServo,
    LeaderOffsets,
    OffsetsError,
    TriggerServo,
    load_offsets,
    save_offsets,
)

CROOKED = LeaderOffsets(tuple(JointServo(2048.0 + 31.7 * i, (-1) ** i) for i in range(6)), TriggerServo(900.5, 1400.25))


def test_angles_and_counts_are_inverse_for_any_assembly() -> None:
    q_6 = np.array([0.1, -2.0, 3.0, 7.0, -9.0, 0.0])
    counts = CROOKED.shaft_counts(list(q_6), 0.3)
    assert CROOKED.joint_angles(counts[:6]) == pytest.approx(q_6)
    assert CROOKED.opening(counts[6]) == pytest.approx(0.3)


def test_trigger_is_read_on_whatever_turn_it_powered_up() -> None:
    for turns in (-2, 0, 3):
        assert NOMINAL.opening(2048 + 480 + 4096 * turns) == 0.0
        assert NOMINAL.opening(2048 + 120 + 4096 * turns) == pytest.approx(0.75)


def test_trigger_beyond_its_range_is_clipped() -> None:
    assert NOMINAL.opening(2000) == 1.0
    assert NOMINAL.opening(2600) == 0.0


def test_file_keeps_several_leaders_with_real_valued_zeros(tmp_path: Path) -> None:
    path = tmp_path / "leaders.yaml"
    save_offsets(path, "FT0001", NOMINAL)
    save_offsets(path, "FT0002", CROOKED)
    assert load_offsets(path, "FT0001") == NOMINAL
    assert load_offsets(path, "FT0002") == CROOKED
    kept = [other for other in tmp_path.iterdir() if other != path]  # the file of before, and nothing half-written
    assert len(kept) == 1 and load_offsets(kept[0], "FT0001") == NOMINAL


def test_unknown_leader_lists_those_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "leaders.yaml"
    save_offsets(path, "FT0001", NOMINAL)
    with pytest.raises(OffsetsError, match=r"no servo set 'FT0007', it has \['FT0001'\]; did you mean 'FT0001'"):
        load_offsets(path, "FT0007")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("servo_sets: [", "not valid YAML"),
        ("zeros: 3", "must hold the key servo_sets"),
        ("servo_sets: {A: {joints: []}}", "needs joints"),
        ("servo_sets: {A: {joints: [], trigger: {open_raw: 1, closed_raw: 500}}}", "six joint servos"),
    ],
)
def test_broken_file_is_named_with_what_it_needs(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "leaders.yaml"
    path.write_text(text)
    with pytest.raises(OffsetsError, match=message):
        load_offsets(path, "A")


def test_trigger_without_travel_is_refused() -> None:
    with pytest.raises(OffsetsError, match="measure it again"):
        LeaderOffsets(NOMINAL.joints, TriggerServo(2048.0, 2060.0))
