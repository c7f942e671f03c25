"""The optical-flow protocol: known translations, loops over pixels, and the limits."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from prophrl_models.data.image import Image
from prophrl_models.prophet.flow_metrics import compare_flow, farneback
from prophrl_models.prophet.metrics import MetricError

HEIGHT, WIDTH, MARGIN = 64, 80, 16


def sliding(step_x_px: float, step_y_px: float, frames: int = 3) -> Image:
    """A smooth texture that slides by a constant number of pixels per frame; no pixel of the view is ever empty."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(HEIGHT + 2 * MARGIN, WIDTH + 2 * MARGIN)).astype(np.float32)
    texture = cv2.GaussianBlur(noise, (0, 0), 2.5)
    texture = (texture - texture.min()) / np.ptp(texture) * 255
    views = []
    for k in range(frames):
        shift = np.float32([[1, 0, k * step_x_px - MARGIN], [0, 1, k * step_y_px - MARGIN]])
        views.append(cv2.warpAffine(texture, shift, (WIDTH, HEIGHT), flags=cv2.INTER_CUBIC))
    return np.repeat(np.clip(views, 0, 255).astype(np.uint8)[..., None], 3, axis=-1)


def compare_by_loops(u_HW2: np.ndarray, v_HW2: np.ndarray) -> dict[str, float]:
    """The definitions, pixel by pixel."""
    error, error_moving, cosine, cosine_half, cosine_moving = [], [], [], [], []
    for u, v in zip(u_HW2.reshape(-1, 2).tolist(), v_HW2.reshape(-1, 2).tolist(), strict=True):
        length_u, length_v = np.hypot(*u), np.hypot(*v)
        apart = np.hypot(u[0] - v[0], u[1] - v[1])
        alike = (u[0] * v[0] + u[1] * v[1]) / (length_u * length_v + 1e-6)
        error.append(apart)
        if length_u > 1e-3 and length_v > 1e-3:
            cosine.append(alike)
        if length_u > 0.5:
            error_moving.append(apart)
            cosine_moving.append(alike if length_v > 1e-3 else 0.0)
            if length_v > 0.5:
                cosine_half.append(alike)
    lists = {"epe_px": error, "epe_moving_px": error_moving, "cosine": cosine}
    lists |= {"cosine_half_px": cosine_half, "cosine_moving": cosine_moving}
    return {name: float(np.mean(values)) if values else float("nan") for name, values in lists.items()}


def test_flow_of_a_translation_is_that_translation() -> None:
    flow = farneback(sliding(2.0, -1.0))
    inner = flow[:, 12:-12, 12:-12]
    assert flow.shape == (2, HEIGHT, WIDTH, 2)
    assert np.abs(inner - [2.0, -1.0]).max() < 0.25
    assert inner.mean(axis=(0, 1, 2)) == pytest.approx([2.0, -1.0], abs=0.05)


def test_scores_of_two_known_translations() -> None:
    real, other = farneback(sliding(2.0, 0.0)), farneback(sliding(0.0, 2.0))
    scores = compare_flow(real[:, 12:-12, 12:-12], other[:, 12:-12, 12:-12])
    assert scores["epe_px"] == pytest.approx([2 * np.sqrt(2)] * 2, abs=0.1)
    assert scores["cosine"] == pytest.approx([0.0] * 2, abs=0.05)
    back = compare_flow(real[:, 12:-12, 12:-12], farneback(sliding(-2.0, 0.0))[:, 12:-12, 12:-12])
    assert back["cosine_half_px"] == pytest.approx([-1.0] * 2, abs=0.01)


def test_scores_equal_a_loop_over_pixels() -> None:
    rng = np.random.default_rng(1)
    real, generated = rng.normal(scale=0.5, size=(2, 3, 9, 11, 2)).astype(np.float32)
    real[0, :4], generated[0, 6:] = 0.0, 0.0  # pixels that only one of the two moves
    generated[1] = 0.0  # a model that shows no motion
    real[2] = 0.0  # nothing really moves
    found = compare_flow(real, generated)
    for pair in range(3):
        wanted = compare_by_loops(real[pair], generated[pair])
        for name, value in wanted.items():
            assert found[name][pair] == pytest.approx(value, abs=1e-6, nan_ok=True), name


def test_equal_motion_reaches_the_limits() -> None:
    flow = farneback(sliding(1.0, 1.0))
    scores = compare_flow(flow, flow)
    assert scores["epe_px"] == pytest.approx([0.0] * 2)
    for name in ("cosine", "cosine_half_px", "cosine_moving"):
        assert scores[name] == pytest.approx([1.0] * 2, abs=1e-4)


def test_standing_still_is_left_out_of_the_stricter_cosine_but_punished_by_ours() -> None:
    real = farneback(sliding(2.0, 0.0))
    still = farneback(np.repeat(sliding(0.0, 0.0, 1), 3, axis=0))
    assert np.abs(still[:, 12:-12, 12:-12]).max() < 1e-3  # only the edges of the picture hold invented motion
    scores = compare_flow(real, still)
    assert np.isnan(scores["cosine_half_px"]).all()
    assert scores["cosine_moving"] == pytest.approx([0.0] * 2, abs=0.15)
    inner = compare_flow(real[:, 12:-12, 12:-12], still[:, 12:-12, 12:-12])
    assert np.isnan(inner["cosine"]).all()
    assert inner["cosine_moving"] == pytest.approx([0.0] * 2)
    assert inner["epe_px"] == pytest.approx([2.0] * 2, abs=0.1)


def test_a_still_scene_has_no_cosine_at_all() -> None:
    still = farneback(np.repeat(sliding(0.0, 0.0, 1), 2, axis=0))
    scores = compare_flow(still, farneback(sliding(2.0, 0.0, 2)))
    assert np.isnan(scores["cosine_moving"]).all() and np.isnan(scores["epe_moving_px"]).all()
    assert scores["epe_px"][0] > 1.0


def test_one_frame_has_no_flow_and_wrong_shapes_are_refused() -> None:
    assert farneback(sliding(1.0, 0.0, 1)).shape == (0, HEIGHT, WIDTH, 2)
    with pytest.raises(MetricError, match="RGB uint8"):
        farneback(sliding(1.0, 0.0)[..., 0])
    with pytest.raises(MetricError, match=r"\[P, H, W, 2\]"):
        compare_flow(np.zeros((1, 4, 4, 2), np.float32), np.zeros((2, 4, 4, 2), np.float32))
