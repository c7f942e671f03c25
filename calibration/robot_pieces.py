"""Which pieces of robot and scenery to compare, and where each must appear if the camera still stands."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from calibration.camera import PinholeCamera
from calibration.camera_shift import shift_jacobian
from calibration.patches import DepthBins, Patches, candidates, cut, grey_of
from calibration.robot_reference import RobotDriftSettings, RobotReference
from calibration.shift_fit import BLUR_PX, ShiftFit, rms

Array = NDArray[np.float64]
Images = NDArray[np.uint8]

SCENERY = -1


class Pieces:
    """The pieces of a reference, sought in the quiet frames of an episode.

    ``working`` [W, 3]: points of the robot in view, over which displacements are averaged.
    """

    def __init__(
        self,
        reference: RobotReference,
        images: Images,
        points: Array,
        link: NDArray[np.int32],
        stamps: Array,
        s: RobotDriftSettings,
    ) -> None:
        self.reference, self.camera, self.link, self.settings = reference, reference.camera, link, s
        self.links = np.unique(link)
        motion = image_speed(self.camera, points, stamps)
        self.frames = quiet_frames(motion, s.frames)
        self.points, self.speeds = points[self.frames], motion[self.frames]
        self.grey = [[grey_of(images[t], blur) for blur in BLUR_PX] for t in self.frames]
        self.keys = [[grey_of(image, blur) for blur in BLUR_PX] for image in reference.grey_KHW]
        self.bins = [DepthBins(self.camera, p) for p in self.points]
        self.key_bins = [DepthBins(self.camera, p) for p in reference.points_base_KN3]
        self.covered = [bins.covers(self.camera, 9) for bins in self.bins]
        front = np.concatenate([p[b.front] for p, b in zip(self.points, self.bins, strict=True)])
        self.working = front[:: max(1, len(front) // 300)] if len(front) else np.zeros((0, 3))
        self.working_J = shift_jacobian(self.camera, self.working)

    def _fit(self) -> ShiftFit:
        return ShiftFit(self.grey, self.working_J, self.settings)

    def robot_fit(self) -> ShiftFit:
        pieces = [self._pieces_of_robot(k) for k in range(len(self.keys))]
        centres = [bins.pixels for bins in self.key_bins]
        fit = self._fit()
        for t, bins in enumerate(self.bins):
            for link in self.links:
                mine = self.link == link
                motion = np.array([rms(bins.pixels[mine] - centres[k][mine]) for k in range(len(self.keys))])
                if not np.isfinite(motion).any():
                    continue
                near = np.flatnonzero(motion < np.nanmin(motion) + 1.0)
                k = int(near[t % len(near)])
                if motion[k] < self.settings.max_motion_px:
                    self._predict(fit, t, link, pieces[k], self.reference.points_base_KN3[k][mine], mine)
        return fit

    def _pieces_of_robot(self, k: int) -> list[Patches]:
        camera, bins = self.camera, self.key_bins[k]
        fine = self.keys[k][-1]
        at = candidates(fine, bins.covers(camera, 5))
        front = np.flatnonzero(bins.front)
        if len(at) == 0 or len(front) == 0:
            return [cut(level, at[:0], np.zeros((0, 3)), np.zeros(0, np.int32)) for level in self.keys[k]]
        nearest = front[np.argmin(np.linalg.norm(at[:, None].astype(float) - bins.pixels[None, front], axis=2), axis=1)]
        points = camera.unproject(at, bins.depth[nearest])
        return [cut(level, at, points, self.link[nearest]) for level in self.keys[k]]

    def _predict(
        self, fit: ShiftFit, t: int, link: int, levels: list[Patches], key_points: Array, mine: NDArray[np.bool_]
    ) -> None:
        camera, s = self.camera, self.settings
        chosen = [level.chosen(level.link_M == link) for level in levels]
        T = _rigid(key_points, self.points[t][mine])
        if len(chosen[0]) == 0 or T is None:
            return
        fine = chosen[-1]
        moved = fine.points_base_M3 @ T[:3, :3].T + T[:3, 3]
        _, depth = camera.project(fine.points_base_M3)
        # Two neighbours of each piece, a few pixels right and down, carry its turn and scale.
        step = 4.0
        corners = []
        for offset in ((0.0, 0.0), (step, 0.0), (0.0, step)):
            point = camera.unproject(fine.centres_M2 + offset, depth)
            corners.append(camera.project(point @ T[:3, :3].T + T[:3, 3]))
        centre, new_depth = corners[0]
        affine = np.stack([(corners[1][0] - centre) / step, (corners[2][0] - centre) / step], axis=-1)
        with np.errstate(invalid="ignore"):
            keep = (
                np.isfinite(affine).all(axis=(1, 2))
                & (np.linalg.norm(affine - np.eye(2), axis=(1, 2)) < 0.3)
                & (np.linalg.norm(centre - fine.centres_M2, axis=1) < s.max_motion_px)
                & _inside(camera, centre)
            )
        keep[keep] &= ~self.bins[t].hides(centre[keep], new_depth[keep], 0.08)
        speed = self.speeds[t][mine]
        timing = s.timing_s * float(np.median(speed[np.isfinite(speed)])) if np.isfinite(speed).any() else 0.0
        carried = np.linalg.norm(centre[keep] - fine.centres_M2[keep], axis=1)
        doubt = np.hypot(timing, s.motion_error * carried)
        place = (centre[keep], affine[keep], shift_jacobian(camera, moved[keep]), doubt)
        fit.add((t, [level.chosen(keep) for level in chosen], *place))

    def scenery_fit(self) -> ShiftFit:
        """Pieces of the reference's median image that no robot covers and that did not change during the reference."""
        camera = self.camera
        covered = np.stack([bins.covers(camera, 12) for bins in self.key_bins])
        stack = np.stack([levels[-1] for levels in self.keys]).astype(np.float32)
        stack[covered] = np.nan
        seen = np.sum(~covered, axis=0)
        allowed = seen >= max(1, len(stack) // 2)
        stack[:, ~allowed] = 0.0
        median = np.nanmedian(stack, axis=0)
        changed = np.nanmax(np.abs(stack - median), axis=0) > 12.0
        levels = [np.asarray(median, dtype=np.float32)]
        levels.insert(0, grey_of(np.rint(median).astype(np.uint8), BLUR_PX[0]))
        at = candidates(levels[-1], ~_grown(changed | ~allowed, 9))
        points = self._on_scenery(at)
        pieces = [cut(level, at, points, np.full(len(at), SCENERY, np.int32)) for level in levels]
        J = shift_jacobian(camera, points)
        fit = self._fit()
        for t, mask in enumerate(self.covered):
            keep = ~mask[at[:, 1], at[:, 0]]
            count = int(keep.sum())
            eye = np.broadcast_to(np.eye(2), (count, 2, 2))
            place = (at[keep].astype(np.float64), eye, J[keep], np.zeros(count))
            fit.add((t, [piece.chosen(keep) for piece in pieces], *place))
        return fit

    def _on_scenery(self, at: NDArray[np.intp]) -> Array:
        """Where scenery stands: on the table's plane, or far away."""
        camera = self.camera
        centre = camera.T_base_camera[:3, 3]
        ray = camera.unproject(at, np.ones(len(at))) - centre
        with np.errstate(divide="ignore"):
            depth = (self.settings.table_z_m - centre[2]) / ray[:, 2]
        depth = np.where((depth > 0.0) & (depth < self.settings.far_m), depth, self.settings.far_m)
        return np.asarray(centre + ray * depth[:, None])


def _rigid(before_N3: Array, after_N3: Array) -> Array | None:
    """Motion [4, 4] of a link between two times; None when the points did not move as one body."""
    if len(before_N3) < 3:
        return None
    a, b = before_N3.mean(axis=0), after_N3.mean(axis=0)
    u, _, vt = np.linalg.svd((before_N3 - a).T @ (after_N3 - b))
    R = vt.T @ np.diag([1.0, 1.0, np.sign(np.linalg.det(vt.T @ u.T))]) @ u.T
    if rms((before_N3 - a) @ R.T - (after_N3 - b)) > 0.002:
        return None
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = R, b - R @ a
    return T


def image_speed(camera: PinholeCamera, points_TN3: Array, stamp_s_T: Array) -> Array:
    """Image speed [T, N] of the points in pixels per second; NaN behind the camera."""
    pixels = np.stack([camera.project(points)[0] for points in points_TN3])
    if len(pixels) < 2:
        return np.zeros(pixels.shape[:2])
    return np.asarray(np.linalg.norm(np.gradient(pixels, stamp_s_T, axis=0), axis=2))


def quiet_frames(motion_TN: Array, count: int) -> NDArray[np.intp]:
    """The stillest frame of each of ``count`` stretches of the episode."""
    with np.errstate(invalid="ignore"):
        speed = np.nanmax(np.where(np.isfinite(motion_TN), motion_TN, 0.0), axis=1)
    stretches = np.array_split(np.arange(len(speed)), min(count, len(speed)))
    return np.array([part[int(np.argmin(speed[part]))] for part in stretches], dtype=np.intp)


def _inside(camera: PinholeCamera, pixels_N2: Array) -> NDArray[np.bool_]:
    margin = 7.0
    return np.asarray(
        np.all((pixels_N2 > margin) & (pixels_N2 < [camera.width - margin, camera.height - margin]), axis=1)
    )


def _grown(mask: NDArray[np.bool_], radius: int) -> NDArray[np.bool_]:
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    return np.asarray(cv2.dilate(mask.astype(np.uint8), kernel) > 0)
