"""How far a camera has moved, from where things appear now and where they should: the arithmetic of the drift checks.

A shift ``delta_6 = [dt (3) m, dr (3) rad]`` moves the camera in its own optical frame:
``T_base_camera_now = T_base_camera @ [exp(dr) | dt]``. Image displacements are pixels now minus pixels expected.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from scipy.stats import chi2

from calibration.camera import PinholeCamera
from calibration.poses import inverse, transform

Array = NDArray[np.float64]

Verdict = Literal["still", "moved", "unknown"]

PRIOR_SIGMA_6 = np.array([0.03] * 3 + [np.radians(2.0)] * 3)
"""Only keeps directions that the image cannot tell apart from growing without bound."""


@dataclass(frozen=True)
class DriftLimits:
    """When a shift counts as one.

    ``pixels``: smaller rms displacements of the working area are tolerated. ``false_alarm``: chance of calling noise
    a shift, by the estimated uncertainty. ``sigma_fraction``: an uncertainty above this part of ``pixels`` is
    too large for calling the camera still.
    """

    pixels: float = 0.3
    false_alarm: float = 1e-4
    sigma_fraction: float = 0.7


@dataclass(frozen=True)
class Shift:
    """An estimated camera shift with covariance, from ``used`` pieces of evidence."""

    delta_6: Array
    covariance_66: Array
    used: int


@dataclass(frozen=True)
class DriftReport:
    """Answer of a drift check; ``str()`` gives one line for an operator.

    ``pixels``: rms displacement over the working points; ``millimetres``: the same at their distance;
    ``sigma_*``: one standard deviation of these under no motion; ``offset_px`` [2]: mean displacement;
    ``millimetres_moved`` and ``degrees_moved``: size of the camera's own translation and rotation, which an image
    tells apart badly (a small turn looks like a small step).
    """

    verdict: Verdict
    source: str
    pixels: float
    millimetres: float
    sigma_px: float
    sigma_mm: float
    offset_px: tuple[float, float]
    delta_6: Array
    covariance_66: Array
    used: int
    reason: str

    @property
    def moved(self) -> bool:
        """True when the camera stands elsewhere than at its calibration."""
        return self.verdict == "moved"

    @property
    def millimetres_moved(self) -> float:
        """Length of the camera's translation."""
        return float(1e3 * np.linalg.norm(self.delta_6[:3]))

    @property
    def degrees_moved(self) -> float:
        """Angle of the camera's rotation."""
        return float(np.degrees(np.linalg.norm(self.delta_6[3:])))

    def __str__(self) -> str:
        return f"{self.source}: {self.reason}"


def shifted(camera: PinholeCamera, delta_6: Array) -> PinholeCamera:
    """The camera after a shift."""
    step = transform(delta_6[:3], Rotation.from_rotvec(delta_6[3:]))
    return replace(camera, T_camera_base=inverse(step) @ camera.T_camera_base)


def shift_jacobian(camera: PinholeCamera, points_base_N3: Array) -> Array:
    """Derivative [N, 2, 6] of the pixels of base-frame points by the camera's shift (central differences)."""
    points = np.asarray(points_base_N3, dtype=np.float64).reshape(-1, 3)
    J = np.empty((len(points), 2, 6))
    for i in range(6):
        step = np.zeros(6)
        step[i] = 1e-5
        forward, _ = shifted(camera, step).project(points)
        backward, _ = shifted(camera, -step).project(points)
        J[:, :, i] = (forward - backward) / 2e-5
    return J


def combine(first: Shift, second: Shift) -> tuple[Shift, float]:
    """Information-weighted mean of two independent estimates, and the probability of a larger disagreement by chance.

    Both contain the prior once; the mean contains it once too.
    """
    prior = np.diag(PRIOR_SIGMA_6**-2)
    information = [np.linalg.inv(shift.covariance_66) for shift in (first, second)]
    covariance = np.linalg.inv(information[0] + information[1] - prior)
    delta = covariance @ (information[0] @ first.delta_6 + information[1] @ second.delta_6)
    difference = first.delta_6 - second.delta_6
    # Directions known to neither agree by the prior alone and say nothing.
    distance = difference @ np.linalg.solve(first.covariance_66 + second.covariance_66, difference)
    return Shift(delta, covariance, first.used + second.used), float(chi2.sf(distance, 6))


def judge(
    shift: Shift, camera: PinholeCamera, working_points_N3: Array, limits: DriftLimits, source: str, advice: str
) -> DriftReport:
    """Turn an estimate into pixels and millimetres at the working points, and into a verdict.

    The squared rms displacement is a quadratic form of the shift; under no motion it follows, closely enough, a scaled
    chi-square of the same mean and variance (Satterthwaite), which gives the false-alarm level.
    """
    J = shift_jacobian(camera, working_points_N3)
    _, depth = camera.project(working_points_N3)
    G = np.einsum("nki,nkj->ij", J, J) / len(J)
    pixels = float(np.sqrt(max(shift.delta_6 @ G @ shift.delta_6, 0.0)))
    GC = G @ shift.covariance_66
    mean, variance = float(np.trace(GC)), 2.0 * float(np.trace(GC @ GC))
    sigma = float(np.sqrt(mean))
    noise_limit = np.sqrt(variance / (2.0 * mean) * chi2.isf(limits.false_alarm, 2.0 * mean**2 / variance))
    mm_per_px = float(1e3 * np.median(depth) / np.sqrt(camera.fx * camera.fy))
    offset = np.mean(J @ shift.delta_6, axis=0)
    figures = (
        f"{pixels:.2f} px +- {sigma:.2f} ({mm_per_px * pixels:.1f} mm at {np.median(depth):.2f} m), "
        f"limit {limits.pixels:.2f} px"
    )
    verdict: Verdict
    if pixels > max(limits.pixels, noise_limit):
        verdict, reason = "moved", f"the image is displaced by {figures}; {advice}"
    elif sigma > limits.sigma_fraction * limits.pixels:
        verdict, reason = "unknown", f"displacement {figures}: too uncertain for calling the camera still"
    else:
        verdict, reason = "still", f"displacement {figures}"
    return DriftReport(
        verdict, source, pixels, mm_per_px * pixels, sigma, mm_per_px * sigma, (float(offset[0]), float(offset[1])),
        shift.delta_6, shift.covariance_66, shift.used, reason,
    )  # fmt: skip
