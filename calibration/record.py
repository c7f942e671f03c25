"""What one hand-eye calibration leaves behind: camera, place, how certain, how well checked, on which devices.

Two set-ups. ``eye_to_hand``: the camera stands fixed in the robot's base frame (``T_base_camera``) and the board rides
on the tool (``T_tool_board``). ``eye_in_hand``: the camera rides on the tool (``T_tool_camera``) and the board lies
fixed (``T_base_board``). ``tool`` is the frame whose pose the robot reports (TCP), ``camera`` the optical frame (z
forward), ``board`` OpenCV's board frame. Metres and radians throughout unless a name says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from calibration.camera import PinholeCamera
from calibration.hand_eye_types import MODES, Array, HandEyeResult, Mode
from calibration.poses import inverse


@dataclass(frozen=True)
class HeldOutError:
    """Error on views the solution did not see, root mean square (see ``HeldOut``); NaN for what is not known."""

    pixels: float
    millimetres: float
    degrees: float


@dataclass(frozen=True)
class GripperScale:
    """Position counts of the gripper at its two ends; between them the opening is linear."""

    closed_count: int
    open_count: int

    def __post_init__(self) -> None:
        if self.closed_count == self.open_count:
            raise ValueError(f"the gripper's two ends have the same count {self.open_count}; measure them again")

    def opening(self, counts: ArrayLike) -> Array:
        """Opening fraction, 0 closed ... 1 open, of position counts; clipped to that range."""
        span = self.open_count - self.closed_count
        return np.clip((np.asarray(counts, dtype=np.float64) - self.closed_count) / span, 0.0, 1.0)


@dataclass(frozen=True, eq=False)
class Calibration:
    """One hand-eye calibration; ``calibration.storage`` reads and writes it.

    Attributes:
        camera: intrinsics of the image the camera delivers; its pose is ``T_base_camera`` in ``eye_to_hand`` and
            means nothing in ``eye_in_hand`` (see ``camera_at``).
        camera_serial, robot_serial, leader_serial: of the devices; empty when unknown.
        mode: where the camera is, see the module's docstring.
        T_base_camera: [4, 4] in ``eye_to_hand`` (taken from the camera when left out), None in ``eye_in_hand``.
        T_tool_camera: [4, 4], required in ``eye_in_hand``, None in ``eye_to_hand``.
        T_tool_board, T_base_board: [4, 4] the mount of the board, one of them by mode; None when not known.
        covariance_66: of ``X``; tangent [dt (3) m, dr (3) rad] applied as ``X @ [exp(dr) | dt]``; None when not known.
        held_out: see ``HeldOutError``; None when nobody measured it.
        sigma_mm, sigma_deg: how uncertain ``X`` is, in position and in orientation; None when not known.
        board: the board's description, as ``Board.to_dict`` gives it.
        failed_gates: names of the checks it did not pass and was kept in spite of; empty for a good one.
        samples: number of views behind it.
        gripper: scale of the gripper's counts, when it was calibrated along.
        created_by: the tool and its method.
        id, date: content hash (12 hex digits) and ISO 8601 time; empty until the file is written or read.
    """

    camera: PinholeCamera
    camera_serial: str
    mode: Mode = "eye_to_hand"
    T_base_camera: Array | None = None
    T_tool_camera: Array | None = None
    T_tool_board: Array | None = None
    T_base_board: Array | None = None
    covariance_66: Array | None = None
    held_out: HeldOutError | None = None
    sigma_mm: float | None = None
    sigma_deg: float | None = None
    board: Mapping[str, Any] = field(default_factory=dict)
    failed_gates: tuple[str, ...] = ()
    samples: int = 0
    robot_serial: str = ""
    leader_serial: str = ""
    gripper: GripperScale | None = None
    created_by: str = ""
    id: str = ""
    date: str = ""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"unknown mode {self.mode!r}; choose one of {', '.join(MODES)}")
        if (self.mode == "eye_in_hand") != (self.T_tool_camera is not None):
            raise ValueError(f"T_tool_camera belongs to eye_in_hand and to nothing else; the mode is {self.mode}")
        if self.mode == "eye_to_hand" and self.T_base_camera is None:
            object.__setattr__(self, "T_base_camera", self.camera.T_base_camera)
        for name in ("T_base_camera", "T_tool_camera", "T_tool_board", "T_base_board"):
            if getattr(self, name) is not None:
                check_rigid(name, getattr(self, name))
        if self.T_base_camera is not None:
            if self.mode == "eye_in_hand":
                raise ValueError("a camera on the tool has no T_base_camera; leave it out")
            if not np.allclose(self.T_base_camera, self.camera.T_base_camera, atol=1e-6):
                raise ValueError("T_base_camera and the camera's own pose differ; give one of them only")
        if self.covariance_66 is not None:
            _check_covariance(self.covariance_66)

    @classmethod
    def from_solution(
        cls,
        camera: PinholeCamera,
        mode: Mode,
        X: Array,
        Y: Array | None,
        *,
        camera_serial: str,
        **details: Any,
    ) -> Calibration:
        """From what a hand-eye solver found.

        Args:
            camera: intrinsics; its pose is ignored.
            X: ``T_base_camera`` (eye_to_hand) or ``T_tool_camera`` (eye_in_hand) [4, 4].
            Y: ``T_tool_board`` (eye_to_hand) or ``T_base_board`` (eye_in_hand) [4, 4]; None when not known.
            details: further attributes of this class.
        """
        if mode == "eye_in_hand":
            placed = replace(camera, T_camera_base=np.eye(4))
            return cls(placed, camera_serial, mode, T_tool_camera=X, T_base_board=Y, **details)
        placed = replace(camera, T_camera_base=inverse(X))
        return cls(placed, camera_serial, mode, T_base_camera=X, T_tool_board=Y, **details)

    @classmethod
    def from_result(
        cls, result: HandEyeResult, camera: PinholeCamera, *, camera_serial: str, **details: Any
    ) -> Calibration:
        """From the solver's result, with its covariance, held-out error and failed gates.

        Args:
            camera: intrinsics, used when the result has none (``solve_poses``); its pose is ignored.
            details: further attributes: ``board``, ``robot_serial``, ``created_by`` ...
        """
        found = {
            "covariance_66": result.covariance_X_66,
            "held_out": HeldOutError(
                result.held_out.pixels_rms, result.held_out.millimetres_rms, result.held_out.degrees_rms
            ),
            "sigma_mm": result.sigma_mm,
            "sigma_deg": result.sigma_deg,
            "failed_gates": tuple(gate.name for gate in result.failures),
            "samples": len(result.per_sample_rms_px) - len(result.removed),
        }
        intrinsics = result.camera or camera
        return cls.from_solution(
            intrinsics, result.mode, result.X, result.Y, camera_serial=camera_serial, **(found | details)
        )

    @property
    def serial(self) -> str:
        """Serial number of the camera, under the name older files give it."""
        return self.camera_serial

    @property
    def X(self) -> Array:
        """The pose that was looked for [4, 4]: ``T_base_camera`` (eye_to_hand) or ``T_tool_camera`` (eye_in_hand)."""
        X = self.T_base_camera if self.T_tool_camera is None else self.T_tool_camera
        assert X is not None  # by __post_init__
        return X

    @property
    def Y(self) -> Array | None:
        """The board's mount [4, 4]: ``T_tool_board`` (eye_to_hand) or ``T_base_board`` (eye_in_hand), if known."""
        return self.T_tool_board if self.mode == "eye_to_hand" else self.T_base_board

    def camera_at(self, T_base_tool: Array) -> PinholeCamera:
        """The camera with its pose while the tool is at ``T_base_tool`` [4, 4]; fixed cameras do not care."""
        if self.T_tool_camera is None:
            return self.camera
        return replace(self.camera, T_camera_base=inverse(T_base_tool @ self.T_tool_camera))


