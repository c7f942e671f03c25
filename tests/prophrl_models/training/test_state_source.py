"""A state that is counted from actions: where it must agree with the measured one, and where it must not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from calibration.poses import ActionConvention, difference, from_euler
from prophrl_models.data.dataset import Dataset
from prophrl_models.training.rows import DatasetRows
from prophrl_models.training.state_source import (
    IntegratedState,
    check_state_source,
    integrated_states,
    training_states,
)
from tests.helpers.small_runs import FRAMES


def path(seed: int = 0, steps: int = 40) -> np.ndarray:
    """States [T, 7] of a hand that points down and wanders over the table, angles on both sides of pi."""
    rng = np.random.default_rng(seed)
    states = np.zeros((steps, 7))
    states[:, :3] = np.array([-0.6, 0.1, 0.3]) + np.cumsum(0.01 * rng.normal(size=(steps, 3)), axis=0)
    states[:, 3:6] = np.array([np.pi, 0.0, 1.5]) + np.cumsum(0.05 * rng.normal(size=(steps, 3)), axis=0)
    states[:, 6] = rng.uniform(size=steps)
    return states


@pytest.mark.parametrize("convention", list(ActionConvention))
def test_counting_exact_actions_gives_the_measured_poses_on_the_same_branch(convention: ActionConvention) -> None:
    states = path()
    actions = np.zeros((len(states) - 1, 7))
    for t in range(len(actions)):
        actions[t, :6] = difference(from_euler(states[t, :6]), from_euler(states[t + 1, :6]), convention)
        actions[t, 6] = states[t + 1, 6]
    counted = integrated_states(states[0], actions, convention)
    np.testing.assert_allclose(counted, states[:-1], atol=2e-6)  # angles as well: no jump by two pi


def test_it_matches_an_independent_count_of_a_servo_command() -> None:
    """p += dp, R <- exp(w) R, g = commanded, written out."""
    state = IntegratedState(ActionConvention.CONTROLLER_SERVO)
    state.start([0.1, 0.2, 0.3, 0.4, -0.2, 0.1, 1.0])
    action = np.array([0.01, -0.02, 0.03, 0.05, 0.02, -0.04, 0.25])
    state.advance(np.stack([action, action]))
    turn = Rotation.from_rotvec(action[3:6])
    expected = (turn * turn * Rotation.from_euler("xyz", [0.4, -0.2, 0.1])).as_euler("xyz")
    np.testing.assert_allclose(state.state_7, [0.12, 0.16, 0.36, *expected, 0.25], atol=1e-6)


def test_measurements_after_the_first_do_not_enter() -> None:
    actions = np.zeros((5, 7))
    actions[:, 0], actions[:, 6] = 0.01, 1.0
    states = integrated_states([0, 0, 0.3, 3.1, 0, 0, 0.4], actions, ActionConvention.ABSOLUTE_POSE_DIFFERENCE)
    np.testing.assert_allclose(states[:, 0], 0.01 * np.arange(5), atol=1e-7)
    assert states[0, 6] == np.float32(0.4) and (states[1:, 6] == 1.0).all()  # opening: measured once, then commanded


def test_training_rows_and_the_running_robot_see_the_same_state(dataset_folder: Path) -> None:
    dataset = Dataset(dataset_folder)
    rows = DatasetRows(dataset, FRAMES, "integrated")
    measured = DatasetRows(dataset, FRAMES)
    state = IntegratedState(dataset.convention)
    state.start(measured.row(0).state_7)
    for i in range(20):
        np.testing.assert_array_equal(rows.row(i).state_7, state.state_7)
        np.testing.assert_allclose(rows.row(i).state_7[:6], measured.row(i).state_7[:6], atol=1e-5)
        state.advance(rows.row(i).actions_CHD[0])
    assert rows.format.state_source == "integrated"
    differs = [rows.row(i).state_7[6] != measured.row(i).state_7[6] for i in range(20)]
    assert any(differs)  # a closing gripper lags behind its command


def test_misuse_is_refused() -> None:
    state = IntegratedState(ActionConvention.LOCAL_FRAME_DELTA)
    assert not state.started
    with pytest.raises(RuntimeError, match=r"call start\(\)"):
        state.advance(np.zeros(7))
    with pytest.raises(ValueError, match="seven finite numbers"):
        state.start([0.0] * 6)
    state.start(np.zeros(7))
    with pytest.raises(ValueError, match="an action"):
        state.advance([np.nan] * 7)
    with pytest.raises(ValueError, match="measured, commanded_opening, integrated"):
        check_state_source("guessed")


def test_rows_with_a_commanded_opening_keep_every_measured_pose() -> None:
    states = path(steps=12).astype(np.float32)
    actions = np.random.default_rng(1).normal(size=(12, 7))
    shown = training_states(states, actions, "commanded_opening", ActionConvention.ABSOLUTE_POSE_DIFFERENCE)
    np.testing.assert_array_equal(shown[:, :6], states[:, :6])
    np.testing.assert_array_equal(shown[1:, 6], actions[:-1, 6].astype(np.float32))
    assert shown[0, 6] == states[0, 6], "nothing was commanded yet"
    same = training_states(states, actions, "measured", ActionConvention.ABSOLUTE_POSE_DIFFERENCE)
    np.testing.assert_array_equal(same, states)
    with pytest.raises(ValueError, match="choose one of measured, commanded_opening"):
        training_states(states, actions, "guessed", ActionConvention.ABSOLUTE_POSE_DIFFERENCE)
