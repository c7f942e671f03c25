"""The camera matrix follows the picture: a bright dot is found where the resized camera projects it."""

from __future__ import annotations

import numpy as np
import pytest

from calibration.camera import PinholeCamera
from calibration.poses import inverse, transform
from prophrl_models.data.registry.errors import RegistryError
from prophrl_models.data.registry.resolution import Fit, ResolutionRule
from prophrl_models.data.registry.specs import SPECS


def dot_position(picture: np.ndarray) -> np.ndarray:
    """Centre of brightness in pixels (x, y)."""
    weight = picture[..., 0].astype(float)
    rows, columns = np.indices(weight.shape)
    return np.array([(columns * weight).sum(), (rows * weight).sum()]) / weight.sum()


@pytest.mark.parametrize(
    ("rule", "size"),
    [
        (ResolutionRule(240, 416, Fit.HEIGHT), (720, 1280)),
        (ResolutionRule(240, 320, Fit.HEIGHT), (480, 640)),
        (ResolutionRule(240, 320, Fit.HEIGHT), (360, 640)),
        (ResolutionRule(240, 320, Fit.HEIGHT), (224, 224)),
        (ResolutionRule(240, 320, Fit.HEIGHT), (171, 213)),
        (ResolutionRule(256, 256, Fit.STRETCH), (480, 640)),
        (ResolutionRule(256, 256, Fit.STRETCH), (128, 128)),
    ],
)
def test_a_dot_stays_under_its_projection(rule: ResolutionRule, size: tuple[int, int]) -> None:
    height, width = size
    pose = transform([0.2, -0.1, -1.5])
    camera = PinholeCamera(0.9 * width, 0.9 * width, 0.48 * width, 0.52 * height, width, height, inverse(pose))
    point = np.array([[0.27, -0.05, 0.0]])
    pixel = camera.project(point)[0][0]
    rows, columns = np.indices(size)
    radius = max(4.0, height / 40)
    blob = 255 * np.exp(-((columns - pixel[0]) ** 2 + (rows - pixel[1]) ** 2) / radius**2)
    picture = rule.image(np.repeat(blob.astype(np.uint8)[..., None], 3, axis=2))
    fitted = rule.camera(camera)
    assert picture.shape == (rule.height, rule.width, 3) and (fitted.width, fitted.height) == (rule.width, rule.height)
    assert np.allclose(dot_position(picture), fitted.project(point)[0][0], atol=0.15)


def test_a_narrow_picture_is_padded_with_black_and_a_wide_one_cropped_evenly() -> None:
    rule = ResolutionRule(240, 320, Fit.HEIGHT)
    square = rule.image(np.full((128, 128, 3), 200, np.uint8))
    assert not square[:, :40].any() and not square[:, 280:].any() and (square[:, 40:280] == 200).all()
    ramp = np.zeros((240, 640, 3), np.uint8)
    ramp[:, 160:480] = 90
    assert (rule.image(ramp) == 90).all(), "the middle 320 of 640 columns remain"


def test_targets_are_the_papers() -> None:
    sizes = {name: (spec.resolution.height, spec.resolution.width) for name, spec in SPECS.items()}
    assert sizes["agibot"] == sizes["own_robot"] == (240, 320)
    assert sizes["droid"] == (240, 416)
    assert sizes["libero"] == sizes["bridge"] == (256, 256)
    others = set(sizes) - {"agibot", "own_robot", "droid", "libero", "bridge"}
    assert len(others) == 9 and all(sizes[name] == (240, 320) for name in others)


def test_an_empty_picture_is_refused() -> None:
    with pytest.raises(RegistryError, match="0x10"):
        ResolutionRule(240, 320, Fit.HEIGHT).image(np.zeros((0, 10, 3), np.uint8))
