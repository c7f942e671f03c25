"""The drift check of one cell: episodes in, verdicts out, with the robot's own check and the marker's together.

The robot decides: a marker may have been moved by somebody who cleaned the table. Where the robot cannot tell, the
marker does.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import yaml

from calibration.board import Board, BoardView, detect
from calibration.camera import PinholeCamera
from calibration.camera_shift import DriftReport, shift_jacobian
from calibration.drift import check_marker, make_marker_reference
from calibration.poses import from_ur
from calibration.record import Calibration
from calibration.robot_drift import check_robot, make_robot_reference
from calibration.storage import CameraCalibration
from prophrl_nodes.drift_watch.frames import EpisodeFrames
from prophrl_nodes.drift_watch.references import DriftReference
from prophrl_nodes.drift_watch.verdict import DriftVerdict, voice_of
from robot_bridge.arm_outline import ArmOutline
from robot_bridge.cell import CellConfig
from robot_bridge.ur_kinematics import Kinematics

MIN_FRAMES = 6
"""Fewer say too little: an episode that was broken off at once."""
_MIN_MARKER_VIEWS = 3


class NoReference(ValueError):
    """An episode that cannot become the reference; the message says why."""


class MarkerFileError(ValueError):
    """A file that describes no board; the message says which and why."""


class DriftChecker:
    """Makes references and compares episodes with them.

    Args:
        cell: whose arm and tool are in the pictures.
        board: a board that stands fixed in the camera's view; None without one.
    """

    def __init__(self, cell: CellConfig, board: Board | None = None) -> None:
        self._outline = ArmOutline(Kinematics(tool=from_ur(cell.robot.tcp_offset)))
        self._board = board
        (x0, y0, z0), (x1, y1, _) = cell.safety.workspace_min_m, cell.safety.workspace_max_m
        grid = np.meshgrid(np.linspace(x0, x1, 9), np.linspace(y0, y1, 9), z0, indexing="ij")
        self._table_N3 = np.stack(grid, axis=-1).reshape(-1, 3)
        self._next_action = f"prophrl launch calibrate cell:={cell.name}"

    def reference(
        self, frames: EpisodeFrames | None, calibration: Calibration | CameraCalibration, episode_id: str
    ) -> DriftReference:
        """Make the reference from an episode of which the calibration holds, after comparing its halves.

        Raises:
            NoReference: too few frames, nothing of the robot in view, or the camera moved within the episode.
        """
        camera = camera_for(calibration, frames)
        if frames is None or len(frames) < 2 * MIN_FRAMES:
            raise NoReference(
                f"{0 if frames is None else len(frames)} frames with joint angles, {2 * MIN_FRAMES} needed"
            )
        views = self._views(frames)
        try:
            points = self._outline.points(frames.q_T6, frames.opening_T)
            link = self._outline.link_N
            half = make_robot_reference(camera, frames.images_THW3[::2], points[::2], link)
            within = check_robot(half, frames.images_THW3[1::2], points[1::2], stamp_s_T=frames.stamp_s_T[1::2]).result
            if within.verdict != "still":
                raise NoReference(f"its own frames do not agree: {within.reason}")
            robot = make_robot_reference(camera, frames.images_THW3, points, link)
            seen = self._board is not None and len(views) >= _MIN_MARKER_VIEWS
            marker = make_marker_reference(views, self._board, camera) if self._board is not None and seen else None
        except NoReference:
            raise
        except ValueError as error:
            raise NoReference(str(error)) from error
        return DriftReference(calibration.id, episode_id, robot, marker)

    def check(self, frames: EpisodeFrames | None, reference: DriftReference, episode_id: str) -> DriftVerdict:
        """Compare an episode with the reference of its calibration; what cannot be compared is ``unknown``."""
        said = DriftVerdict(
            "unknown",
            "",
            episode_id,
            reference.calibration_id,
            reference.episode_id,
            0 if frames is None else len(frames),
        )
        if frames is None or len(frames) < MIN_FRAMES:
            return replace(said, reason=f"{said.frames} frames with joint angles, {MIN_FRAMES} needed")
        try:
            points = self._outline.points(frames.q_T6, frames.opening_T)
            robot = check_robot(reference.robot, frames.images_THW3, points, stamp_s_T=frames.stamp_s_T)
            views = self._views(frames) if reference.marker is not None else []
            marker = check_marker(reference.marker, views) if reference.marker is not None else None
        except ValueError as error:  # another resolution or arm model than the reference's
            return replace(said, reason=str(error))
        voices = {"robot": voice_of(robot.robot)}
        if robot.scenery is not None:
            voices["scenery"] = voice_of(robot.scenery)
        if marker is not None:
            voices["marker"] = voice_of(marker)
        said = replace(said, voices=voices)
        camera = reference.camera
        if marker is not None and robot.result.verdict == "unknown" and marker.verdict != "unknown":
            return self._said(said, marker, camera)
        if not robot.result.used:
            return replace(said, reason="nothing of the robot is in view")
        said = self._said(said, robot.result, camera)
        if marker is not None and marker.moved and not said.moved:
            note = f"the marker is displaced by {marker.pixels:.2f} px although the robot is not: it was moved itself"
            return replace(said, reason=f"{said.reason}; {note}")
        return said

    def _said(self, said: DriftVerdict, report: DriftReport, camera: PinholeCamera) -> DriftVerdict:
        """Verdict and figures of one of the checks, with what its shift means where the objects are."""
        mm, sigma_mm = self._on_table(report, camera)
        measured = f"{report.source}: the picture is displaced by {report.pixels:.2f} px +- {report.sigma_px:.2f}"
        reason = f"{measured}, {mm:.1f} mm on the table"
        if report.moved:
            reason = f"{reason}; put the camera back, or calibrate again with: {self._next_action}"
        elif report.verdict == "unknown":
            reason = f"{reason}: too uncertain for a verdict"
        return replace(
            said,
            verdict=report.verdict,
            reason=reason,
            pixels=report.pixels,
            millimetres=mm,
            sigma_px=report.sigma_px,
            sigma_mm=sigma_mm,
            offset_px=report.offset_px,
            camera_shift_6=tuple(float(value) for value in report.delta_6),
        )

    def _on_table(self, report: DriftReport, camera: PinholeCamera) -> tuple[float, float]:
        """Rms error and its standard deviation, in mm across the line of sight, of what is seen of the table."""
        pixels, depth = camera.project(self._table_N3)
        with np.errstate(invalid="ignore"):
            seen = (depth > 0.0) & np.all((pixels >= 0.0) & (pixels < [camera.width, camera.height]), axis=1)
        if not seen.any():
            return report.millimetres, report.sigma_mm
        mm_per_px = 1e3 * depth[seen] / np.sqrt(camera.fx * camera.fy)
        J = shift_jacobian(camera, self._table_N3[seen]) * mm_per_px[:, None, None]
        G = np.einsum("nki,nkj->ij", J, J) / len(J)
        variance = float(np.trace(G @ report.covariance_66))
        return float(np.sqrt(report.delta_6 @ G @ report.delta_6)), float(np.sqrt(variance))

    def _views(self, frames: EpisodeFrames) -> list[BoardView]:
        if self._board is None:
            return []
        found = (detect(image, self._board) for image in frames.images_THW3)
        return [view for view in found if view is not None]


def camera_for(calibration: Calibration | CameraCalibration, frames: EpisodeFrames | None) -> PinholeCamera:
    """The calibrated camera in pixels of these frames, of its own image without any.

    Raises:
        NoReference: a camera on the tool, or pictures of another shape than it was calibrated with.
    """
    if calibration.mode == "eye_in_hand":
        raise NoReference("the camera rides on the tool; the check is made for one that stands in the cell")
    camera = calibration.camera
    if frames is None:
        return camera
    height, width = frames.images_THW3.shape[1:3]
    if width * camera.height != height * camera.width:
        raise NoReference(
            f"pictures are {width}x{height}, the calibration is of {camera.width}x{camera.height}: another cut-out; "
            "calibrate at the shape that is recorded"
        )
    return camera if width == camera.width else camera.resized(width, height)


def load_board(path: Path) -> Board:
    """The standing board that a YAML file describes, with the keys of ``Board``.

    Raises:
        MarkerFileError: no such file, or not a board.
    """
    try:
        return Board.from_dict(yaml.safe_load(path.expanduser().read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError, yaml.YAMLError) as error:
        raise MarkerFileError(f"{path} describes no board: {error}") from error
