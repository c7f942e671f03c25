"""The action-frame video of an episode: per step, the tool as the camera sees it and the opening commanded for it.

Frame 0 shows the first state. Frame t shows the pose reached at step t, which is the first state moved by the actions
before it, with the opening that action t - 1 commanded: the same pictures that integrating the actions would give.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from calibration.action_frame import render_action_frames
from calibration.camera import PinholeCamera
from calibration.poses import from_euler
from calibration.storage import CalibrationFileError, parse
from prophrl_models.data.episode import EpisodeColumns
from prophrl_models.data.image import Image, ImageRegion, policy_camera
from prophrl_models.data.lerobot.format import LeRobotError

_DRAWN_AT_ONCE = 64
"""Steps, so that memory stays bounded whatever the length of an episode."""


def episode_camera(calibration_yaml: str | None, episode_id: str, region: ImageRegion) -> PinholeCamera:
    """The camera whose pixels are those of the episode's images, which show ``region`` of the calibrated camera's.

    Raises:
        LeRobotError: no calibration, a damaged one, or a camera that rides on the tool.
    """
    if calibration_yaml is None:
        raise LeRobotError(
            f"episode {episode_id!r} was recorded without a camera calibration, so no action frames can be drawn; "
            "export without action frames, or leave the episode out"
        )
    try:
        calibration = parse(calibration_yaml.encode(), f"the calibration of episode {episode_id!r}")
    except CalibrationFileError as error:
        raise LeRobotError(str(error)) from error
    if calibration.mode == "eye_in_hand":
        raise LeRobotError(
            f"episode {episode_id!r} was taken by a camera on the tool; action frames are drawn for fixed cameras only"
        )
    return policy_camera(calibration.camera, region)


def action_frames(columns: EpisodeColumns, camera: PinholeCamera) -> Iterator[Image]:
    """One picture a step, RGB uint8 [H, W, 3] at the camera's size, black where nothing is drawn."""
    poses_T44 = np.stack([from_euler(state[:6]) for state in columns.state_T7])
    opening_T = np.append(columns.state_T7[0, 6], columns.action_T7[:-1, 6])
    for first in range(0, len(columns), _DRAWN_AT_ONCE):
        part = slice(first, first + _DRAWN_AT_ONCE)
        yield from render_action_frames(poses_T44[part], opening_T[part], camera)
