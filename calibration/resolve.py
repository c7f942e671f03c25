"""Other people's hand-eye results judged on the poses they came from: easy_handeye2's samples, solved again.

A ``.samples`` file holds poses only (robot and board), no corners and no intrinsics, so errors are in millimetres and
degrees of the board's pose, never in pixels. ``X`` and ``Y`` as in ``calibration.hand_eye_types``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial.transform import Rotation

from calibration.camera import PinholeCamera
from calibration.closed_form import METHODS, ClosedFormFailed, closed_form, mean_pose
from calibration.easy_handeye import HandeyeParameters
from calibration.hand_eye_types import Array, Gate, GateLimits, HandEyeResult, Mode
from calibration.poses import inverse, transform
from calibration.record import Calibration
from calibration.tangent import local

T_BASE_BASE_LINK = transform((0.0, 0.0, 0.0), Rotation.from_euler("z", math.pi))
"""REP-103's ``base_link`` in the UR controller's ``base``."""
FOLDS = 5


class FrameError(ValueError):
    """Frames of a foreign calibration that have no known place in ours; names the frame and the next action."""


@dataclass(frozen=True)
class PoseError:
    """Root mean square over views of predicted against seen board pose; NaN where nothing could be predicted."""

    millimetres: float
    degrees: float


@dataclass(frozen=True)
class MethodRow:
    """One method on the samples: its ``X`` (None: no answer, see ``problem``) and its held-out error."""

    method: str
    X: Array | None
    held_out: PoseError
    problem: str = ""


def predict(T_base_tool: Array, mode: Mode, X: Array, Y: Array) -> Array:
    """``T_camera_board`` [4, 4] that X and Y foresee at a tool pose."""
    T: Array = inverse(X) @ (T_base_tool if mode == "eye_to_hand" else inverse(T_base_tool)) @ Y
    return T


def mount(T_base_tool: Array, T_camera_board: Array, mode: Mode, X: Array) -> Array:
    """``Y`` [4, 4] that one view implies for a given X."""
    T: Array = (inverse(T_base_tool) if mode == "eye_to_hand" else T_base_tool) @ X @ T_camera_board
    return T


def prediction_error(T_base_tool_N44: Array, T_camera_board_N44: Array, mode: Mode, X: Array) -> PoseError:
    """How well a given X explains poses: each view is predicted with the board's mount from all the others.

    It is a held-out error of X when X was not computed from these very poses.
    """
    views = list(zip(T_base_tool_N44, T_camera_board_N44, strict=True))
    mounts = [mount(T, C, mode, X) for T, C in views]
    errors = []
    for index, (T, C) in enumerate(views):
        others = mounts[:index] + mounts[index + 1 :]
        if others:
            errors.append(local(C, predict(T, mode, X, mean_pose(others))))
    return _rms(errors)


def compare_methods(T_base_tool_N44: Array, T_camera_board_N44: Array, mode: Mode) -> list[MethodRow]:
    """Every closed form on the poses, with its error on views it did not see (``FOLDS``-fold)."""
    return [_closed_form_row(T_base_tool_N44, T_camera_board_N44, mode, method) for method in METHODS]


def _closed_form_row(T_N44: Array, C_N44: Array, mode: Mode, method: str) -> MethodRow:
    nothing = PoseError(math.nan, math.nan)
    try:
        X, _ = closed_form(T_N44, C_N44, mode, method)
    except ClosedFormFailed as error:
        return MethodRow(method, None, nothing, str(error))
    try:
        held_out = held_out_error(T_N44, C_N44, mode, lambda T, C: closed_form(T, C, mode, method))
    except ClosedFormFailed as error:
        return MethodRow(method, X, nothing, f"with some views held out: {error}")
    return MethodRow(method, X, held_out)


def held_out_error(
    T_N44: Array, C_N44: Array, mode: Mode, fit: Callable[[Array, Array], tuple[Array, Array]]
) -> PoseError:
    """Error of ``fit(T_base_tool, T_camera_board) -> (X, Y)`` on the views left out of it, in turn."""
    count = len(T_N44)
    errors = []
    for fold in range(min(FOLDS, count)):
        left_out = np.arange(count) % FOLDS == fold
        X, Y = fit(T_N44[~left_out], C_N44[~left_out])
        errors += [local(C, predict(T, mode, X, Y)) for T, C in zip(T_N44[left_out], C_N44[left_out], strict=True)]
    return _rms(errors)


def check(
    X: Array, result: HandEyeResult, T_base_tool_N44: Array, T_camera_board_N44: Array, limits: GateLimits
) -> tuple[Gate, ...]:
    """Gates for somebody else's X, with our solution of the same poses as the yardstick.

    Its error is taken as its distance from ours combined with the uncertainty of ours, and must meet the limit that
    our own results must meet; it must also predict the views as well as ours has to.
    """
    off = local(result.X, X)
    off_mm, off_deg = 1e3 * float(np.linalg.norm(off[:3])), math.degrees(float(np.linalg.norm(off[3:])))
    seen = prediction_error(T_base_tool_N44, T_camera_board_N44, result.mode, X)
    ours = "the joint solution, which is itself uncertain by"
    entries = (
        ("position", off_mm, result.sigma_mm, limits.sigma_mm, f"{off_mm:.2f} mm from {ours} {result.sigma_mm:.2f} mm"),
        ("rotation", off_deg, result.sigma_deg, limits.sigma_deg,
         f"{off_deg:.3f} deg from {ours} {result.sigma_deg:.3f} deg"),
        ("predicted_mm", seen.millimetres, 0.0, limits.held_out_mm, "error of the board's position it predicts"),
        ("predicted_deg", seen.degrees, 0.0, limits.held_out_deg, "error of the board's orientation it predicts"),
    )  # fmt: skip
    return tuple(_gate(*entry) for entry in entries)


def _gate(name: str, error: float, uncertainty: float, limit: float, reason: str) -> Gate:
    value = math.hypot(error, uncertainty)
    if value <= limit:
        return Gate(name, True, value, limit, reason)
    if uncertainty > error:
        action = "these samples cannot tell better: take more of them, more different ones"
    else:
        action = "use the re-solved transform instead"
    return Gate(name, False, value, limit, f"{reason}; {action}")


def to_house_frames(
    result: HandEyeResult, parameters: HandeyeParameters, T_effector_tcp: Array | None = None
) -> HandEyeResult:
    """The same result in our frames: ``base`` for the robot's base, the TCP for the tool.

    Args:
        parameters: names the frames the samples were taken in. The robot's base must be called ``base`` or
            ``base_link``, the camera must be an optical frame; a prefix does not matter.
        T_effector_tcp: the TCP in the effector frame; None when they are the same frame.

    Raises:
        FrameError: a frame whose relation to ours is not known.
    """
    base, camera = parameters.robot_base_frame, parameters.tracking_base_frame
    if not camera.endswith("optical_frame"):
        raise FrameError(
            f"the camera's frame is {camera!r}, whose axes and origin may not be those of the image; take the samples "
            "in an optical frame (camera_color_optical_frame), or name it with --camera-frame if it is one"
        )
    if base.endswith("base_link"):
        T_base = T_BASE_BASE_LINK
    elif base.endswith("base"):
        T_base = np.eye(4)
    else:
        raise FrameError(f"the robot's base frame is {base!r}; say with --base-frame whether it is base or base_link")
    T_tcp_effector = np.eye(4) if T_effector_tcp is None else inverse(T_effector_tcp)
    if result.mode == "eye_to_hand":
        return replace(result, X=T_base @ result.X, Y=T_tcp_effector @ result.Y)
    return replace(result, X=T_tcp_effector @ result.X, Y=T_base @ result.Y)


def to_calibration(result: HandEyeResult, camera: PinholeCamera, camera_serial: str, created_by: str) -> Calibration:
    """A calibration file's content from a result in our frames and the camera's intrinsics."""
    return Calibration.from_result(result, camera, camera_serial=camera_serial, created_by=created_by)


def _rms(errors: list[Array]) -> PoseError:
    if not errors:
        return PoseError(math.nan, math.nan)
    stack = np.array(errors)
    metres = math.sqrt(float(np.mean(np.sum(stack[:, :3] ** 2, axis=1))))
    radians = math.sqrt(float(np.mean(np.sum(stack[:, 3:] ** 2, axis=1))))
    return PoseError(1e3 * metres, math.degrees(radians))
