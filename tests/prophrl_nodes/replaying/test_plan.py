"""From a bag to a plan: joints, actions, what the recording tells of itself, and bags that are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from prophrl_nodes.replaying.plan import ReplayError, ReplayMode, check_cell, read_plan, scene_of
from prophrl_nodes.replaying.targets import JointStream, delayed_actions

from calibration.poses import ActionConvention, integrate_chunk, to_euler
from prophrl_models.data.bag import Bag, BagError
from prophrl_models.data.convert import convert_bag
from robot_bridge.ur_kinematics import Kinematics
from tests.helpers.demonstrations import Demonstration


def test_a_plan_has_the_very_actions_that_training_would_get(bag: Path) -> None:
    plan, episode = read_plan(bag), convert_bag(Bag(bag))
    assert np.array_equal(plan.actions_T7, episode.action_T7)
    assert plan.metadata.outcome == "success" and plan.invalid_steps == 0
    assert plan.duration_s == pytest.approx(len(episode) / 10.0)


@pytest.mark.parametrize("convention", list(ActionConvention), ids=lambda c: c.name)
def test_actions_integrated_from_the_first_pose_lead_along_the_recorded_path(
    bag: Path, convention: ActionConvention
) -> None:
    plan = read_plan(bag, convention=convention)
    poses = integrate_chunk(plan.recorded.T_base_tcp_N44[0], plan.actions_T7, convention)
    rows = np.minimum(10 * np.arange(1, len(poses) + 1), len(plan.recorded) - 1)
    # A tick takes the newest sample at or before it: the recorded path is met within 10 ms of motion.
    assert np.linalg.norm(poses[:, :3, 3] - plan.recorded.T_base_tcp_N44[rows, :3, 3], axis=1).max() < 0.004


def test_joints_and_poses_of_a_plan_belong_together(bag: Path, demonstration: Demonstration) -> None:
    plan = read_plan(bag, ReplayMode.JOINTS)
    arm = Kinematics(tool=np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0.174], [0, 0, 0, 1.0]]))
    for row in range(0, len(plan.recorded), 100):  # the twin's arm has its own calibration, a millimetre or two
        off = to_euler(arm.forward(plan.q_N6[row]))[:3] - plan.recorded.T_base_tcp_N44[row, :3, 3]
        assert np.linalg.norm(off) < 0.006
    assert plan.q_first_6 == pytest.approx(demonstration.samples[0][1], abs=1e-3)


def test_the_arms_lag_behind_the_leader_is_read_from_the_recording(bag: Path) -> None:
    # Fifty milliseconds of transport, and the servo's own lag of about as much.
    assert 0.06 < read_plan(bag).lag_s < 0.18


def test_the_stream_of_joints_passes_the_samples_and_keeps_to_its_ends(bag: Path) -> None:
    plan = read_plan(bag, ReplayMode.JOINTS)
    stream = JointStream.of(plan)
    assert stream.duration_s == pytest.approx(plan.duration_s)
    q, opening = stream.at(1.23)
    assert q == pytest.approx(plan.q_N6[123]) and opening == plan.target_opening_N[123]
    middle, _ = stream.at(1.235)
    assert middle == pytest.approx(0.5 * (plan.q_N6[123] + plan.q_N6[124]))
    assert np.array_equal(stream.at(-1.0)[0], plan.q_N6[0])
    assert stream.at(1e6)[0] == pytest.approx(plan.q_N6[-1])


def test_only_the_grippers_commands_wait(bag: Path) -> None:
    plan = read_plan(bag)
    assert np.array_equal(delayed_actions(plan, 0.0), plan.actions_T7)
    delayed = delayed_actions(plan, 0.06)
    assert np.array_equal(delayed[:, :6], plan.actions_T7[:, :6])
    assert np.array_equal(delayed[1:, 6], plan.actions_T7[:-1, 6])
    waiting, prompt = JointStream.of(plan, 0.06), JointStream.of(plan)
    closes_s = float(np.argmax(plan.target_opening_N < 0.5)) / 100.0
    assert prompt.at(closes_s)[1] < 0.5 < waiting.at(closes_s + 0.05)[1]
    assert waiting.at(closes_s + 0.06)[1] < 0.5


def test_the_scene_is_the_one_that_was_recorded(bag: Path, demonstration: Demonstration) -> None:
    assert scene_of(read_plan(bag)).to_json() == demonstration.said["placement"]


def test_an_episode_without_a_placement_cannot_be_restored(tmp_path: Path, demonstration: Demonstration) -> None:
    plan = read_plan(demonstration.write(tmp_path, "bare", placed=False))
    with pytest.raises(ReplayError, match=r"bare: its placement \{\} cannot be restored"):
        scene_of(plan)


@pytest.mark.parametrize("topic", ["/joint_states", "/gripper/state", "/tcp_pose_broadcaster/pose"])
def test_a_bag_without_a_needed_topic_is_refused_and_says_what_there_is(
    tmp_path: Path, demonstration: Demonstration, topic: str
) -> None:
    with pytest.raises(BagError, match=topic.lstrip("/")):
        read_plan(demonstration.write(tmp_path, "poor", without=topic))


def test_a_bag_that_was_cut_off_is_refused_with_the_remedy(tmp_path: Path, demonstration: Demonstration) -> None:
    folder = demonstration.write(tmp_path, "cut")
    [file] = folder.glob("*.mcap")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(BagError, match="prophrl bag recover"):
        read_plan(folder)


def test_episodes_of_another_cell_or_calibration_are_refused(bag: Path) -> None:
    plan = read_plan(bag)
    check_cell(plan, "twin")
    check_cell(plan, "twin", "0123abcd")  # recorded without a calibration: nothing to compare
    with pytest.raises(ReplayError, match="recorded on cell 'twin', this is 'ur30e'"):
        check_cell(plan, "ur30e")
    object.__setattr__(plan.metadata, "calibration_id", "feed0001")
    with pytest.raises(ReplayError, match="calibration feed0001, in force is 0123abcd"):
        check_cell(plan, "twin", "0123abcd")
    check_cell(plan, "twin", "feed0001")
