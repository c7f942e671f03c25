"""Action frames: the end effector's pose and opening as a picture, seen by the cell's camera.

An action frame says in pixels what an action says in numbers: a disc at the TCP that grows as it comes nearer and
whose colour is the gripper's opening, a white dot, and the three axes of the tool, on black. The measures are the
paper's (design specification, section 3): axes of 0.15 m, radius 40 px at 1 m within 8..140 px.

Those pixel sizes belong to the video's source resolution, 480 rows or so; pictures for the world model are smaller.
``render_action_frames`` draws at the camera's size at once and scales the sizes by height / 480, so that a picture at
240x320 looks like one drawn at 480x640 and halved. ``render_at_source`` takes the paper's way literally: draw at the
source resolution with unscaled sizes and whole pixels, then resize as the video is resized; it takes several times
as long. Heights compare only while they show the same field of view: for a picture that was cropped at top or bottom,
give ``style.for_height(height before the crop)``. OpenCV's anti-aliased lines are 3.3, 5.3, 7.3 .. px wide and
nothing between, so at 240x320 the axes are 5.3 px wide where halving gives 4.7.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from calibration.action_frame_drawing import ActionFrameStyle, Mark, draw_marks, opening_colors
from calibration.camera import PinholeCamera

Array = NDArray[np.float64]
Image = NDArray[np.uint8]

STYLE = ActionFrameStyle()
"""The paper's measures, scaled with the picture."""
PLUMB_STYLE = ActionFrameStyle(plumb_px=6.0)
"""Ours: the paper's, and a line from the TCP straight down to the base's plane z = 0, usually the table. The disc alone
hardly tells how far a hand is: 5 cm of depth are a third of a pixel of its radius in a picture of 96 rows. Where the
line ends says it in pixels, next to the foot of what stands there (docs/decisions.md)."""
PAPER_STYLE = ActionFrameStyle(design_height_px=None, whole_pixels=True)
"""The paper's measures as they are: for pictures at the video's source resolution."""
NEAR_M = 0.01
"""A centre nearer than this, or behind the camera, is not drawn; an axis that reaches behind is cut here."""


@dataclass(frozen=True)
class ProjectedFrames:
    """M tool frames in one camera.

    Attributes:
        centre_px_M2: pixel of the TCP.
        tips_px_M32: pixels of the tips of the x, y and z axis; where an axis runs behind the camera, of the point
            where it leaves the space in front of it.
        depth_M: depth of the TCP along the optical axis, metres.
        visible_M: in front of the camera and finite; the pixels of the others are NaN.
        foot_px_M2: pixel of the point straight below (or above) the TCP with z = 0 in base; NaN, too, where that point
            is behind the camera.
    """

    centre_px_M2: Array
    tips_px_M32: Array
    depth_M: Array
    visible_M: NDArray[np.bool_]
    foot_px_M2: Array


def project_action_frames(T_base_tcp_M44: ArrayLike, camera: PinholeCamera, axis_m: float = 0.15) -> ProjectedFrames:
    """Project the origin and the axis tips of tool poses ``T_base_tcp`` [M, 4, 4] (metres)."""
    T = np.asarray(T_base_tcp_M44, dtype=np.float64).reshape(-1, 4, 4)
    with np.errstate(invalid="ignore"):  # an absent arm is NaN, perhaps infinity
        T_camera_tcp = camera.T_camera_base @ T
        origin = T_camera_tcp[:, :3, 3]
        along = axis_m * np.swapaxes(T_camera_tcp[:, :3, :3], 1, 2)  # [M, axis, xyz]
    depth = origin[:, 2]
    visible = np.isfinite(T_camera_tcp[:, :3]).all(axis=(1, 2)) & (depth > NEAR_M)
    centre, tips, foot = np.full((len(T), 2), np.nan), np.full((len(T), 3, 2), np.nan), np.full((len(T), 2), np.nan)
    if visible.any():
        start, step = origin[visible], along[visible]
        share = np.ones(step.shape[:2])
        behind = start[:, None, 2] + step[..., 2] < NEAR_M
        np.divide(NEAR_M - start[:, None, 2], step[..., 2], out=share, where=behind)
        ends = start[:, None] + share[..., None] * step
        pixels = _to_pixels(np.concatenate([start[:, None], ends], axis=1).reshape(-1, 3), camera).reshape(-1, 4, 2)
        centre[visible], tips[visible] = pixels[:, 0], pixels[:, 1:]
        below = camera.T_camera_base[:3, :3] @ (T[visible, :3, 3] * (1.0, 1.0, 0.0))[..., None]
        below_N3 = below[..., 0] + camera.T_camera_base[:3, 3]
        ahead = below_N3[:, 2] > NEAR_M
        foot[np.flatnonzero(visible)[ahead]] = _to_pixels(below_N3[ahead], camera)
    return ProjectedFrames(centre, tips, depth, visible, foot)


