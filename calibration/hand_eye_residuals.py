"""What the joint refinement compares: corner pixels, or board poses, against the prediction of X, Y and the robot.

Residuals are whitened (divided by their sigma); Jacobians are analytic and batched over views: V views, R rows, G
global parameters ``[X 6, Y 6, intrinsics 4 (fx, fy, cx, cy), board scale 1]`` of which the last two are optional.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from calibration.camera import PinholeCamera
from calibration.hand_eye_chain import Linearised, State, chain, chain_derivatives
from calibration.hand_eye_types import HandEyeSample, Mode
from calibration.tangent import left_jacobian_inverse, retract, skew

Array = NDArray[np.float64]


@dataclass(frozen=True)
class CornerModel:
    """Reprojection of board corners; views padded to N corners, ``mask_VN`` tells the real ones.

    ``points_VN3`` board frame (m); ``pixels_VN2`` raw pixels; ``camera`` gives distortion and the nominal
    intrinsics, ``intrinsics_sigma_4`` their prior.
    """

    T_base_tool_V44: Array
    points_VN3: Array
    pixels_VN2: Array
    mask_VN: NDArray[np.bool_]
    camera: PinholeCamera
    mode: Mode
    sigmas: tuple[float, ...]
    robot_sigma_6: Array
    intrinsics_sigma_4: Array
    refine_intrinsics: bool = False
    refine_scale: bool = False

    block_rows = 2
    """Rows that share one robust weight: the two pixels of a corner."""

    @property
    def groups_R(self) -> NDArray[np.intp]:
        """Noise group of every row."""
        return np.zeros(2 * self.points_VN3.shape[1], dtype=np.intp)

    @property
    def counts(self) -> Array:
        """Number of real rows of every group."""
        return np.array([2.0 * self.mask_VN.sum()])

    @classmethod
    def of(
        cls,
        samples: Sequence[HandEyeSample],
        corners_board_N3: Array,
        camera: PinholeCamera,
        mode: Mode,
        **rest: object,
    ) -> CornerModel:
        """Pad the samples' corners into arrays."""
        V, N = len(samples), max(len(sample.ids_N) for sample in samples)
        points, pixels, mask = np.zeros((V, N, 3)), np.zeros((V, N, 2)), np.zeros((V, N), dtype=bool)
        for v, sample in enumerate(samples):
            n = len(sample.ids_N)
            points[v, :n], pixels[v, :n], mask[v, :n] = corners_board_N3[sample.ids_N], sample.corners_px_N2, True
        T = np.array([sample.T_base_tool for sample in samples])
        return cls(T, points, pixels, mask, camera, mode, **rest)  # type: ignore[arg-type]

    def start(self, X: Array, Y: Array) -> State:
        camera = self.camera
        corrections = np.zeros((len(self.T_base_tool_V44), 6))
        return State(X, Y, corrections, np.array([camera.fx, camera.fy, camera.cx, camera.cy]))

    def taken(self, views: Sequence[int]) -> CornerModel:
        """The same model with these views only."""
        v = list(views)
        return replace(
            self,
            T_base_tool_V44=self.T_base_tool_V44[v],
            points_VN3=self.points_VN3[v],
            pixels_VN2=self.pixels_VN2[v],
            mask_VN=self.mask_VN[v],
        )

    def prior(self, state: State) -> tuple[Array, Array]:
        """Prior residual [G] (estimate minus nominal) and prior information [G] of the globals."""
        residual, information = np.zeros(12), np.zeros(12)
        if self.refine_intrinsics:
            nominal = np.array([self.camera.fx, self.camera.fy, self.camera.cx, self.camera.cy])
            residual = np.concatenate([residual, state.intrinsics_4 - nominal])
            information = np.concatenate([information, self.intrinsics_sigma_4**-2.0])
        if self.refine_scale:
            residual, information = np.append(residual, 0.0), np.append(information, 0.0)
        return residual, information

    def retract(self, state: State, step_G: Array, steps_V6: Array) -> State:
        k = 12
        intrinsics, scale = state.intrinsics_4, state.scale
        if self.refine_intrinsics:
            intrinsics, k = intrinsics + step_G[12:16], 16
        if self.refine_scale:
            scale += float(step_G[k])
        X, Y = retract(state.X, step_G[:6]), retract(state.Y, step_G[6:12])
        return State(X, Y, state.corrections_V6 + steps_V6, intrinsics, scale)

    def pixel_errors(self, state: State) -> Array:
        """Predicted minus seen pixels [V, N, 2]; zero at padding."""
        predicted = chain(self.T_base_tool_V44, state, self.mode)
        points = state.scale * self.points_VN3 @ np.swapaxes(predicted[:, :3, :3], 1, 2) + predicted[:, None, :3, 3]
        pixels, _, _ = _project(points.reshape(-1, 3), state.intrinsics_4, self.camera)
        return (pixels.reshape(self.pixels_VN2.shape) - self.pixels_VN2) * self.mask_VN[..., None]

    def depths(self, state: State) -> Array:
        """Predicted depth of the corners along the optical axis [V, N] in metres."""
        predicted = chain(self.T_base_tool_V44, state, self.mode)
        depths: Array = self.points_VN3 @ predicted[:, 2, :3, None]
        return depths[..., 0] + predicted[:, None, 2, 3]

    def linearise(self, state: State) -> Linearised:
        V, N = self.mask_VN.shape
        predicted = chain(self.T_base_tool_V44, state, self.mode)
        by_X, by_view = chain_derivatives(self.T_base_tool_V44, predicted, state, self.mode)
        R = predicted[:, :3, :3]
        scaled = state.scale * self.points_VN3
        points = scaled @ np.swapaxes(R, 1, 2) + predicted[:, None, :3, 3]
        pixels, by_point, by_intrinsics = _project(points.reshape(-1, 3), state.intrinsics_4, self.camera)
        weight = self.mask_VN[..., None] / self.sigmas[0]
        residuals = (pixels.reshape(V, N, 2) - self.pixels_VN2) * weight
        by_board = by_point.reshape(V, N, 2, 3) @ R[:, None]  # pixels by a motion of the board along its own axes
        by_pose = np.concatenate([by_board, -by_board @ skew(scaled)], axis=-1) * weight[..., None]
        by_pose = by_pose.reshape(V, 2 * N, 6)
        columns = [by_pose @ by_X, by_pose]
        if self.refine_intrinsics:
            columns.append((by_intrinsics.reshape(V, N, 2, 4) * weight[..., None]).reshape(V, 2 * N, 4))
        if self.refine_scale:
            columns.append(((by_board @ self.points_VN3[..., None]) * weight[..., None]).reshape(V, 2 * N, 1))
        return Linearised(residuals.reshape(V, 2 * N), np.concatenate(columns, axis=-1), by_pose @ by_view)


