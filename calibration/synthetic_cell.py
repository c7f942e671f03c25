"""Random calibration cells with known truth: for rehearsing a calibration on paper, for tests and for benchmarks.

A cell is a UR30-sized workspace of the twin's geometry (arm towards -x of ``base``, table at z = 0) with a 848x480
camera of f = 424 px: fixed in front of it looking back at the tool with the board on it (eye_to_hand), or on the tool
with the board on the table (eye_in_hand). Candidates are tool poses around the workspace that need no particular arm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from calibration.camera import PinholeCamera
from calibration.hand_eye import solve
from calibration.hand_eye_chain import State, chain
from calibration.hand_eye_types import HandEyeSample, HandEyeSettings, Mode
from calibration.next_pose import choose_next, visible_corners
from calibration.poses import inverse, transform
from calibration.tangent import retract

Array = NDArray[np.float64]

CAMERA = PinholeCamera(424.0, 424.0, 423.5, 239.5, 848, 480)
_TOOL_DOWN = Rotation.from_matrix([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])


def board_corners(columns: int = 8, rows: int = 5, square_m: float = 0.03) -> Array:
    """Inner corners [columns * rows, 3] in the board frame: origin one square before the first corner."""
    y, x = np.mgrid[1 : rows + 1, 1 : columns + 1].reshape(2, -1) * square_m
    return np.column_stack([x, y, np.zeros(len(x))])


@dataclass(frozen=True)
class SyntheticCell:
    """True X and Y, candidate tool poses [M, 4, 4], and a nominal guess of X and Y off by centimetres."""

    mode: Mode
    X: Array
    Y: Array
    X_nominal: Array
    Y_nominal: Array
    candidates_M44: Array
    corners_N3: Array
    camera: PinholeCamera

    @classmethod
    def draw(
        cls, mode: Mode, rng: np.random.Generator, *, tilt_deg: float = 35.0, candidates: int = 400
    ) -> SyntheticCell:
        """A random cell; tool attitudes vary by up to ``tilt_deg`` about each axis."""
        corners = board_corners()
        centre = transform(corners.mean(axis=0))
        if mode == "eye_to_hand":
            X_nominal = _looking(np.array([-1.25, 0.0, 0.75]), np.array([-0.62, 0.0, 0.18]))
            # The board's printed side looks along tool -y, which is towards the camera, tilted up.
            facing = Rotation.from_matrix([[-1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
            look = transform([0.0, -0.10, -0.06], facing * Rotation.from_euler("x", -25.0, degrees=True))
        else:
            X_nominal = transform([0.0, -0.075, -0.134], Rotation.from_euler("x", -12.0, degrees=True))
            look = transform([-0.62, 0.0, 0.01], _TOOL_DOWN)
        Y_nominal = look @ inverse(centre)
        X = retract(X_nominal, np.concatenate([rng.uniform(-0.06, 0.06, 3), np.radians(rng.uniform(-6, 6, 3))]))
        Y = retract(Y_nominal, np.concatenate([rng.uniform(-0.01, 0.01, 3), np.radians(rng.uniform(-4, 4, 3))]))
        poses = _tool_poses(mode, rng, tilt_deg, candidates)
        return cls(mode, X, Y, X_nominal, Y_nominal, poses, corners, CAMERA)

    def view(
        self, T_base_tool_true: Array, settings: HandEyeSettings, rng: np.random.Generator
    ) -> HandEyeSample | None:
        """What robot and camera report at a true tool pose, with the noise of ``settings``; None if unseen."""
        seen = visible_corners(T_base_tool_true, self.X, self.Y, self.corners_N3, self.camera, self.mode, margin_px=3.0)
        ids = np.flatnonzero(seen[0])
        if len(ids) < settings.minimum_corners:
            return None
        T_camera_board = chain(T_base_tool_true[None], State(self.X, self.Y, np.zeros((1, 6))), self.mode)[0]
        pixels, _ = replace(self.camera, T_camera_base=T_camera_board).project(self.corners_N3[ids])
        sigma = np.repeat([settings.robot_sigma_m, settings.robot_sigma_rad], 3)
        reported = retract(T_base_tool_true, rng.normal(0.0, sigma))
        return HandEyeSample(
            reported, ids.astype(np.int32), pixels + rng.normal(0.0, settings.corner_sigma_px, pixels.shape)
        )

    def views(
        self, count: int, settings: HandEyeSettings, rng: np.random.Generator, poses: Sequence[Array] | None = None
    ) -> list[HandEyeSample]:
        """``count`` views at poses chosen by ``choose_next`` from the nominal guess on, or at the poses given."""
        if poses is not None:
            return [view for T in poses[:count] if (view := self.view(T, settings, rng)) is not None]
        samples: list[HandEyeSample] = []
        open_candidates = list(range(len(self.candidates_M44)))
        X, Y = self.X_nominal, self.Y_nominal
        while len(samples) < count and open_candidates:
            choice = choose_next(
                self.candidates_M44[open_candidates],
                [sample.T_base_tool for sample in samples],
                X,
                Y,
                self.corners_N3,
                self.camera,
                self.mode,
                settings,
                margin_px=60.0 if len(samples) < 4 else 12.0,
            )
            if choice.index is None:
                break
            sample = self.view(self.candidates_M44[open_candidates.pop(choice.index)], settings, rng)
            if sample is not None:
                samples.append(sample)
            if len(samples) in (4, 8):
                first = solve(samples, self.corners_N3, self.camera, self.mode, settings)
                X, Y = first.X, first.Y
        return samples


def _tool_poses(mode: Mode, rng: np.random.Generator, tilt_deg: float, count: int) -> Array:
    """Tool poses about pointing down, spread over the workspace."""
    tilts = Rotation.from_rotvec(np.radians(rng.uniform(-tilt_deg, tilt_deg, (count, 3))))
    poses = np.tile(np.eye(4), (count, 1, 1))
    if mode == "eye_to_hand":
        poses[:, :3, :3] = (tilts * _TOOL_DOWN).as_matrix()
        poses[:, :3, 3] = rng.uniform([-0.85, -0.28, 0.10], [-0.48, 0.28, 0.45], (count, 3))
        return poses
    for k in range(count):  # a camera on the tool has to look at the board from where it is
        away = (tilts[k] * _TOOL_DOWN).as_matrix()
        target = np.array([-0.62, 0.0, 0.0]) + np.append(rng.uniform(-0.1, 0.1, 2), 0.0)
        poses[k, :3, :3], poses[k, :3, 3] = away, target - away[:, 2] * rng.uniform(0.20, 0.50)
    return poses


def _looking(position: Array, target: Array) -> Array:
    """Camera pose at a position looking at a target, image x level."""
    z = (target - position) / math.dist(target, position)
    x = np.cross(z, [0.0, 0.0, 1.0])
    x /= np.linalg.norm(x)
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = np.column_stack([x, np.cross(z, x), z]), position
    return T