def check_rigid(name: str, T: Array) -> None:
    """Refuse what is no rigid transform.

    Raises:
        ValueError: wrong shape, values not finite, or a rotation that is not orthonormal and right-handed.
    """
    if T.shape != (4, 4) or not np.isfinite(T).all():
        raise ValueError(f"{name} must be 4x4 finite numbers, got shape {T.shape}")
    R = T[:3, :3]
    if not np.allclose(R @ R.T, np.eye(3), atol=1e-6) or np.linalg.det(R) < 0.0:
        raise ValueError(f"the rotation in {name} is not orthonormal and right-handed")
    if not np.array_equal(T[3], (0.0, 0.0, 0.0, 1.0)):
        raise ValueError(f"the last row of {name} must be 0 0 0 1, got {T[3].tolist()}")


def _check_covariance(covariance_66: Array) -> None:
    if covariance_66.shape != (6, 6) or not np.isfinite(covariance_66).all():
        raise ValueError(f"covariance_66 must be 6x6 finite numbers, got shape {covariance_66.shape}")
    scale = np.sqrt(np.maximum(np.diag(covariance_66), 0.0))
    scale[scale == 0.0] = 1.0
    correlation = covariance_66 / np.outer(scale, scale)
    if not np.allclose(correlation, correlation.T, atol=1e-6) or np.linalg.eigvalsh(correlation).min() < -1e-6:
        raise ValueError("covariance_66 is not symmetric and positive semi-definite")