@dataclass(frozen=True)
class PoseModel:
    """Board poses seen by the camera [V, 4, 4], for samples without corners; ``sigmas`` (metres, radians)."""

    T_base_tool_V44: Array
    T_camera_board_V44: Array
    mode: Mode
    sigmas: tuple[float, ...]
    robot_sigma_6: Array
    refine_scale: bool = False

    block_rows = 6

    @property
    def groups_R(self) -> NDArray[np.intp]:
        """Noise group of every row: position 0, rotation 1."""
        return np.array([0, 0, 0, 1, 1, 1], dtype=np.intp)

    @property
    def counts(self) -> Array:
        """Number of rows of every group."""
        return np.full(2, 3.0 * len(self.T_base_tool_V44))

    def start(self, X: Array, Y: Array) -> State:
        return State(X, Y, np.zeros((len(self.T_base_tool_V44), 6)))

    def taken(self, views: Sequence[int]) -> PoseModel:
        """The same model with these views only."""
        v = list(views)
        return replace(self, T_base_tool_V44=self.T_base_tool_V44[v], T_camera_board_V44=self.T_camera_board_V44[v])

    def prior(self, state: State) -> tuple[Array, Array]:
        size = 13 if self.refine_scale else 12
        return np.zeros(size), np.zeros(size)

    def retract(self, state: State, step_G: Array, steps_V6: Array) -> State:
        scale = state.scale + (float(step_G[12]) if self.refine_scale else 0.0)
        X, Y = retract(state.X, step_G[:6]), retract(state.Y, step_G[6:12])
        return State(X, Y, state.corrections_V6 + steps_V6, state.intrinsics_4, scale)

    def pose_errors(self, state: State) -> tuple[Array, Array]:
        """Seen relative to predicted board pose: translation [V, 3] (m) and rotation vector [V, 3]."""
        predicted = chain(self.T_base_tool_V44, state, self.mode)
        seen = self.T_camera_board_V44
        back = np.swapaxes(predicted[:, :3, :3], 1, 2)
        t = np.einsum("vij,vj->vi", back, state.scale * seen[:, :3, 3] - predicted[:, :3, 3])
        return t, np.asarray(Rotation.from_matrix(back @ seen[:, :3, :3]).as_rotvec())

    def linearise(self, state: State) -> Linearised:
        predicted = chain(self.T_base_tool_V44, state, self.mode)
        by_X, by_view = chain_derivatives(self.T_base_tool_V44, predicted, state, self.mode)
        t, r = self.pose_errors(state)
        by_pose = np.zeros((len(t), 6, 6))
        by_pose[:, :3, :3] = -np.eye(3)
        by_pose[:, :3, 3:] = skew(t)
        by_pose[:, 3:, 3:] = -left_jacobian_inverse(r)
        weight = 1.0 / np.repeat(self.sigmas, 3)
        columns = [by_pose @ by_X, by_pose]
        if self.refine_scale:
            back = np.swapaxes(predicted[:, :3, :3], 1, 2)
            column = np.zeros((len(t), 6, 1))
            column[:, :3] = back @ self.T_camera_board_V44[:, :3, 3:]
            columns.append(column)
        by_globals = np.concatenate(columns, axis=-1) * weight[:, None]
        return Linearised(np.hstack([t, r]) * weight, by_globals, (by_pose @ by_view) * weight[:, None])


