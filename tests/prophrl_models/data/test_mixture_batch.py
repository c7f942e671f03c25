"""Cameras travel with their windows, frame by frame where they move; tensors move together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from calibration.camera import PinholeCamera
from calibration.poses import ActionConvention, from_euler
from prophrl_models.data.mixture_batch import MixtureBatch, collate
from prophrl_models.data.mixture_config import MixtureError
from prophrl_models.data.registry.general import GeneralEpisode
from prophrl_models.data.windows import WindowRule, cut

FRAMES, RULE = 9, WindowRule(history=2, actions=3)


def filmed(number: int, camera: PinholeCamera | None, moving: bool = False) -> GeneralEpisode:
    state = np.random.default_rng(number).uniform(0.2, 0.8, (FRAMES, 2, 7)).astype(np.float32)
    state[:, 1] = 0.0
    images = np.full((FRAMES, 6, 8, 3), number, np.uint8)
    poses = np.stack([from_euler([0.1 * t, 0, 1, 0, 0.02 * t, 3]) for t in range(FRAMES)]) if moving else None
    mask = np.array([True, False])
    convention = ActionConvention.LOCAL_FRAME_DELTA
    return GeneralEpisode(
        images, state, state * 0.1, mask, "", convention, 30.0, camera, "x", str(number), FRAMES - 1, poses
    )


def batch(*episodes: GeneralEpisode) -> MixtureBatch:
    entries = [(episode, cut(episode, 4, RULE)) for episode in episodes]
    return collate(entries, source="x", convention=episodes[0].convention, rate_hz=30.0, history=2, number=0)


def test_each_frame_has_the_camera_of_its_episode() -> None:
    lens = np.array([0.1, -0.2, 0.01, 0.02, 0.3])
    fixed = PinholeCamera(7.0, 8.0, 4.0, 3.0, 8, 6, from_euler([0, 0, 1, 0.1, 0.2, 0.3]), lens)
    first, second, none = filmed(1, fixed), filmed(2, replace(fixed, fx=9.0), moving=True), filmed(3, None)
    camera = batch(first, second, none).camera
    assert camera is not None and camera.known_B.tolist() == [True, True, False]
    for row, episode in enumerate((first, second)):
        for place, frame in enumerate(range(2, 8)):
            one = episode.camera_at(frame)
            assert one is not None
            assert np.allclose(camera.K_B33[row], one.K)
            assert np.allclose(camera.T_camera_base_BT44[row, place], one.T_camera_base, atol=1e-6)
        assert np.allclose(camera.distortion_B5[row], lens)
    assert torch.equal(camera.T_camera_base_BT44[2], torch.eye(4).expand(6, 4, 4))
    assert batch(none).camera is None


def test_lens_models_that_do_not_fit_are_refused() -> None:
    camera = PinholeCamera(7.0, 8.0, 4.0, 3.0, 8, 6, np.eye(4), np.full(8, 0.1))
    with pytest.raises(MixtureError, match="8 distortion coefficients, batches carry the first 5"):
        batch(filmed(1, camera))


def test_pictures_of_different_sizes_do_not_meet() -> None:
    other = replace(filmed(2, None), images_THW3=np.zeros((FRAMES, 6, 9, 3), np.uint8))
    with pytest.raises(MixtureError, match="different sizes"):
        batch(filmed(1, None), other)


def test_all_tensors_move_together() -> None:
    made = batch(filmed(1, PinholeCamera(7.0, 8.0, 4.0, 3.0, 8, 6)))
    moved = made.to("meta")
    tensors = [value for value in vars(moved).values() if isinstance(value, torch.Tensor)]
    assert moved.camera is not None
    tensors += list(vars(moved.camera).values())
    assert len(tensors) == 11 and all(tensor.device.type == "meta" for tensor in tensors)
    assert made.images_BTHW3.device.type == "cpu" and moved.episode_id == made.episode_id