def render_action_frames(
    T_base_tcp_TN44: ArrayLike, opening_TN: ArrayLike, camera: PinholeCamera, *, style: ActionFrameStyle = STYLE
) -> Image:
    """Draw the action frames of a sequence of TCP poses; one picture a time step, all its arms in it.

    An arm whose pose holds NaN (absent) or whose TCP is behind the camera is left out, and so is whatever lies outside
    the picture. Frames that overlap in one picture are painted in the order of the arms.

    Args:
        T_base_tcp_TN44: TCP poses in the base frame, [T, N, 4, 4] for N arms or [T, 4, 4] for one; metres.
        opening_TN: gripper openings [T, N] or [T], 0 closed .. 1 open; clipped, NaN (unknown) is drawn grey.
        camera: the camera of the picture wanted, with its size; ``camera.resized`` for another than the calibrated.
        style: measures; pixel sizes scale with the height of the picture (see the module's docstring).

    Returns:
        uint8 RGB [T, H, W, 3], black where nothing is drawn.

    Raises:
        ValueError: shapes other than these.
    """
    poses, openings = _checked(T_base_tcp_TN44, opening_TN)
    steps, arms = openings.shape
    style = style.for_height(camera.height)
    projected = project_action_frames(poses, camera, style.axis_m)
    marks = _marks(projected, openings.reshape(-1), style)
    pictures: Image = np.zeros((steps, camera.height, camera.width, 3), dtype=np.uint8)
    spare: Image = np.zeros((camera.height, camera.width, 3), dtype=np.uint8)
    for step in range(steps):
        here = [mark for mark in marks[step * arms : (step + 1) * arms] if mark is not None]
        if here:
            draw_marks(pictures[step], spare, here, style)
    return pictures


def render_at_source(
    T_base_tcp_TN44: ArrayLike,
    opening_TN: ArrayLike,
    camera: PinholeCamera,
    source_width: int,
    source_height: int,
    *,
    style: ActionFrameStyle = PAPER_STYLE,
) -> Image:
    """The reference: draw at the video's source resolution, then resize (by area) to the camera's size.

    Arguments, result and errors are those of ``render_action_frames``; ``camera`` is the camera of the result.

    Raises:
        ValueError: the source is smaller than the result or of another shape than it (crop the camera instead).
    """
    scale_x, scale_y = source_width / camera.width, source_height / camera.height
    if min(scale_x, scale_y) < 1.0 or abs(scale_x / scale_y - 1.0) > 0.02:
        raise ValueError(
            f"a source of {source_width}x{source_height} px cannot be resized to {camera.width}x{camera.height} px "
            "without enlarging or distorting it; name the size of the video before resizing and after any crop"
        )
    large = render_action_frames(T_base_tcp_TN44, opening_TN, camera.resized(source_width, source_height), style=style)
    small: Image = np.empty((len(large), camera.height, camera.width, 3), dtype=np.uint8)
    for picture, result in zip(large, small, strict=True):
        cv2.resize(picture, (camera.width, camera.height), dst=result, interpolation=cv2.INTER_AREA)
    return small


