"""What goes into a hand-eye calibration and what comes out: samples, settings, gates, result.

Frames: ``base`` is the UR controller's base, ``tool`` the frame whose pose the robot reports, ``camera`` the optical
frame (z forward), ``board`` the frame of the corner coordinates. With X and Y named after the mode:

    eye_to_hand   camera fixed in base, board on the tool:   X = T_base_camera, Y = T_tool_board
    eye_in_hand   camera on the tool, board fixed in base:   X = T_tool_camera, Y = T_base_board

The tangent of every pose covariance [6, 6] is ``[dt (m), dr (rad)]``, applied on the right:
``T = T_estimate @ [exp(dr) | dt]``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from calibration.camera import PinholeCamera

Array = NDArray[np.float64]
Mode = Literal["eye_to_hand", "eye_in_hand"]
MODES: tuple[Mode, ...] = ("eye_to_hand", "eye_in_hand")


class DegenerateSamples(ValueError):
    """Samples from which no calibration follows; ``reasons`` tells each reason with the next action."""

    def __init__(self, reasons: Sequence[str]) -> None:
        self.reasons = tuple(reasons)
        super().__init__("; ".join(self.reasons))


@dataclass(frozen=True)
class HandEyeSample:
    """One view: the tool pose the robot reported while the camera saw these corners.

    ``ids_N`` index the rows of the board's corner coordinates; ``corners_px_N2`` are raw (distorted) pixels.
    """

    T_base_tool: Array
    ids_N: NDArray[np.int32]
    corners_px_N2: Array
    stamp_ns: int = 0


@dataclass(frozen=True)
class GateLimits:
    """Limits of the gates. The defaults are what a cell with the default board and 12-15 poses passes easily."""

    views: int = 8
    rotation_spread_deg: float = 8.0
    translation_spread_m: float = 0.04
    image_coverage: float = 0.3
    corner_noise_px: float = 1.0
    robot_noise_m: float = 0.001
    robot_noise_rad: float = math.radians(0.25)
    board_scale: float = 0.01
    held_out_px: float = 2.5
    held_out_mm: float = 4.0
    held_out_deg: float = 1.5
    fold_spread_mm: float = 2.5
    sigma_mm: float = 2.0
    sigma_deg: float = 0.25
    removed_fraction: float = 0.2


@dataclass(frozen=True)
class HandEyeSettings:
    """Noise the solver expects, what it may refine, and the gates.

    The sigmas are per axis and act as lower bounds: where the residuals show more noise than that, the solver raises
    them (``estimate_noise``) and the covariance grows accordingly; it never becomes more certain than these.
    """

    corner_sigma_px: float = 0.3
    robot_sigma_m: float = 0.0002
    robot_sigma_rad: float = math.radians(0.05)
    estimate_noise: bool = True
    refine_intrinsics: bool = False
    focal_sigma_fraction: float = 0.005
    centre_sigma_px: float = 3.0
    huber_sigmas: float = 3.0
    held_out_folds: int = 5
    minimum_corners: int = 6
    camera_sigma_m: float = 0.001
    """Board position noise of ``solve_poses`` (no corners there to tell); raised like the others."""
    camera_sigma_rad: float = math.radians(0.2)
    gates: GateLimits = field(default_factory=GateLimits)

    def __post_init__(self) -> None:
        sigmas = (self.corner_sigma_px, self.robot_sigma_m, self.robot_sigma_rad, self.camera_sigma_m)
        if min(*sigmas, self.camera_sigma_rad, self.focal_sigma_fraction, self.centre_sigma_px) <= 0.0:
            raise ValueError("every sigma of HandEyeSettings must be positive; a tiny one switches a noise source off")
        if self.held_out_folds < 2:
            raise ValueError(f"held_out_folds is {self.held_out_folds}; a held-out error needs 2 or more")


@dataclass(frozen=True)
class HeldOut:
    """Prediction error of views that took no part in the solve they are compared with (k-fold, RMS).

    Predictions use the tool pose as the robot reported it, so this contains the robot's own error, as every later use
    of the calibration will. Pixels per corner; millimetres across the line of sight at the corner's depth (for
    ``solve_poses`` in three dimensions); degrees between the predicted board attitude and the one seen in that view
    alone, which is the noisiest of the three. NaN when there are too few views to hold any out.
    """

    pixels_rms: float
    millimetres_rms: float
    degrees_rms: float


@dataclass(frozen=True)
class Gate:
    """One check of a result: its figure, the limit, and in ``reason`` what the figure means and what to do next."""

    name: str
    passed: bool
    value: float
    limit: float
    reason: str


@dataclass(frozen=True)
class NoiseLevels:
    """Per-axis noise found in the residuals, never below the settings."""

    observation: tuple[float, ...]
    """Corners: (pixels,). Poses: (metres, radians) of the board pose seen by the camera."""
    robot_m: float
    robot_rad: float


@dataclass(frozen=True)
class HandEyeResult:
    """A hand-eye calibration with everything needed to judge it.

    ``camera`` keeps the pose it came with in eye_in_hand; in eye_to_hand it carries the solved ``T_camera_base``.
    Lists per sample have one entry per sample handed in, also for those in ``removed`` (index, reason), whose
    corrections are NaN.
    """

    X: Array
    Y: Array
    covariance_X_66: Array
    covariance_Y_66: Array
    camera: PinholeCamera | None
    mode: Mode
    held_out: HeldOut
    training_rms_px: float
    per_sample_rms_px: Array
    robot_corrections_N6: Array
    closed_forms: dict[str, Array | None]
    gates: tuple[Gate, ...]
    noise: NoiseLevels
    board_scale: float
    """Size of the board that fits the robot's motion best, relative to the size given (1 = as given)."""
    board_scale_sigma: float
    fold_spread_mm: float
    """Jackknife sigma of X's position from the folds of the held-out test; NaN without folds."""
    removed: tuple[tuple[int, str], ...] = ()

    @property
    def accepted(self) -> bool:
        """All gates passed."""
        return all(gate.passed for gate in self.gates)

    @property
    def failures(self) -> tuple[Gate, ...]:
        """The gates that did not pass."""
        return tuple(gate for gate in self.gates if not gate.passed)

    @property
    def sigma_mm(self) -> float:
        """Expected distance of X's origin from the truth: root of the trace of its position covariance."""
        return float(1e3 * math.sqrt(np.trace(self.covariance_X_66[:3, :3])))

    @property
    def sigma_deg(self) -> float:
        """Expected rotation between X and the truth: root of the trace of its rotation covariance."""
        return float(math.degrees(math.sqrt(np.trace(self.covariance_X_66[3:, 3:]))))

    @property
    def T_base_camera(self) -> Array:
        """Pose of a fixed camera; eye_to_hand only, since a camera on the tool has none of its own."""
        if self.mode != "eye_to_hand":
            raise ValueError(
                "a camera on the tool has no fixed T_base_camera; use X (T_tool_camera) with the tool pose"
            )
        return self.X
