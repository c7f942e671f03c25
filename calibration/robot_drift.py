"""Has the camera moved? The check without a marker, from the robot itself.

The robot knows where its links are to a fraction of a millimetre. A reference keeps, from an episode recorded right
after calibration, how the robot looked and where its links were. In a later episode every remembered piece of the
robot is projected to where it must appear now, and searched there: what remains, over all pieces and frames, is the
camera's movement. The base and whatever else of the arm is in view count just as the gripper does.

The scenery (table edge, wall, floor) is compared too and is reported beside the robot. It sharpens the answer where
both agree. Where they disagree, the robot decides: somebody may have moved the table's things, not the camera.

What the caller gives: points on the surface of the links (2 cm apart, good to a centimetre or two) in the base frame at
the time of each frame, and which link each belongs to. The points choose and predict pieces; accuracy comes from the
image, so outlines by capsules are good enough.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from calibration.camera import PinholeCamera
from calibration.camera_shift import PRIOR_SIGMA_6, DriftReport, Shift, combine, judge
from calibration.patches import grey_of
from calibration.robot_pieces import Pieces, image_speed, quiet_frames
from calibration.robot_reference import RobotDriftSettings, RobotReference

__all__ = ["RobotDriftReport", "RobotDriftSettings", "RobotReference", "check_robot", "make_robot_reference"]

Array = NDArray[np.float64]
Images = NDArray[np.uint8]


@dataclass(frozen=True)
class RobotDriftReport:
    """The verdict, and the two voices it was made from (None: too little in view)."""

    result: DriftReport
    robot: DriftReport
    scenery: DriftReport | None
    agree: bool | None


def make_robot_reference(
    camera: PinholeCamera,
    images_THW3: Images,
    points_base_TN3: ArrayLike,
    link_N: ArrayLike,
    *,
    settings: RobotDriftSettings | None = None,
) -> RobotReference:
    """Keep the quietest frames of one or several episodes recorded while the calibration is known to be good.

    Args:
        camera: calibrated, pixels of these images.
        images_THW3: frames, RGB (or [T, H, W] grey) uint8.
        points_base_TN3: surface points at the time of each frame, metres.
        link_N: which rigid body each point belongs to; any numbers from 0.

    Raises:
        ValueError: shapes do not fit each other or the camera.
    """
    settings = settings or RobotDriftSettings()
    images, points, link = _checked(camera, images_THW3, points_base_TN3, link_N)
    chosen = quiet_frames(
        image_speed(camera, points, np.arange(len(images), dtype=np.float64)), settings.reference_frames
    )
    grey = np.stack([np.rint(grey_of(images[t], 0.01)).astype(np.uint8) for t in chosen])
    return RobotReference(camera, grey, points[chosen], link)


def check_robot(
    reference: RobotReference,
    images_THW3: Images,
    points_base_TN3: ArrayLike,
    *,
    stamp_s_T: ArrayLike | None = None,
    settings: RobotDriftSettings | None = None,
) -> RobotDriftReport:
    """Compare an episode with the reference.

    Args:
        reference: made with the same camera calibration, resolution and point model.
        images_THW3: frames in time order, RGB (or [T, H, W] grey) uint8; a frame in ten of a 10 Hz episode is plenty.
        points_base_TN3: surface points at the time of each frame, metres, in the order of the reference's.
        stamp_s_T: times of the frames in seconds; None means 10 Hz.

    Returns:
        Verdict and figures over the robot's visible points.

    Raises:
        ValueError: shapes do not fit.
    """
    settings = settings or RobotDriftSettings()
    camera = reference.camera
    images, points, link = _checked(camera, images_THW3, points_base_TN3, reference.link_N)
    stamps = np.asarray(0.1 * np.arange(len(images)) if stamp_s_T is None else stamp_s_T, dtype=np.float64)
    if stamps.shape != (len(images),) or (np.diff(stamps) <= 0.0).any():
        raise ValueError(f"stamps must be {len(images)} increasing seconds, got shape {stamps.shape}; sort the frames")
    return _report(Pieces(reference, images, points, link, stamps, settings), settings)


def _report(pieces: Pieces, s: RobotDriftSettings) -> RobotDriftReport:
    camera, working = pieces.camera, pieces.working
    if len(working) == 0:
        nothing = Shift(np.zeros(6), np.diag(PRIOR_SIGMA_6**2), 0)
        ahead = camera.unproject([[camera.cx, camera.cy]], [1.0])
        blind = judge(nothing, camera, ahead, s.limits, "robot", "")
        return RobotDriftReport(blind, blind, None, None)
    robot, scenery = pieces.robot_fit().solve(), pieces.scenery_fit().solve()
    advice = "calibrate again, or put the camera back"
    judged = judge(robot, camera, working, s.limits, "robot", advice)
    if scenery.used < s.min_pieces:
        return RobotDriftReport(judged, judged, None, None)
    voice = judge(scenery, camera, working, s.limits, "scenery", "the camera or the scenery moved")
    both, chance = combine(robot, scenery)
    agree = chance > 1e-3
    if agree:
        result = judge(both, camera, working, s.limits, "robot and scenery", advice)
    elif voice.moved and not judged.moved:
        said = f"{judged.reason}; the scenery is displaced by {voice.pixels:.2f} px: things in view were moved"
        result = replace(judged, reason=said)
    else:
        result = judged
    return RobotDriftReport(result, judged, voice, agree)


def _checked(
    camera: PinholeCamera, images: Images, points_base_TN3: ArrayLike, link_N: ArrayLike
) -> tuple[Images, Array, NDArray[np.int32]]:
    points, link = np.asarray(points_base_TN3, dtype=np.float64), np.asarray(link_N, dtype=np.int32)
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or images.shape[1:3] != (camera.height, camera.width):
        raise ValueError(
            f"images must be uint8 [T, {camera.height}, {camera.width}, 3] like the camera, got {images.dtype} "
            f"{images.shape}; use camera.resized or camera.cropped if the episode's images are"
        )
    if points.shape != (len(images), len(link), 3) or len(images) == 0 or not np.isfinite(points).all():
        raise ValueError(
            f"points must be finite [{len(images)}, {len(link)}, 3] (a set for each frame, links as in the reference), "
            f"got {points.shape}"
        )
    return images, points, link