def _project(points_M3: Array, intrinsics_4: Array, camera: PinholeCamera) -> tuple[Array, Array, Array]:
    """Pixels [M, 2] and their derivatives by the camera-frame point [M, 2, 3] and by fx, fy, cx, cy [M, 2, 4]."""
    fx, fy, cx, cy = intrinsics_4
    M = len(points_M3)
    by_point: Array = np.zeros((M, 2, 3))
    by_intrinsics: Array = np.zeros((M, 2, 4))
    if camera.distortion is not None:
        K = np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])
        origin = np.zeros(3)
        raw: Any = cv2.projectPoints(points_M3.reshape(-1, 1, 3), origin, origin, K, camera.distortion)
        seen: Array = raw[0].reshape(M, 2)
        derivatives: Array = raw[1].reshape(M, 2, -1)
        return seen, derivatives[..., 3:6], derivatives[..., 6:10]
    # A point at or behind the camera, which a wild step may produce, is pushed far off the image instead of dividing
    # by zero: the step is then refused for its cost.
    z = np.maximum(points_M3[:, 2], 1e-3)
    x, y = points_M3[:, 0] / z, points_M3[:, 1] / z
    by_point[:, 0, 0], by_point[:, 1, 1] = fx / z, fy / z
    by_point[:, 0, 2], by_point[:, 1, 2] = -fx * x / z, -fy * y / z
    by_intrinsics[:, 0, 0], by_intrinsics[:, 1, 1] = x, y
    by_intrinsics[:, 0, 2] = by_intrinsics[:, 1, 3] = 1.0
    pixels = np.column_stack([fx * x + cx, fy * y + cy])
    return pixels, by_point, by_intrinsics
