"""Where to put the tool so that the camera sees the calibration board well: many, different, reachable, clear poses.

``eye_to_hand``: the camera is fixed in ``base`` and the board rides on the tool. ``eye_in_hand``: the camera rides on
the tool and the board is fixed in ``base``. The two rigid mounts are X (``T_base_camera`` or ``T_tool_camera``) and Y
(``T_tool_board`` or ``T_base_board``), as everywhere in ``calibration``. Both may be rough guesses: ``margin_px`` keeps
the board that far inside the image and ``Doubt`` widens the camera's sphere.

A candidate is drawn as the board's pose in the camera (distance, place in the image, roll, tilt), turned into a tool
pose, and kept when the arm reaches it on a straight, clear joint path from where it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from calibration.board import Board
from calibration.camera import PinholeCamera
from calibration.hand_eye_types import Mode
from calibration.poses import inverse, transform
from robot_bridge.arm_clearance import TOOL_CAMERA, ArmClearance, Plate, Surroundings, path_problem
from robot_bridge.cell import SafetyConfig
from robot_bridge.ur_kinematics import Kinematics, Unreachable

Array = NDArray[np.float64]

CAMERA_RADIUS_M = 0.10
"""A D455 with bracket and plug fits into a sphere of this radius around its optical frame."""
TOOL_CAMERA_SIZE_M = (0.16, 0.08)
"""The same camera on the tool, with its bracket, across its optical axis."""
MAX_TURN_RAD = 2.6
"""No joint turns farther than this from the posture the sequence began with: cables, and moves that stay short."""


@dataclass(frozen=True)
class ViewLimits:
    """Ranges candidates are drawn from.

    Attributes:
        distance_m: of the board's centre along the optical axis.
        tilt_rad: largest angle between the optical axis and the board's normal.
        roll_rad: largest turn of the board in the image, from the posture that ``roll_zero_rad`` names.
        margin_px: every corner stays this far inside the image.
        min_square_px: squares appear at least this large, or markers cannot be read.
    """

    distance_m: tuple[float, float] = (0.35, 0.90)
    tilt_rad: tuple[float, float] = (0.0, 0.80)
    roll_rad: float = 2.2
    margin_px: float = 12.0
    min_square_px: float = 14.0


@dataclass(frozen=True)
class ViewPose:
    """One candidate: where the tool goes, the joints that bring it there, and how near anything comes on the way."""

    T_base_tool: Array
    q: Array


@dataclass(frozen=True)
class ViewSetup:
    """What is being calibrated, as far as it is known: mode, camera model, board and both mounts."""

    mode: Mode
    camera: PinholeCamera
    board: Board
    X: Array
    Y: Array

    def T_base_tool(self, T_camera_board: Array) -> Array:
        """The tool pose [4, 4] that shows the board at a pose in the camera."""
        if self.mode == "eye_to_hand":
            return self.X @ T_camera_board @ inverse(self.Y)
        return self.Y @ inverse(T_camera_board) @ inverse(self.X)

    def T_camera_board(self, T_base_tool: Array) -> Array:
        """Where the camera sees the board [4, 4] with the tool there."""
        if self.mode == "eye_to_hand":
            return inverse(self.X) @ T_base_tool @ self.Y
        return inverse(self.X) @ inverse(T_base_tool) @ self.Y

    def corrected(self, T_base_tool: Array, T_camera_board: Array) -> ViewSetup:
        """The same set-up with X moved so that one view of the board is explained exactly; Y is believed."""
        if self.mode == "eye_to_hand":
            X = T_base_tool @ self.Y @ inverse(T_camera_board)
        else:
            X = inverse(T_base_tool) @ self.Y @ inverse(T_camera_board)
        return ViewSetup(self.mode, self.camera, self.board, X, self.Y)


def clearance_for(setup: ViewSetup, kinematics: Kinematics, *, doubt_m: float = 0.0) -> ArmClearance:
    """Distances of the arm with what the mode puts on the tool, and with the camera where it is thought to be."""
    width, height = setup.board.size_m
    if setup.mode == "eye_to_hand":
        centre = setup.X[:3, 3]
        camera = (float(centre[0]), float(centre[1]), float(centre[2]))
        edge = 0.5 * setup.board.square_m  # the sheet is a little larger than its squares
        corner = setup.Y @ transform((-edge, -edge, 0.0))
        plate = Plate(corner, width + 2 * edge, height + 2 * edge)
        return ArmClearance(kinematics, Surroundings(spheres=((camera, CAMERA_RADIUS_M + doubt_m),)), plate)
    # The camera on the tool is a small box at its optical frame; the board on the table is no higher than the table.
    width, height = TOOL_CAMERA_SIZE_M
    corner = setup.X @ transform((-0.5 * width, -0.5 * height, -0.01))
    return ArmClearance(kinematics, Surroundings(), Plate(corner, width, height, 0.02 + doubt_m, TOOL_CAMERA))


def candidates(
    setup: ViewSetup,
    q_now: Sequence[float] | Array,
    q_reference: Sequence[float] | Array,
    kinematics: Kinematics,
    safety: SafetyConfig,
    rng: np.random.Generator,
    *,
    limits: ViewLimits | None = None,
    count: int = 40,
    attempts: int = 1500,
    doubt_m: float = 0.0,
) -> list[ViewPose]:
    """Up to ``count`` different views that can be driven to from ``q_now`` [6] on a straight, clear joint path.

    Args:
        q_reference: posture [6] that joints stay within ``MAX_TURN_RAD`` of; where the sequence began.
        doubt_m: how wrong the camera's place may be; the arm keeps that much farther away.

    Returns:
        Views in the order drawn; fewer than ``count`` when the cell leaves little room, and none when it leaves none.
    """
    limits = limits or ViewLimits()
    clearance = clearance_for(setup, kinematics, doubt_m=doubt_m)
    margin_m = 0.02
    low, high = np.array(safety.workspace_min_m), np.array(safety.workspace_max_m)
    reference = np.asarray(q_reference, dtype=np.float64)
    upright = _upright_roll(setup, kinematics.forward(reference))
    found: list[ViewPose] = []
    for _ in range(attempts):
        if len(found) >= count:
            break
        T_camera_board = _draw(setup, limits, upright, rng)
        if not in_view(setup, T_camera_board, limits):
            continue
        T_base_tool = setup.T_base_tool(T_camera_board)
        if np.any(T_base_tool[:3, 3] < low + 0.005) or np.any(T_base_tool[:3, 3] > high - 0.005):
            continue
        try:
            q = kinematics.inverse(T_base_tool, reference)
        except Unreachable:
            continue
        if float(np.abs(q - reference).max()) > MAX_TURN_RAD or clearance.at(q).distance_m < margin_m:
            continue
        if not path_problem(q_now, q, clearance, safety, margin_m=margin_m):
            found.append(ViewPose(T_base_tool, q))
    return found


def in_view(setup: ViewSetup, T_camera_board: Array, limits: ViewLimits) -> bool:
    """Whether all corners lie inside the image by the margin, squares are large enough and the print faces us."""
    camera = setup.camera
    width, height = setup.board.size_m
    outline = np.array([[0, 0, 0, 1], [width, 0, 0, 1], [0, height, 0, 1], [width, height, 0, 1]], dtype=np.float64)
    points = (outline @ T_camera_board.T)[:, :3]
    if points[:, 2].min() < 0.15 or T_camera_board[2, 2] <= 0.2:
        return False
    pixels, _ = _at_origin(camera).project(points)
    inside = (pixels > limits.margin_px) & (pixels < np.array([camera.width, camera.height]) - 1.0 - limits.margin_px)
    if not bool(inside.all()):
        return False
    # The shorter of a square's two sides, at the board's far end.
    across = min(
        float(np.linalg.norm(pixels[1] - pixels[0])) / setup.board.columns,
        float(np.linalg.norm(pixels[3] - pixels[2])) / setup.board.columns,
        float(np.linalg.norm(pixels[2] - pixels[0])) / setup.board.rows,
        float(np.linalg.norm(pixels[3] - pixels[1])) / setup.board.rows,
    )
    return across >= limits.min_square_px


def most_different(views: Sequence[ViewPose], done: Sequence[Array], *, turn_weight_m: float = 0.5) -> int:
    """Index of the view farthest from all tool poses [4, 4] used so far, turns counting most.

    The distance is the turn in radians times ``turn_weight_m`` plus the shift in metres. Without poses: the first.
    """
    if not done:
        return 0
    best, best_distance = 0, -1.0
    for i, view in enumerate(views):
        nearest = min(
            turn_weight_m * float(Rotation.from_matrix(view.T_base_tool[:3, :3].T @ T[:3, :3]).magnitude())
            + float(np.linalg.norm(view.T_base_tool[:3, 3] - T[:3, 3]))
            for T in done
        )
        if nearest > best_distance:
            best, best_distance = i, nearest
    return best


def _draw(setup: ViewSetup, limits: ViewLimits, upright_rad: float, rng: np.random.Generator) -> Array:
    """A random pose of the board in the camera: its centre anywhere in the image, tilted about a random axis."""
    camera = setup.camera
    distance = rng.uniform(*limits.distance_m)
    u = rng.uniform(limits.margin_px, camera.width - 1 - limits.margin_px)
    v = rng.uniform(limits.margin_px, camera.height - 1 - limits.margin_px)
    centre = np.array([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, 1.0]) * distance
    tilt_axis = rng.uniform(-np.pi, np.pi)
    tilt = np.array([np.cos(tilt_axis), np.sin(tilt_axis), 0.0]) * rng.uniform(*limits.tilt_rad)
    roll = upright_rad + rng.uniform(-limits.roll_rad, limits.roll_rad)
    rotation = Rotation.from_rotvec(tilt) * Rotation.from_euler("z", roll)
    T = transform(centre, rotation)
    width, height = setup.board.size_m
    return T @ transform((-0.5 * width, -0.5 * height, 0.0))


def _upright_roll(setup: ViewSetup, T_base_tool: Array) -> float:
    """Turn of the board in the image at the arm's present posture: rolls near it need little wrist motion."""
    R = setup.T_camera_board(T_base_tool)[:3, :3]
    return float(np.arctan2(R[1, 0] - R[0, 1], R[0, 0] + R[1, 1]))


def _at_origin(camera: PinholeCamera) -> PinholeCamera:
    return PinholeCamera(
        camera.fx, camera.fy, camera.cx, camera.cy, camera.width, camera.height, distortion=camera.distortion
    )
