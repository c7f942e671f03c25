"""Picture metrics against slow derivations written down from their definitions, and at their limits."""

from __future__ import annotations

import importlib.util
import math

import numpy as np
import pytest

from prophrl_models.data.image import Image
from prophrl_models.prophet.metrics import PSNR_LIMIT_DB, Lpips, MetricError, psnr, squared_error, ssim, tssim


def pictures(count: int, seed: int, height: int = 16, width: int = 21) -> Image:
    """Smooth random pictures: SSIM of pure noise would test little."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, height // 4 + 1, width // 4 + 1, 3))
    fine = np.repeat(np.repeat(coarse, 4, axis=1), 4, axis=2)[:, :height, :width]
    noise = rng.integers(-20, 21, fine.shape)
    return np.clip(fine + noise, 0, 255).astype(np.uint8)


def ssim_by_loops(a_HW3: np.ndarray, b_HW3: np.ndarray) -> float:
    """The definition, window by window: weighted central moments, no blurring of squares."""
    offset = np.arange(11) - 5
    weight = np.exp(-(offset[:, None] ** 2 + offset[None] ** 2) / (2 * 1.5**2))
    weight /= weight.sum()
    values = []
    for channel in range(3):
        for top in range(a_HW3.shape[0] - 10):
            for left in range(a_HW3.shape[1] - 10):
                x = a_HW3[top : top + 11, left : left + 11, channel]
                y = b_HW3[top : top + 11, left : left + 11, channel]
                mx, my = (weight * x).sum(), (weight * y).sum()
                vx, vy = (weight * (x - mx) ** 2).sum(), (weight * (y - my) ** 2).sum()
                covariance = (weight * (x - mx) * (y - my)).sum()
                luminance = (2 * mx * my + 0.0001) / (mx**2 + my**2 + 0.0001)
                values.append(luminance * (2 * covariance + 0.0009) / (vx + vy + 0.0009))
    return float(np.mean(values))


def test_psnr_of_a_known_error() -> None:
    real = np.full((2, 12, 12, 3), 100, np.uint8)
    off = real.copy()
    off[1] += 51  # a fifth of the range everywhere
    assert psnr(real, off) == pytest.approx([PSNR_LIMIT_DB, 20 * math.log10(5)])


def test_psnr_equals_a_loop_over_pixels_and_does_not_wrap_around() -> None:
    a, b = pictures(2, 0), pictures(2, 1)
    for frame in range(2):
        total = sum((int(x) / 255 - int(y) / 255) ** 2 for x, y in zip(a[frame].flat, b[frame].flat, strict=True))
        assert psnr(a, b)[frame] == pytest.approx(10 * math.log10(a[frame].size / total))
    assert squared_error(np.zeros_like(a), np.full_like(a, 255)) == pytest.approx([1.0, 1.0])


def test_ssim_equals_the_definition_window_by_window() -> None:
    a, b = pictures(2, 2), pictures(2, 3)
    b[1] = np.clip(a[1].astype(int) + 30, 0, 255)  # one pair that is much alike
    found = ssim(a, b)
    wanted = [ssim_by_loops(a[k] / 255.0, b[k] / 255.0) for k in range(2)]
    assert found == pytest.approx(wanted, abs=1e-6)
    assert found[0] < 0.7 < found[1]


def test_tssim_is_the_ssim_of_the_differences() -> None:
    a, b = pictures(3, 4), pictures(3, 5)
    wanted = [ssim_by_loops(np.diff(a / 255.0, axis=0)[k], np.diff(b / 255.0, axis=0)[k]) for k in range(2)]
    assert tssim(a, b) == pytest.approx(wanted, abs=1e-5)


def test_equal_videos_reach_the_limits_and_order_does_not_matter() -> None:
    a, b = pictures(3, 6), pictures(3, 7)
    assert psnr(a, a) == pytest.approx([PSNR_LIMIT_DB] * 3)
    assert ssim(a, a) == pytest.approx([1.0] * 3)
    assert tssim(a, a) == pytest.approx([1.0] * 2)
    for metric in (psnr, ssim, tssim):
        assert metric(a, b) == pytest.approx(metric(b, a))


def test_tssim_sees_motion_that_ssim_of_single_frames_does_not_blame() -> None:
    """A video played backwards has the same frames on the whole, but other differences."""
    still = np.repeat(pictures(1, 8), 4, axis=0)
    moving = still.copy()
    for k in range(4):
        moving[k, 4:8, 3 * k : 3 * k + 4] = 255
    assert tssim(moving, still).max() < 0.95
    assert tssim(still + np.uint8(1), still) == pytest.approx([1.0] * 3)  # a constant offset moves nothing


@pytest.mark.parametrize("metric", [psnr, ssim, tssim])
def test_frames_that_cannot_be_compared_are_refused(metric) -> None:  # type: ignore[no-untyped-def]
    a = pictures(2, 9)
    with pytest.raises(MetricError, match="differ in shape"):
        metric(a, a[:1])
    with pytest.raises(MetricError, match="RGB uint8"):
        metric(a / 255.0, a)
    with pytest.raises(MetricError, match="smaller than the 11 px window"):
        metric(a[:, :8], a[:, :8])


@pytest.mark.skipif(importlib.util.find_spec("lpips") is not None, reason="lpips is installed")
def test_lpips_without_its_package_says_what_to_install() -> None:
    with pytest.raises(MetricError, match="pip install lpips"):
        Lpips()
