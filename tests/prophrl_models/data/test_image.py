"""The policy's image: which pixels of the camera it shows, and that its camera model points at the same ones."""

from __future__ import annotations

import numpy as np
import pytest

from calibration.camera import PinholeCamera
from prophrl_models.data.image import policy_camera, policy_crop, policy_image


def test_a_424x240_image_is_cropped_and_not_resampled() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (240, 424, 3), dtype=np.uint8)
    image = policy_image(rgb)
    assert (image == rgb[:, 52:372]).all()
    rgb[:] = 0
    assert image.any(), "the policy image must not alias the camera's buffer"


def test_a_640x480_image_is_averaged_over_two_by_two_pixels() -> None:
    rgb = np.random.default_rng(1).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    mean = rgb.reshape(240, 2, 320, 2, 3).astype(float).mean(axis=(1, 3))
    assert np.abs(policy_image(rgb).astype(float) - mean).max() <= 0.5


@pytest.mark.parametrize(
    ("size", "crop"),
    [
        ((424, 240), (52, 0, 320, 240)),
        ((848, 480), (104, 0, 640, 480)),
        ((1280, 720), (160, 0, 960, 720)),
        ((1280, 800), (106, 0, 1067, 800)),
        ((320, 320), (0, 40, 320, 240)),
    ],
)
def test_the_crop_is_centred_and_has_the_aspect_four_to_three(
    size: tuple[int, int], crop: tuple[int, int, int, int]
) -> None:
    assert policy_crop(*size) == crop


def test_the_policy_camera_projects_to_where_the_crop_moved_the_pixel() -> None:
    camera = PinholeCamera(424.0, 424.0, 423.5, 239.5, 848, 480)
    rgb = np.zeros((480, 848, 3), np.uint8)
    pixel, depth = camera.project([[0.21, -0.13, 0.9]])
    x, y = np.round(pixel[0]).astype(int)
    point = camera.unproject([[x, y]], depth)
    # a 2x2 block is one policy pixel, and its centre lies half a pixel beyond its first pixel
    rgb[y // 2 * 2 : y // 2 * 2 + 2, x // 2 * 2 : x // 2 * 2 + 2] = 255
    row, column = np.unravel_index(policy_image(rgb)[..., 0].argmax(), (240, 320))
    projected, _ = policy_camera(camera).project(point)
    assert np.abs(projected[0] - [column, row]).max() <= 0.26


@pytest.mark.parametrize("shape", [(240, 424), (240, 424, 4)])
def test_other_arrays_are_refused_with_the_next_action(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="rgb_image"):
        policy_image(np.zeros(shape, np.uint8))


def test_an_image_without_area_is_refused() -> None:
    with pytest.raises(ValueError, match="2x240"):
        policy_crop(2, 240)
