"""The camera shift that explains where many small pieces of image are found, over several frames.

Each piece is compared with its frame where it is predicted, the shift so far included. Gauss-Newton moves the shift;
pieces that look different or disagree with the others lose their weight; the covariance is taken from how much whole
frames disagree, since the pieces of one frame share its errors.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from calibration.camera_shift import PRIOR_SIGMA_6, Shift
from calibration.patches import Grey, Patches, match
from calibration.robot_reference import RobotDriftSettings

Array = NDArray[np.float64]

Row = tuple[int, list[Patches], Array, Array, Array, Array]
"""Frame, pieces by level of blur, centres [M, 2], maps [M, 2, 2], derivative by the shift [M, 2, 6], doubt [M] px."""

BLUR_PX = (2.5, 0.8)
"""Coarse pass, which finds shifts of several pixels, and fine pass."""
_ROUNDS = (6, 5)
_SETTLED_PX = 0.005
_SEARCH_PX, _SEARCH_STEP_PX = 32, 4
"""Shifts up to this size are sought before the coarse pass."""
_SEARCHED = 100
"""About so many pieces take part in that search."""
_CLEARLY_BETTER = 0.05
_NOISE = 0.02
"""Typical variance of normalised grey values between a piece and its image: sets doubt in pixels against it."""


class ShiftFit:
    """Pieces of one kind, and the fit of a shift to them.

    Args:
        grey: frames, each by level of blur.
        working_J: derivative [W, 2, 6] of the pixels of the working points by the shift.
    """

    def __init__(self, grey: list[list[Grey]], working_J: Array, settings: RobotDriftSettings) -> None:
        self._grey, self._working_J, self._settings = grey, working_J, settings
        self.rows: list[Row] = []

    def add(self, row: Row) -> None:
        """Add pieces sought in one frame."""
        if len(row[2]):
            self.rows.append(row)

    @property
    def count(self) -> int:
        """Pieces in all frames."""
        return sum(len(row[2]) for row in self.rows)

    def solve(self) -> Shift:
        """Gauss-Newton over all pieces and frames; pieces that disagree lose weight, covariance counts by frames."""
        prior = np.diag(PRIOR_SIGMA_6**-2)
        delta = np.zeros(6)
        if self.count < self._settings.min_pieces:
            return Shift(delta, np.diag(PRIOR_SIGMA_6**2), self.count)
        delta = self._far_start()
        for level, rounds in enumerate(_ROUNDS):
            for _ in range(rounds):
                found = [self._evidence(row, level, delta) for row in self.rows]
                H, b, used = (np.concatenate(part) for part in zip(*found, strict=True))
                step, _, weight = _robust(H, b, used, prior, delta)
                delta = delta + step
                if rms(self._working_J @ step) < _SETTLED_PX:
                    break
        found = [self._evidence(row, len(BLUR_PX) - 1, delta) for row in self.rows]
        H, b, used = (np.concatenate(part) for part in zip(*found, strict=True))
        step, scale, weight = _robust(H, b, used, prior, delta)
        delta = delta + step
        frame = np.concatenate([np.full(len(part[0]), row[0]) for part, row in zip(found, self.rows, strict=True)])
        JHJ, JHb = _reduced(H, b, weight)
        information = JHJ.sum(axis=0) / scale + prior
        bread = np.linalg.inv(information)
        score = JHb - np.einsum("mij,j->mi", JHJ, step)
        sums = np.stack([score[frame == t].sum(axis=0) for t in np.unique(frame)]) / scale
        meat = sums.T @ sums * len(sums) / max(len(sums) - 1, 1)
        J = np.concatenate([row[4] for row in self.rows])
        common = np.linalg.inv(6.0 * np.einsum("mki,mkj->ij", J, J) / len(J) / self._settings.systematic_px**2 + prior)
        return Shift(delta, bread @ meat @ bread + bread + common, int((weight > 0.3).sum()))

    def _far_start(self) -> Array:
        """The turn of the camera that suits the blurred pieces best, if clearly better than none: for large shifts."""
        every = max(1, self.count // _SEARCHED)
        sparse = []
        for t, levels, centres, affine, _, _ in self.rows:
            keep = np.zeros(len(centres), dtype=bool)
            keep[t % every :: every] = True
            if keep.any():
                sparse.append((t, levels[0].chosen(keep), centres[keep], affine[keep]))
        if not sparse:
            return np.zeros(6)
        steps = np.arange(-_SEARCH_PX, _SEARCH_PX + 1, _SEARCH_STEP_PX, dtype=np.float64)
        offsets = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)

        def likeness(offset: Array) -> float:
            found = [match(p, self._grey[t][0], at + offset, turn).similarity_M for t, p, at, turn in sparse]
            return float(np.mean(np.clip(np.concatenate(found), 0.0, 1.0)))

        scores = np.array([likeness(offset) for offset in offsets])
        best = int(np.argmax(scores))
        if scores[best] < scores[len(offsets) // 2] + _CLEARLY_BETTER:
            return np.zeros(6)
        turn = np.linalg.solve(self._working_J[:, :, 3:5].mean(axis=0), offsets[best])
        return np.array([0.0, 0.0, 0.0, turn[0], turn[1], 0.0])

    def _evidence(self, row: Row, level: int, delta: Array) -> tuple[Array, Array, NDArray[np.bool_]]:
        """Whitened rows: [M, 2, 6] and [M, 2] of each piece's own least-squares system, and which ones look alike."""
        t, levels, centres, affine, J, doubt = row
        found = match(levels[level], self._grey[t][level], centres + J @ delta, affine)
        # Doubt about the predicted place acts in both directions alike, the image's own through the Hessian (in units
        # of the residual of normalised grey values, which the robust scale sets).
        values, vectors = np.linalg.eigh(found.hessian_M22)
        values = np.maximum(values, 1e-9)
        root = np.sqrt(1.0 / (1.0 / values + (doubt[:, None] ** 2) / _NOISE))
        turned = vectors.transpose(0, 2, 1)
        d = (turned @ found.right_M2[:, :, None])[:, :, 0] / values
        return (root[:, :, None] * turned) @ J, root * d, found.similarity_M > self._settings.min_similarity


def _robust(A: Array, b: Array, used: NDArray[np.bool_], prior: Array, delta: Array) -> tuple[Array, float, Array]:
    """Step, variance scale and weights [M] of Cauchy-weighted least squares A [M, 2, 6] step = b [M, 2]."""
    rows, flat = A.reshape(-1, 6), b.ravel()
    weight = used.astype(np.float64)
    step = np.zeros(6)
    scale = 1.0
    for _ in range(6):
        residual = b - A @ step
        square = np.sum(residual**2, axis=1)
        if used.any():
            scale = max(float(np.median(square[used])) / 1.386, 1e-6)
        weight = used / (1.0 + square / (6.0 * scale))
        heavy = rows * np.repeat(weight, 2)[:, None]
        step = np.linalg.solve(heavy.T @ rows / scale + prior, heavy.T @ flat / scale - prior @ delta)
    return step, scale, weight


def _reduced(A: Array, b: Array, weight: Array) -> tuple[Array, Array]:
    return np.einsum("m,mki,mkj->mij", weight, A, A), np.einsum("m,mki,mk->mi", weight, A, b)


def rms(values: Array) -> float:
    """Root of the mean square length of vectors [..., D]; NaN when one of them is."""
    with np.errstate(invalid="ignore"):
        return float(np.sqrt(np.mean(np.sum(values**2, axis=-1))))
