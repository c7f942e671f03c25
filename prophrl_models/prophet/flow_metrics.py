"""The paper's optical-flow protocol: does the generated video move as the real one does?

Flow between consecutive grey frames by Farneback's method with the published parameters (design specification 8). In
each pair u is the real flow, v the generated one (pixels per frame):

end-point error   mean of |u - v| over all pixels; over really moving pixels, too, for the still background, which is
                  most of the picture, hides what the arm does
cosine            mean of <u, v> / (|u| |v| + 1e-6) over moving pixels; pairs without any are left out (NaN)

A pixel moves, in the paper's sense, when |u| and |v| both exceed 0.001 px. That lets compression noise of the
background in, so a threshold of 0.5 px is reported as well. Both leave a model that shows no motion at all unpunished;
``cosine_moving`` asks only that the real pixel moves by 0.5 px, and where the generated one stays within 0.001 px its
cosine is 0. Farneback's method invents a little motion at the edges of the picture even between equal frames (some
tenths of a pixel), so standing still scores near 0, not 0.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from prophrl_models.data.image import Image
from prophrl_models.prophet.metrics import Array, MetricError

PAPER_THRESHOLD_PX = 1e-3
MOTION_THRESHOLD_PX = 0.5
_EPSILON = 1e-6

Flow = NDArray[np.float32]


def farneback(frames_THW3: Image) -> Flow:
    """Optical flow between consecutive frames [T - 1, H, W, 2] in pixels, x then y.

    Raises:
        MetricError: not RGB uint8 [T, H, W, 3].
    """
    if frames_THW3.ndim != 4 or frames_THW3.shape[-1] != 3 or frames_THW3.dtype != np.uint8:
        raise MetricError(f"flow needs RGB uint8 [T, H, W, 3], got {frames_THW3.dtype} {frames_THW3.shape}")
    grey = [cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in frames_THW3]
    flow: Flow = np.zeros((max(len(grey) - 1, 0), *frames_THW3.shape[1:3], 2), np.float32)
    for k in range(len(flow)):
        flow[k] = cv2.calcOpticalFlowFarneback(
            grey[k],
            grey[k + 1],
            np.zeros((*frames_THW3.shape[1:3], 2), np.float32),
            pyr_scale=0.5,
            levels=3,
            winsize=15,
            iterations=3,
            poly_n=5,
            poly_sigma=1.2,
            flags=0,
        )
    return flow


def compare_flow(real_PHW2: Flow, generated_PHW2: Flow) -> dict[str, Array]:
    """Scores of P pairs of frames, each [P]; the names are those of ``metrics.METRICS``.

    Returns:
        ``epe_px`` (never NaN), ``epe_moving_px``, ``cosine``, ``cosine_half_px``, ``cosine_moving``; NaN where no pixel
        of the pair counts.

    Raises:
        MetricError: shapes differ, or not [P, H, W, 2].
    """
    if real_PHW2.shape != generated_PHW2.shape or real_PHW2.ndim != 4 or real_PHW2.shape[-1] != 2:
        raise MetricError(f"flows must both be [P, H, W, 2], got {real_PHW2.shape} and {generated_PHW2.shape}")
    real, generated = real_PHW2.astype(np.float64), generated_PHW2.astype(np.float64)
    error = np.linalg.norm(real - generated, axis=-1)
    length_u, length_v = np.linalg.norm(real, axis=-1), np.linalg.norm(generated, axis=-1)
    cosine = (real * generated).sum(axis=-1) / (length_u * length_v + _EPSILON)
    moves, shown = length_u > MOTION_THRESHOLD_PX, length_v > PAPER_THRESHOLD_PX
    return {
        "epe_px": error.mean(axis=(1, 2)),
        "epe_moving_px": _mean_where(error, moves),
        "cosine": _mean_where(cosine, (length_u > PAPER_THRESHOLD_PX) & shown),
        "cosine_half_px": _mean_where(cosine, moves & (length_v > MOTION_THRESHOLD_PX)),
        "cosine_moving": _mean_where(np.where(shown, cosine, 0.0), moves),
    }


def _mean_where(values_PHW: Array, counts_PHW: NDArray[np.bool_]) -> Array:
    """Mean over the pixels that count [P]; NaN where none does."""
    number = counts_PHW.sum(axis=(1, 2))
    total = np.where(counts_PHW, values_PHW, 0.0).sum(axis=(1, 2))
    mean: Array = np.divide(total, number, out=np.full(len(values_PHW), np.nan), where=number > 0)
    return mean
