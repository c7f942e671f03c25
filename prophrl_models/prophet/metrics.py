"""How alike two videos are, picture by picture: PSNR, SSIM, tSSIM and, where its package is installed, LPIPS.

Frames are RGB uint8 [T, H, W, 3]; pixel values are divided by 255 before anything is computed. Every function returns
one float64 per frame (or per pair of consecutive frames), so that means, medians and curves can be made of the same
numbers. Definitions: Wang et al. 2004 (SSIM) and design specification 8.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from prophrl_models.data.image import Image

Array = NDArray[np.float64]

PSNR_LIMIT_DB = 100.0
"""PSNR of equal frames, which has no finite value. The smallest error two different frames of 240x320 can have is
101.8 dB; a mean over frames must not be ruled by the few that are nearly equal."""
SSIM_WINDOW_PX, SSIM_SIGMA_PX = 11, 1.5
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2


class MetricError(ValueError):
    """Frames that cannot be compared, or a metric that cannot be computed here; the message says why."""


@dataclass(frozen=True)
class Metric:
    """How a number is named and read.

    Attributes:
        label: for people.
        unit: "dB", "px" or empty.
        higher_is_better: direction.
        decimals: digits worth printing.
        meaning: one sentence.
    """

    label: str
    unit: str
    higher_is_better: bool
    decimals: int
    meaning: str


METRICS = {
    "psnr_db": Metric("PSNR", "dB", True, 2, "peak signal-to-noise ratio of each frame, at most 100 dB"),
    "ssim": Metric("SSIM", "", True, 4, "structural similarity of each frame, 11x11 Gaussian window"),
    "tssim": Metric("tSSIM", "", True, 4, "structural similarity of the differences of consecutive frames"),
    "lpips": Metric("LPIPS", "", False, 4, "learned perceptual distance of each frame (AlexNet)"),
    "epe_px": Metric("EPE", "px", False, 4, "end-point error of the optical flow over all pixels"),
    "epe_moving_px": Metric("EPE moving", "px", False, 3, "the same over pixels that really move by more than 0.5 px"),
    "cosine": Metric("cos", "", True, 4, "cosine of the flows where both exceed 0.001 px (the paper's threshold)"),
    "cosine_half_px": Metric("cos 0.5", "", True, 4, "cosine of the flows where both exceed 0.5 px"),
    "cosine_moving": Metric(
        "cos moving", "", True, 4, "cosine where the real flow exceeds 0.5 px; a video that stands still scores about 0"
    ),
}
"""Everything that is measured, in the order of the tables."""


def squared_error(real_THW3: Image, generated_THW3: Image) -> Array:
    """Mean squared error of each frame [T], of values in 0..1."""
    _check(real_THW3, generated_THW3)
    apart = real_THW3.astype(np.int32) - generated_THW3
    squared: Array = np.square(apart).mean(axis=(1, 2, 3)) / 255.0**2
    return squared


def psnr(real_THW3: Image, generated_THW3: Image) -> Array:
    """Peak signal-to-noise ratio of each frame [T] in dB, ``PSNR_LIMIT_DB`` at most.

    Raises:
        MetricError: shapes differ, or not RGB uint8 [T, H, W, 3].
    """
    smallest = 10.0 ** (-PSNR_LIMIT_DB / 10.0)
    decibel: Array = -10.0 * np.log10(np.maximum(squared_error(real_THW3, generated_THW3), smallest))
    return decibel


def ssim(real_THW3: Image, generated_THW3: Image) -> Array:
    """Structural similarity of each frame [T]: mean over the colours and all windows that lie inside the picture.

    Raises:
        MetricError: as ``psnr``; frames smaller than the window.
    """
    _check(real_THW3, generated_THW3)
    pairs = zip(real_THW3, generated_THW3, strict=True)
    return np.array([_ssim(_unit(a), _unit(b)) for a, b in pairs], dtype=np.float64)


def tssim(real_THW3: Image, generated_THW3: Image) -> Array:
    """SSIM of the signed differences of consecutive frames [T - 1]; equal stillness scores 1.

    The constants are those of pictures with values in 0..1.

    Raises:
        MetricError: as ``ssim``.
    """
    _check(real_THW3, generated_THW3)
    scores = []
    for k in range(len(real_THW3) - 1):
        real = _unit(real_THW3[k + 1]) - _unit(real_THW3[k])
        generated = _unit(generated_THW3[k + 1]) - _unit(generated_THW3[k])
        scores.append(_ssim(real, generated))
    return np.array(scores, dtype=np.float64)


class Lpips:
    """Learned perceptual distance (Zhang et al. 2018), by the ``lpips`` package, which is not among our requirements.

    Raises:
        MetricError: the package is absent.
    """

    def __init__(self, device: str = "cpu") -> None:
        try:
            lpips = importlib.import_module("lpips")
        except ImportError as error:
            raise MetricError(
                "LPIPS needs the package 'lpips' and its AlexNet weights, which are not installed; "
                "install it (pip install lpips) or evaluate without LPIPS"
            ) from error
        self._network: Any = lpips.LPIPS(net="alex", verbose=False).to(device).eval()
        self._device = device

    def __call__(self, real_THW3: Image, generated_THW3: Image) -> Array:
        """Distance of each frame [T]."""
        import torch

        _check(real_THW3, generated_THW3)
        distances = []
        with torch.no_grad():
            for a, b in zip(real_THW3, generated_THW3, strict=True):
                pair = [torch.from_numpy(_unit(x)).permute(2, 0, 1)[None].to(self._device) * 2.0 - 1.0 for x in (a, b)]
                distances.append(float(self._network(*pair)))
        return np.array(distances, dtype=np.float64)


def _ssim(a_HW3: NDArray[np.float32], b_HW3: NDArray[np.float32]) -> float:
    mean_a, mean_b = _blur(a_HW3), _blur(b_HW3)
    variance_a = _blur(a_HW3 * a_HW3) - mean_a * mean_a
    variance_b = _blur(b_HW3 * b_HW3) - mean_b * mean_b
    covariance = _blur(a_HW3 * b_HW3) - mean_a * mean_b
    above = (2.0 * mean_a * mean_b + SSIM_C1) * (2.0 * covariance + SSIM_C2)
    below = (mean_a * mean_a + mean_b * mean_b + SSIM_C1) * (variance_a + variance_b + SSIM_C2)
    return float((above / below).mean())


def _blur(picture_HW3: NDArray[np.float32]) -> Array:
    """Gaussian means over the windows that lie inside the picture [H - 10, W - 10, 3], in double precision."""
    half = SSIM_WINDOW_PX // 2
    size = (SSIM_WINDOW_PX, SSIM_WINDOW_PX)
    blurred = cv2.GaussianBlur(picture_HW3.astype(np.float64), size, SSIM_SIGMA_PX)
    return np.asarray(blurred, dtype=np.float64)[half:-half, half:-half]


def _unit(picture_HW3: Image) -> NDArray[np.float32]:
    return picture_HW3.astype(np.float32) / np.float32(255.0)


def _check(real: Image, generated: Image) -> None:
    for name, frames in (("real", real), ("generated", generated)):
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
            raise MetricError(f"the {name} frames must be RGB uint8 [T, H, W, 3], got {frames.dtype} {frames.shape}")
    if real.shape != generated.shape:
        raise MetricError(
            f"real frames {real.shape} and generated frames {generated.shape} differ in shape; resize the real ones "
            "to the world model's size (by area) and compare equally many"
        )
    if min(real.shape[1:3]) < SSIM_WINDOW_PX:
        raise MetricError(
            f"frames of {real.shape[2]}x{real.shape[1]} px are smaller than the {SSIM_WINDOW_PX} px window"
        )
