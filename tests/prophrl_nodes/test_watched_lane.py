"""A trial in the fast lane as a logged episode: its actions lead from the first measured pose to the last."""

from __future__ import annotations

import numpy as np
import pytest
from prophrl_nodes.studies.watched_lane import WatchedLane

from calibration.poses import ActionConvention
from prophrl_models.data.synchronise import SyncSpec, state_vector
from prophrl_models.prophet.motion import integrated

TASK = "place_cube"


@pytest.mark.parametrize("convention", list(ActionConvention))
def test_the_actions_of_an_episode_lead_where_the_arm_went(convention: ActionConvention) -> None:
    with WatchedLane(TASK) as lane:
        first = lane.reset()
        chunk = np.tile([0.01, -0.004, -0.006, 0.02, 0.0, 0.05, 0.4], (6, 1))
        last = lane.execute_chunk(chunk, ActionConvention.CONTROLLER_SERVO)
        episode = lane.episode("put it there", SyncSpec(), convention, True, "a test")
        assert lane.renderer is not None and episode.prompt.camera == lane.renderer.camera
    frames = np.asarray(episode.frames_THW3)
    assert frames.shape == (7, 240, 320, 3) and episode.actions_T7.shape == (6, 7)
    assert np.array_equal(frames[0], first.image_HW3) and np.array_equal(frames[-1], last.image_HW3)
    assert np.array_equal(episode.prompt.image_HW3, first.image_HW3) and episode.success
    state = episode.prompt.state_7
    assert np.array_equal(state, state_vector(first.T_base_tcp, float(first.state_7[6]), SyncSpec()))
    reached = integrated(state[None], episode.actions_T7[None], convention)[0, -1]
    expected = state_vector(last.T_base_tcp, 0.4, SyncSpec())
    assert np.allclose(reached, expected, atol=2e-5)
    assert np.linalg.norm(reached[:3] - state[:3]) > 0.02


def test_an_episode_begins_anew_with_every_reset() -> None:
    with WatchedLane(TASK) as lane:
        lane.reset()
        lane.run(170)
        assert len(lane.episode("x", SyncSpec(), ActionConvention.CONTROLLER_SERVO, False).actions_T7) == 3
        lane.run(30)  # the fifth moment, which no further run has seen
        assert len(lane.episode("x", SyncSpec(), ActionConvention.CONTROLLER_SERVO, False).actions_T7) == 4
        lane.reset()
        with pytest.raises(ValueError, match="at least one control step, got 1 moments"):
            lane.episode("x", SyncSpec(), ActionConvention.CONTROLLER_SERVO, False)