def draw_over(image: ArrayLike, frames: ArrayLike) -> Image:
    """Lay action frames over camera pictures: black becomes transparent, brighter pixels cover more.

    The brightest channel of a pixel is its opacity, so nothing saturates and the image shows through discs and lines.

    Args:
        image: camera pictures, uint8 RGB [..., H, W, 3].
        frames: action frames of the same shape.

    Returns:
        A new array of that shape.

    Raises:
        ValueError: the two differ in shape, or one is not uint8 RGB.
    """
    below, above = np.asarray(image), np.asarray(frames)
    if below.shape != above.shape or below.ndim < 3 or below.shape[-1] != 3:
        raise ValueError(
            f"image and frames must both be [..., H, W, 3], got {below.shape} and {above.shape}; "
            "render the frames with camera.resized(width, height) of the image"
        )
    if below.dtype != np.uint8 or above.dtype != np.uint8:
        raise ValueError(f"image and frames must be uint8, got {below.dtype} and {above.dtype}")
    result: Image = np.array(below, order="C")
    drawn = np.maximum(np.maximum(above[..., 0], above[..., 1]), above[..., 2])
    touched = drawn > 0
    passes = 255 - drawn[touched].astype(np.uint16)[:, None]
    result[touched] = above[touched] + ((below[touched] * passes + 127) // 255).astype(np.uint8)
    return result


def _checked(T_base_tcp_TN44: ArrayLike, opening_TN: ArrayLike) -> tuple[Array, Array]:
    """Poses [T, N, 4, 4] and openings [T, N] of either form."""
    T, opening = np.asarray(T_base_tcp_TN44, dtype=np.float64), np.asarray(opening_TN, dtype=np.float64)
    if T.ndim not in (3, 4) or T.shape[-2:] != (4, 4) or opening.shape != T.shape[:-2]:
        raise ValueError(
            f"expected poses [T, 4, 4] with openings [T], or [T, N, 4, 4] with [T, N] for N arms; "
            f"got poses {T.shape} and openings {opening.shape}"
        )
    if T.ndim == 3:
        T, opening = T[:, None], opening[:, None]
    return T, opening


def _marks(projected: ProjectedFrames, openings_M: Array, style: ActionFrameStyle) -> list[Mark | None]:
    radii = style.radii_px(projected.depth_M).tolist()
    centres, tips, feet = projected.centre_px_M2, projected.tips_px_M32, projected.foot_px_M2
    if style.whole_pixels:
        centres, tips, feet = np.rint(centres), np.rint(tips), np.rint(feet)
    plumb_M = np.isfinite(feet[:, 0]) & (style.plumb_px > 0.0)
    ends = [(foot[0], foot[1]) if plumb else None for foot, plumb in zip(feet.tolist(), plumb_M.tolist(), strict=True)]
    table = zip(
        projected.visible_M.tolist(), centres.tolist(), tips.tolist(), radii, opening_colors(openings_M), ends,
        strict=True,
    )  # fmt: skip
    return [
        Mark((c[0], c[1]), ((x[0], x[1]), (y[0], y[1]), (z[0], z[1])), radius, color, end) if visible else None
        for visible, c, (x, y, z), radius, color, end in table
    ]


def _to_pixels(points_camera_N3: Array, camera: PinholeCamera) -> Array:
    """Pixels of points in the optical frame, all in front of it.

    A distortion polynomial is fitted inside the picture; far outside it may turn round and fold the world back in.
    From that radius on the picture is continued in proportion, so that what is outside stays outside.
    """
    optical = replace(camera, T_camera_base=np.eye(4))
    if camera.distortion is None:
        return optical.project(points_camera_N3)[0]
    radius = np.hypot(points_camera_N3[:, 0], points_camera_N3[:, 1]) / points_camera_N3[:, 2]
    beyond = np.maximum(1.0, radius / _folding_radius(camera.distortion))[:, None]
    pixels, _ = optical.project(points_camera_N3 / np.hstack([beyond, beyond, np.ones_like(beyond)]))
    principal = np.array([camera.cx, camera.cy])
    continued: Array = principal + beyond * (pixels - principal)
    return continued


def _folding_radius(distortion: Array) -> float:
    """Where r (1 + k1 r^2 + k2 r^4 + k3 r^6) stops growing with r = sqrt(x^2 + y^2) / z; infinity if nowhere."""
    k = np.zeros(5)
    k[: min(5, distortion.size)] = np.ravel(distortion)[:5]
    roots = np.roots(np.trim_zeros(np.array([7.0 * k[4], 5.0 * k[1], 3.0 * k[0], 1.0]), "f"))
    turns = [float(root.real) for root in np.atleast_1d(roots) if abs(root.imag) < 1e-9 and root.real > 0.0]
    return float(np.sqrt(min(turns, default=np.inf)))
