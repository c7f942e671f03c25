"""A cell that obeys at once: its arm has real kinematics, its camera sees drawn corners, both with honest noise."""

from __future__ import annotations

import numpy as np
import pytest
from prophrl_nodes.calibrating import look as calibration_look
from prophrl_nodes.calibrating.look import ArmReading, CalibrationStopped, CameraImage
from prophrl_nodes.calibrating.samples import Session
from scipy.spatial.transform import Rotation

from calibration.board import DEFAULT_BOARD, BoardView
from calibration.camera import PinholeCamera
from calibration.poses import inverse, transform
from robot_bridge.twin.calibration_scene import nominal_T_base_board, nominal_T_tool_board
from robot_bridge.twin.camera_place import nominal_T_base_camera, nominal_T_tool_camera
from robot_bridge.ur_kinematics import Kinematics
from robot_bridge.view_poses import ViewSetup

KINEMATICS = Kinematics()
HOME = np.array([0.0, -1.5708, 1.5708, -1.5708, -1.5708, 0.0])
CAMERA = PinholeCamera(424.0, 424.0, 423.5, 239.5, 848, 480)
GUESSES = {
    "eye_to_hand": ViewSetup("eye_to_hand", CAMERA, DEFAULT_BOARD, nominal_T_base_camera(), nominal_T_tool_board()),
    "eye_in_hand": ViewSetup("eye_in_hand", CAMERA, DEFAULT_BOARD, nominal_T_tool_camera(), nominal_T_base_board()),
}


def offset(rng: np.random.Generator, metres: float, degrees: float) -> np.ndarray:
    turn = Rotation.from_rotvec(np.radians(rng.uniform(-degrees, degrees, 3)))
    return transform(rng.uniform(-metres, metres, 3), turn)


class DrawnCell:
    """Hands and eyes of a cell whose camera and board stand elsewhere than guessed; corners have noise."""

    def __init__(self, guess: ViewSetup, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
        rng = np.random.default_rng([seed, 77])
        X, Y = guess.X @ offset(rng, 0.06, 6.0), guess.Y @ offset(rng, 0.005, 3.0)
        self.true = ViewSetup(guess.mode, guess.camera, guess.board, X, Y)
        self.rng = rng
        self.q = HOME.copy()
        self.now_ns = 1_000_000_000
        self.moves: list[np.ndarray] = []
        self.stop_after = 1000
        self.hidden = False
        self.robot_error = np.eye(4)
        # What would be drawn into an image and found again is handed over directly: rendering has its own tests.
        monkeypatch.setattr(calibration_look, "detect", lambda image, board: self._view())
        monkeypatch.setattr(calibration_look, "explain_absence", lambda image, board: "no marker in view")

    def arm(self) -> ArmReading:
        self.now_ns += 100_000_000
        return ArmReading(self.q, np.zeros(6), KINEMATICS.forward(self.q) @ self.robot_error, self.now_ns)

    def image(self, after_ns: int) -> CameraImage:
        self.now_ns = max(self.now_ns, after_ns) + 100_000_000
        return CameraImage(np.zeros((480, 848, 3), dtype=np.uint8), self.now_ns)

    def check(self) -> None:
        if len(self.moves) >= self.stop_after:
            raise CalibrationStopped("the arm stopped: protective stop; look why, clear the arm, then recover")

    def move(self, q: np.ndarray) -> None:
        self.check()
        self.moves.append(np.array(q))
        self.q = np.array(q)
        # What a robot gets wrong it gets wrong as long as it stands there: 0.2 mm and 0.05 degrees on each axis.
        turn = Rotation.from_rotvec(np.radians(self.rng.normal(0.0, 0.05, 3)))
        self.robot_error = transform(self.rng.normal(0.0, 0.0002, 3), turn)

    def _view(self) -> BoardView | None:
        T = self.true.T_camera_board(KINEMATICS.forward(self.q))
        corners = DEFAULT_BOARD.corners_board_N3 @ T[:3, :3].T + T[:3, 3]
        pixels, depth = CAMERA.project(corners)
        inside = (depth > 0.1) & (pixels > 3).all(axis=1) & (pixels < (844, 476)).all(axis=1) & (T[2, 2] > 0.3)
        if self.hidden or inside.sum() < 6:
            return None
        found = np.flatnonzero(inside)
        noisy = pixels[found] + self.rng.normal(0.0, 0.3, (len(found), 2))
        return BoardView(found.astype(np.int32), noisy, 848, 480)


def session_of(guess: ViewSetup) -> Session:
    return Session(guess, "123", "drawn")


def errors(X: np.ndarray, true: np.ndarray) -> tuple[float, float]:
    difference = inverse(true) @ X
    turn = Rotation.from_matrix(difference[:3, :3]).magnitude()
    return float(1e3 * np.linalg.norm(difference[:3, 3])), float(np.degrees(turn))
