"""The leader's calibration: its arithmetic, and the whole of it on a bus with secret offsets and the genuine SDK."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from prophrl_nodes.studies import leader_hands
from prophrl_nodes.studies.leader_calibration import LeaderCalibrator, Plan
from prophrl_nodes.studies.leader_hands import Person, TwinHand

from robot_bridge.gello import Gello
from robot_bridge.leader_calibration import (
    COUNTS_PER_DEGREE,
    TURN,
    CalibrationRefused,
    NotStill,
    StillReading,
    Wiggle,
    agreed_signs,
    judge_wiggle,
    offsets_from,
    signs_from_poses,
    signs_from_wiggles,
    still_reading,
    trigger_range,
    unwrapped,
    wiggle_done,
    zeros,
)
from robot_bridge.leader_jig import jig_picture, positive_motion
from robot_bridge.leader_offsets import NOMINAL, LeaderOffsets, load_offsets, save_offsets
from robot_bridge.leader_verification import verify
from robot_bridge.twin.leader_assembly import assembled
from robot_bridge.ur_kinematics import Kinematics

Array = NDArray[np.float64]
JIG = (0.0, -math.pi / 2, math.pi / 2, -math.pi / 2, -math.pi / 2, 0.0)
SECOND = tuple(np.radians((35.0, -60.0, 60.0, -50.0, -45.0, 30.0)))


def held(truth: LeaderOffsets, q_6: Any, rng: np.random.Generator, *, opening: float = 1.0, turns: Any = 0) -> Array:
    """Two hundred register readings [200, 7] of a leader held in a pose, each servo on some turn."""
    shaft = np.array(truth.shaft_counts(list(q_6), opening)) + TURN * np.asarray(turns)
    return np.round(shaft + rng.normal(0.0, 0.5, (200, 7)))


def error_deg(found: LeaderOffsets, truth: LeaderOffsets) -> Array:
    """Largest error of each zero, modulo a turn."""
    counts = np.array([a.zero_raw - b.zero_raw for a, b in zip(found.joints, truth.joints, strict=True)])
    return np.abs(counts - TURN * np.round(counts / TURN)) / COUNTS_PER_DEGREE


def turned(joint: int, path_deg: Any, sign: int = 1, along: tuple[int, float] | None = None) -> Array:
    """Readings [T, 7] while one joint follows a path of degrees, and maybe another a share of it."""
    samples = np.tile(np.linspace(4000.0, 4060.0, 7), (len(path_deg), 1))
    samples[:, joint] += sign * np.asarray(path_deg) * COUNTS_PER_DEGREE
    if along is not None:
        samples[:, along[0]] += along[1] * np.asarray(path_deg) * COUNTS_PER_DEGREE
    return np.round(np.mod(samples, TURN))  # the register of a freshly powered servo, which may wrap on the way


THERE_AND_BACK = np.concatenate([np.linspace(0, 20, 60), np.linspace(20, 0, 60)])


# --- arithmetic ---


@pytest.mark.parametrize("seed", range(1, 9))
def test_zeros_of_any_assembly_are_recovered_to_a_fraction_of_a_count(seed: int) -> None:
    rng, truth = np.random.default_rng(seed), assembled(seed)
    reading = still_reading(held(truth, JIG, rng, turns=rng.integers(-3, 4, 7)))
    again = still_reading(held(truth, JIG, rng, turns=rng.integers(-3, 4, 7)))  # power was lost in between
    signs = [joint.sign for joint in truth.joints]
    found = zeros([(reading, JIG), (again, JIG)], signs)
    assert np.all((found.counts_6 >= 0.0) & (found.counts_6 < TURN))
    pulled = still_reading(held(truth, JIG, rng, opening=0.0))
    offsets = offsets_from(found, signs, trigger_range(reading, pulled))
    assert error_deg(offsets, truth).max() < 0.03
    assert found.spread_deg_6.max() < 0.03
    for opening in (0.0, 0.3, 1.0):
        assert offsets.opening(truth.shaft_counts(JIG, opening)[6]) == pytest.approx(opening, abs=0.003)


def test_the_assemblies_are_secret_and_repeat() -> None:
    assert assembled(0) == NOMINAL
    assert assembled(3) == assembled(3) != assembled(4)
    directions = {tuple(joint.sign for joint in assembled(seed).joints) for seed in range(1, 40)}
    assert len(directions) > 10
    with pytest.raises(ValueError, match="leader_seed must be 0"):
        assembled(-1)


def test_averages_know_their_noise_and_never_claim_less_than_rounding(rng: np.random.Generator) -> None:
    reading = still_reading(2000.0 + rng.normal(0.0, 2.0, (400, 7)))
    assert reading.noise_7 == pytest.approx(np.full(7, 2.0), rel=0.2)
    assert reading.sigma_deg_7 == pytest.approx(np.full(7, np.sqrt(0.01 + 1 / 12) / COUNTS_PER_DEGREE), rel=0.1)
    assert still_reading(np.full((50, 7), 7.0)).sigma_deg_7.min() > 0.02


def test_a_leader_that_moves_is_not_measured_and_the_joint_is_named(rng: np.random.Generator) -> None:
    samples = held(NOMINAL, JIG, rng)
    samples[:, 3] += np.linspace(0.0, 8.0, 200)
    with pytest.raises(NotStill, match=r"wrist 1 moved: it drifted by \+0\.\d+ degrees"):
        still_reading(samples)
    shaking = held(NOMINAL, JIG, rng)
    shaking[::2, 0] += 8.0
    with pytest.raises(NotStill, match="base moved"):
        still_reading(shaking)
    with pytest.raises(CalibrationRefused, match="only 5 readings"):
        still_reading(samples[:5])


def test_losing_power_while_held_still_changes_nothing(rng: np.random.Generator) -> None:
    samples = held(NOMINAL, JIG, rng)
    before = still_reading(samples).counts_7
    samples[90:, :] -= 3 * TURN
    assert still_reading(samples).counts_7 == pytest.approx(before)
    assert np.abs(np.diff(unwrapped(samples), axis=0)).max() < 10


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("joint", range(6))
def test_a_wiggle_tells_the_direction_even_across_the_encoders_end(joint: int, sign: int) -> None:
    samples = turned(joint, THERE_AND_BACK, sign)
    assert not wiggle_done(samples[:60], joint)
    assert wiggle_done(samples, joint)
    wiggle = judge_wiggle(samples, joint)
    assert (wiggle.joint, wiggle.sign) == (joint, sign)
    assert wiggle.turned_deg == pytest.approx(20.0, abs=0.2)


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        (turned(2, 0.3 * THERE_AND_BACK), r"elbow turned by only 6\.0 degrees"),
        (turned(4, THERE_AND_BACK), r"servo of wrist 2 turned by 20 degrees, that of elbow by 0.*servo_ids"),
        (turned(2, np.concatenate([THERE_AND_BACK, -0.8 * THERE_AND_BACK])), "turned both ways"),
        (turned(2, THERE_AND_BACK, along=(1, 0.8)), r"shoulder turned along by 16 degrees"),
    ],
)
def test_a_doubtful_wiggle_is_refused_with_its_reason(samples: Array, reason: str) -> None:
    with pytest.raises(CalibrationRefused, match=reason):
        judge_wiggle(samples, 2)


def test_the_wrong_joint_ends_the_waiting_too() -> None:
    assert wiggle_done(turned(4, THERE_AND_BACK), 2)


def test_wiggles_that_are_missing_or_disagree_are_refused() -> None:
    wiggles = [Wiggle(joint, 1, 20.0) for joint in range(6)]
    assert signs_from_wiggles(wiggles) == (1,) * 6
    with pytest.raises(CalibrationRefused, match="direction of wrist 3 was not measured"):
        signs_from_wiggles(wiggles[:5])
    with pytest.raises(CalibrationRefused, match="elbow was turned one way once and the other way"):
        signs_from_wiggles([*wiggles, Wiggle(2, -1, 20.0)])
    with pytest.raises(CalibrationRefused, match=r"base: turning it by hand says direction \+1, the two jig poses say"):
        agreed_signs((1, 1, 1, 1, 1, 1), (-1, 1, 1, 1, 1, 1))


@pytest.mark.parametrize("seed", range(1, 9))
def test_two_jig_poses_tell_all_directions(seed: int) -> None:
    rng, truth = np.random.default_rng(seed), assembled(seed)
    first, second = still_reading(held(truth, JIG, rng)), still_reading(held(truth, SECOND, rng, turns=2))
    assert signs_from_poses(first, JIG, second, SECOND) == tuple(joint.sign for joint in truth.joints)


def test_two_jig_poses_that_cannot_tell_or_were_not_taken_are_refused(rng: np.random.Generator) -> None:
    first = still_reading(held(NOMINAL, JIG, rng))
    for same in (0.0, math.pi):  # half a turn looks the same both ways round
        pose = (*SECOND[:4], JIG[4] + same, SECOND[5])
        with pytest.raises(CalibrationRefused, match=r"wrist 2 differs by .* its direction cannot be told"):
            signs_from_poses(first, JIG, still_reading(held(NOMINAL, pose, rng)), pose)
    elsewhere = still_reading(held(NOMINAL, (*SECOND[:2], SECOND[2] + 0.2, *SECOND[3:]), rng))
    with pytest.raises(CalibrationRefused, match=r"elbow should have turned by -30 degrees .* servo turned by"):
        signs_from_poses(first, JIG, elsewhere, SECOND)


def test_a_leader_that_was_not_seated_once_is_refused(rng: np.random.Generator) -> None:
    seated = still_reading(held(NOMINAL, JIG, rng))
    askew = still_reading(held(NOMINAL, np.array(JIG) + np.radians([0, 0, 0, 2.0, 0, 0]), rng))
    with pytest.raises(CalibrationRefused, match=r"wrist 1 differs by 2\.0\d degrees between two placements"):
        zeros([(seated, JIG), (askew, JIG)], (1, 1, -1, 1, 1, 1))


@pytest.mark.parametrize("swept", [0.0, 40.0, 2000.0])
def test_a_trigger_that_hardly_moved_or_went_round_is_refused(swept: float) -> None:
    ends = [StillReading(np.array([0.0] * 6 + [raw]), np.zeros(7), np.zeros(7), 50) for raw in (300.0, 300.0 + swept)]
    with pytest.raises(CalibrationRefused, match=r"the trigger swept .* degrees, 6 to 120 are plausible"):
        trigger_range(*ends)


# --- verification ---

POSE = np.array([0.4, -1.2, 1.9, -1.9, -1.2, 0.5])


def test_agreement_is_counted_modulo_a_turn_and_in_millimetres() -> None:
    leader = POSE + np.array([0, 0, 0, 0, 2 * math.pi, 0]) + np.radians([0.5, 0, 0, 0, 0, 0])
    result = verify(leader, POSE, Kinematics(), jig_q_6=JIG)
    assert result.passed and result.blind == ()
    assert result.difference_deg_6 == pytest.approx([0.5, 0, 0, 0, 0, 0], abs=1e-9)
    reach = float(np.linalg.norm(Kinematics().forward(POSE)[:2, 3]))
    assert result.tcp_mm == pytest.approx(1e3 * reach * math.radians(0.5), rel=1e-3)
    assert result.tcp_deg == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize(
    ("off_deg", "reason"), [(2.5, "put both arms in the same pose again"), (90.3, "about a quarter of a turn")]
)
def test_disagreement_fails_with_what_to_do(off_deg: float, reason: str) -> None:
    result = verify(POSE + np.radians([0, off_deg, 0, 0, 0, 0]), POSE, Kinematics(), jig_q_6=JIG)
    assert not result.passed
    assert len(result.reasons) == 1 and result.reasons[0].startswith(f"shoulder differs by +{off_deg:.1f} degrees")
    assert reason in result.reasons[0]


def test_a_wrong_direction_is_recognised_away_from_the_jig_and_admitted_to_be_unseen_in_it(
    rng: np.random.Generator,
) -> None:
    truth = assembled(5)
    wrong = [-joint.sign if i == 1 else joint.sign for i, joint in enumerate(truth.joints)]
    found = zeros([(still_reading(held(truth, JIG, rng)), JIG)], wrong)
    offsets = offsets_from(found, wrong, truth.trigger)
    in_jig = verify(offsets.joint_angles(truth.shaft_counts(JIG, 1.0)[:6]), JIG, Kinematics(), jig_q_6=JIG)
    assert in_jig.passed and "shoulder" in in_jig.blind
    away = verify(offsets.joint_angles(truth.shaft_counts(POSE.tolist(), 1.0)[:6]), POSE, Kinematics(), jig_q_6=JIG)
    assert [reason.split(":")[1] for reason in away.reasons] == [
        " its direction is wrong; turn it the way that is asked when the directions are measured"
    ]


# --- words for the person ---


def test_the_words_for_each_joint_are_what_the_kinematics_do() -> None:
    kinematics = Kinematics()
    words = [positive_motion(kinematics, JIG, joint) for joint in range(6)]
    assert "moves left, counter-clockwise seen from above" in words[0]
    assert words[1].endswith("moves down and forward")
    assert words[5] == "wrist 3: turn it clockwise seen from above"
    assert kinematics.forward((JIG[0], JIG[1] + 0.2, *JIG[2:]))[2, 3] < kinematics.forward(JIG)[2, 3]
    for base in (-2.0, 0.7):  # the words are the arm's own, wherever it faces
        assert [positive_motion(kinematics, (base, *JIG[1:]), joint) for joint in range(6)] == words


def test_the_picture_shows_the_arm_and_its_angles() -> None:
    lines = jig_picture(Kinematics(), JIG).splitlines()
    assert lines[0].strip().startswith("o---") and "base         0.0 deg" in lines[0]
    assert any(line.split()[:1] == ["#"] for line in lines)  # the base under a vertical upper arm


# --- the file ---


def test_the_file_of_before_is_kept_and_notes_do_not_disturb(tmp_path: Path) -> None:
    path = tmp_path / "leaders.yaml"
    assert save_offsets(path, "FT0001", NOMINAL, measured={"at": "today", "sigma_deg": [0.02] * 6}) is None
    kept = save_offsets(path, "FT0001", assembled(2))
    assert kept is not None and load_offsets(kept, "FT0001") == NOMINAL
    assert load_offsets(path, "FT0001") == assembled(2)
    assert sorted(tmp_path.iterdir()) == sorted([path, kept])


def test_the_home_directory_may_be_written_as_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    save_offsets("~/leaders.yaml", "FT0001", NOMINAL)
    assert load_offsets("~/leaders.yaml", "FT0001") == NOMINAL


# --- on the bus ---


def calibrate(leader: Any, plan: Plan, said: Callable[[str], None] = lambda line: None) -> Any:
    gello = Gello(leader.config, offsets=NOMINAL)
    gello.connect()
    try:
        hand = TwinHand(leader.cell, Person(Kinematics(), said, None, 0.0))
        return LeaderCalibrator(gello, hand, said).measure(plan)
    finally:
        gello.close()


def test_a_secret_assembly_is_recovered_through_the_genuine_sdk(start_leader: Any, tmp_path: Path) -> None:
    truth = assembled(11)
    leader = start_leader(leader_seed=11, offsets_file=str(tmp_path / "leaders.yaml"))
    measured = calibrate(leader, Plan((JIG,), seconds=0.3))
    assert [joint.sign for joint in measured.offsets.joints] == [joint.sign for joint in truth.joints]
    assert error_deg(measured.offsets, truth).max() < 0.2
    assert max(measured.spread_deg_6) < 0.2

    # What was stored makes the ordinary driver read true, also after the servos have lost power far from the jig.
    save_offsets(leader.config.offsets_file, "default", measured.offsets, measured=measured.record())
    gello = Gello(leader.config)
    gello.connect(JIG)
    leader.call("set_joints", q=POSE.tolist(), opening=0.4, seconds=1.0)
    _read_until_quiet(gello, leader)
    leader.fault("power_cycle", 0.3)
    _read_until_silent(gello)
    reading = _read_until_quiet(gello, leader)
    gello.close()
    assert np.degrees(reading.q_6) == pytest.approx(np.degrees(POSE), abs=0.4)  # single readings shake by a count
    assert reading.trigger_opening == pytest.approx(0.4, abs=0.02)


@pytest.mark.slow
def test_two_jig_poses_and_wiggles_agree_on_the_bus_in_spite_of_lost_power(start_leader: Any) -> None:
    truth = assembled(23)
    leader = start_leader(leader_seed=23)
    lines: list[str] = []

    def said(line: str) -> None:
        lines.append(line)
        if "wrist 1: turn it" in line:
            leader.fault("power_cycle", 0.0)  # whole turns are lost, and the way out is not seen

    measured = calibrate(leader, Plan((JIG, SECOND), placements=1, seconds=0.3), said)
    assert [joint.sign for joint in measured.offsets.joints] == [joint.sign for joint in truth.joints]
    assert error_deg(measured.offsets, truth).max() < 0.2


def test_servo_ids_out_of_order_are_found_by_the_wiggles(start_leader: Any) -> None:
    leader = start_leader(leader_seed=11)
    leader.cell = dataclasses.replace(
        leader.cell, leader=dataclasses.replace(leader.config, servo_ids=(1, 3, 2, 4, 5, 6, 7))
    )
    with pytest.raises(CalibrationRefused, match=r"servo of elbow turned .* leader\.servo_ids .* out of order"):
        calibrate(leader, Plan((JIG,), seconds=0.4))


def _read_until_silent(gello: Gello) -> None:
    from robot_bridge.leader_errors import LeaderError

    deadline = time.monotonic() + 5.0
    while time.monotonic() < deadline:
        try:
            gello.read()
        except LeaderError:
            return
    pytest.fail("the leader answered all the time although its power was cut")


def _read_until_quiet(gello: Gello, leader: Any) -> Any:
    from robot_bridge.leader_errors import LeaderError

    deadline = time.monotonic() + 5.0
    while True:
        assert time.monotonic() < deadline
        try:
            reading = gello.read()
        except LeaderError:
            continue
        if not leader.call("status")["busy"]:
            return gello.read()
        assert reading is not None
        time.sleep(0.01)


@pytest.fixture(autouse=True)
def quick_wiggles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leader_hands, "WIGGLE_S", 0.25)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(1)
