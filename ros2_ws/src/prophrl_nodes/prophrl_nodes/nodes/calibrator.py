"""The calibrator: finds where the camera is, by moving the arm itself or with a person who moves it.

The action ``calibrate_hand_eye`` (CalibrateHandEye) drives the arm through views of the board until the expected error
is small enough; with ``run`` set the node does so once by itself and ends. With a person at the arm (teach pendant or
leader) the services ``calibrator/take_sample``, ``remove_sample``, ``compute`` and ``save`` (Trigger) do the same by
hand. Publishes what the camera sees with corners drawn on ``camera/calibration/image_raw``, and the board as TF frame
``board``. Samples go to disk as they are taken; ``resume`` goes on with them. Moving the board or the camera between
two views makes all of them worthless: start again in a new folder then.
"""

from __future__ import annotations

import dataclasses
import math
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prophrl_interfaces.action import CalibrateHandEye
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from sensor_msgs.msg import Image
from tf2_msgs.msg import TFMessage

from calibration.board import Board, BoardView, board_pose, detect
from calibration.easy_handeye import HandeyeParameters
from calibration.hand_eye import HandEyeSettings
from calibration.intrinsics_file import load_intrinsics
from calibration.poses import from_ur, transform
from calibration.storage import CalibrationFileError, load_calibration
from prophrl_nodes import qos
from prophrl_nodes.calibrating import easy_handeye_services
from prophrl_nodes.calibrating.easy import EasySession
from prophrl_nodes.calibrating.easy_handeye_services import EasyHandeyeServices
from prophrl_nodes.calibrating.hands import CellHands
from prophrl_nodes.calibrating.look import CalibrationStopped, CameraImage, Look, LookSettings, look
from prophrl_nodes.calibrating.manual import ManualSession
from prophrl_nodes.calibrating.outcome import Saved, gate_lines, save_outcome
from prophrl_nodes.calibrating.picture import draw
from prophrl_nodes.calibrating.run import CalibrationRun, Outcome, Progress, RunSettings
from prophrl_nodes.calibrating.samples import SampleError, SampleFolder, Session
from prophrl_nodes.camera_file import camera_path
from prophrl_nodes.messages import CAMERA_FRAME, to_pose, transform_stamped
from prophrl_nodes.parameters import ParameterSpec
from prophrl_nodes.ros import (
    CELL_PARAMETERS,
    Health,
    ImageMessage,
    Level,
    PeriodicThread,
    ProphNode,
    Refused,
    Value,
    run,
)
from robot_bridge.cell_files import open_cell
from robot_bridge.ur_kinematics import Kinematics
from robot_bridge.view_poses import ViewSetup

BOARD_FRAME = "calibration_board"
PREVIEW_PERIOD_S = 0.1
QUIET_PHASES = ("choosing", "settling")
"""Phases that pass in a moment: shown in the feedback, not in the log."""
READY_S = 120.0

PARAMETERS = (
    *CELL_PARAMETERS,
    ParameterSpec("tf_prefix", "", "put before frame names, for several cells"),
    ParameterSpec("mode", "eye_to_hand", "where the camera is: fixed in the cell, or on the tool",
                  choices=("eye_to_hand", "eye_in_hand")),
    ParameterSpec("run", False, "calibrate once with these parameters, then end; false waits for goals and services"),
    ParameterSpec("output", "runs/calibration", "folder for samples and result"),
    ParameterSpec("resume", False, "go on with the samples that output holds"),
    ParameterSpec("install", True, "put an accepted calibration where the cell's nodes look for it"),
    ParameterSpec("max_poses", 15, "views at most", 3, 100),
    ParameterSpec("min_poses", 9, "views at least, however small the expected error", 3, 100),
    ParameterSpec("target_sigma_mm", 0.4, "expected error of the camera's position that is good enough", 0.01, 10.0),
    ParameterSpec("frames_per_view", 5, "images averaged for each view", 1, 50),
    ParameterSpec("seed", 0, "of the candidate views", 0, 1_000_000),
    ParameterSpec("board_kind", "charuco", "what is printed", choices=("charuco", "chessboard")),
    ParameterSpec("board_columns", 9, "squares along the board's long side", 3, 60),
    ParameterSpec("board_rows", 6, "squares along its short side", 3, 60),
    ParameterSpec("board_square_m", 0.030, "side of a square as measured on the print", 0.002, 1.0),
    ParameterSpec("board_marker_m", 0.022, "side of a marker as measured on the print", 0.0, 1.0),
    ParameterSpec("board_dictionary", "DICT_5X5_100", "marker dictionary"),
    ParameterSpec("board_legacy", False, "printed by OpenCV before 4.6"),
    ParameterSpec("camera_pose", "",
                  "rough guess 'x y z rx ry rz' of the camera in base (eye_to_hand) or on the tool (eye_in_hand), "
                  "metres and rotation vector; empty: from the cell's present calibration file"),
    ParameterSpec("intrinsics", "", "file of `prophrl calibrate intrinsics`; empty: what the camera says of itself"),
    ParameterSpec("board_pose", "0.0 -0.10 -0.06 0.0 1.688 2.6496",
                  "rough guess 'x y z rx ry rz' of the board's centre on the tool (eye_to_hand)"),
    ParameterSpec("table_board_pose", "-0.62 0.0 0.01 2.2214 -2.2214 0.0",
                  "rough guess 'x y z rx ry rz' of the board's centre in base (eye_in_hand)"),
    ParameterSpec("easy_handeye_services", True, "offer easy_handeye2's services where its messages are installed"),
    ParameterSpec("name", "prophrl", "name of easy_handeye2's files"),
)  # fmt: skip


class CalibratorNode(ProphNode):
    """See the module's docstring."""

    def __init__(self, **node_arguments: Any) -> None:
        super().__init__("calibrator", PARAMETERS, **node_arguments)

    def setup(self) -> None:
        """Read the cell and the board; connect topics, the action and the services."""
        self._cell = open_cell(self.value("cell"), self.value("host"))
        self._board = _board(self.value)
        self._kinematics = Kinematics(tool=from_ur(self._cell.robot.tcp_offset))
        self._hands = CellHands(self)
        self._busy = threading.Lock()
        self._stopping = threading.Event()
        self._progress = Progress("waiting", 0, self.value("max_poses"))
        self._last = ""
        self._manual: ManualSession | None = None
        self._message: ImageMessage | None = None
        self._drawn_ns = 0
        self._picture_lock = threading.Lock()
        self._pictures = self.publisher(Image, "camera/calibration/image_raw", qos.IMAGE_SOURCE)
        self._frames = self.publisher(TFMessage, "/tf", qos.TRANSFORMS)
        self._server = ActionServer(
            self, CalibrateHandEye, "calibrate_hand_eye", self._execute, callback_group=self.callbacks,
            goal_callback=self._accept_goal, cancel_callback=lambda _: CancelResponse.ACCEPT,
        )  # fmt: skip
        for name in ("take_sample", "remove_sample", "compute", "save"):
            self.verb(name, lambda name=name: self._by_hand(name))  # type: ignore[misc]
        self._easy: EasyHandeyeServices | None = None
        if self.value("easy_handeye_services") and easy_handeye_services.available():
            session = EasySession(
                self._work, self._manual_session, self._look_once, self._install_at(), self._easy_parameters()
            )
            self._easy = EasyHandeyeServices(self, session)
        self._thread: PeriodicThread | None = None

    def start(self) -> None:
        """Begin the preview, and the one run that was asked for."""
        self._stopping.clear()
        self._hands.cancelled = lambda: "the node is stopping" if self._stopping.is_set() else ""
        self._thread = PeriodicThread("preview", PREVIEW_PERIOD_S, self._preview, self.fail)
        self._thread.start()
        if self.value("run"):
            threading.Thread(target=self._run_once, name="calibration", daemon=True).start()

    def halt(self) -> None:
        """Stop a run in progress; the arm is told to stop by it."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.stop()
        with self._busy:  # a run notices within milliseconds and has the arm stopped
            pass

    def teardown(self) -> None:
        """Take the action and easy_handeye2's services away."""
        self._server.destroy()
        if self._easy is not None:
            self._easy.close()

    def health(self) -> Health:
        """Phase and figures of the run, or the newest verdict."""
        progress = self._progress
        values: dict[str, Value] = {
            "phase": progress.phase,
            "pose": progress.pose,
            "poses": progress.poses,
            "corners": progress.corners,
            "sigma_mm": progress.sigma_mm,
            "sigma_deg": progress.sigma_deg,
            "held_out_px": progress.held_out_px,
            "board": self._board.name,
        }
        if self._last.startswith(("refused", "no calibration", "stopped")):
            return Health(Level.WARN, self._last, values)
        return Health(Level.OK, self._last or ("calibrating" if self._busy.locked() else "waiting"), values)

    # ---- the action

    def _accept_goal(self, goal: CalibrateHandEye.Goal) -> GoalResponse:
        modes = ("", "eye_to_hand", "eye_in_hand")
        if goal.mode not in modes:
            self.get_logger().error(f"goal rejected: mode {goal.mode!r} is none of {', '.join(modes[1:])}")
            return GoalResponse.REJECT
        if not self.active or self._busy.locked():
            self.get_logger().error("goal rejected: the node is inactive, or busy with another run")
            return GoalResponse.REJECT
        return GoalResponse.ACCEPT

    async def _execute(self, handle: Any) -> CalibrateHandEye.Result:
        goal = handle.request

        def feedback(progress: Progress) -> None:
            handle.publish_feedback(
                CalibrateHandEye.Feedback(
                    phase=progress.phase, pose=progress.pose, poses=progress.poses, corners=progress.corners,
                    sigma_mm=float(progress.sigma_mm), sigma_deg=float(progress.sigma_deg),
                    held_out_px=float(progress.held_out_px), message=progress.message,
                )
            )  # fmt: skip

        def cancelled() -> str:
            return "cancelled" if handle.is_cancel_requested else ""

        outcome, saved = await self.in_thread(lambda: self._calibrate(goal, feedback, cancelled))
        if handle.is_cancel_requested:
            handle.canceled()
        else:
            handle.succeed()
        return _to_result(outcome, saved)

    def _run_once(self) -> None:
        try:
            outcome, saved = self._calibrate(CalibrateHandEye.Goal(), lambda progress: None, lambda: "")
        except Exception as error:
            self.fail(error)
            return
        if self._stopping.is_set():
            return
        where = f"; {saved.file} (id {saved.calibration_id})" if saved.file else f"; see {self.value('output')}"
        self.request_stop(f"calibration {outcome.verdict}{where}", 0 if outcome.accepted else 1)

    def _calibrate(self, goal: Any, feedback: Any, cancelled: Any) -> tuple[Outcome, Saved]:
        """One run from start to files; blocks."""
        with self._busy:
            self._last = ""
            self._hands.cancelled = lambda: "the node is stopping" if self._stopping.is_set() else str(cancelled())
            self._hands.needs_arm = True

            def report(progress: Progress) -> None:
                self._progress = progress
                if progress.phase not in QUIET_PHASES:
                    self.get_logger().info(_in_words(progress))
                feedback(progress)

            try:
                report(Progress("waiting", 0, goal.max_poses or self.value("max_poses"), message="for arm and camera"))
                self._hands.wait_until_ready(READY_S)
                session = self._session(goal.mode or self.value("mode"))
                folder = Path(goal.output or self.value("output"))
                samples = SampleFolder(folder, session, resume=goal.resume or self.value("resume"))
            except (CalibrationStopped, SampleError, CalibrationFileError, ValueError) as error:
                outcome = Outcome(None, str(error), 0, stopped=True)
                self._finish(outcome)
                return outcome, Saved()
            run_settings = self._run_settings(goal)
            sequence = CalibrationRun(
                self._hands, session.setup, self._kinematics, self._cell.safety, samples, run_settings,
                seed=self.value("seed"), report=report, on_image=self._show,
            )  # fmt: skip
            outcome = sequence.run()
            install_at = goal.calibration_file or self._install_at()
            saved = save_outcome(folder, session, outcome, install_at)
            self._finish(outcome)
            return outcome, saved

    def _finish(self, outcome: Outcome) -> None:
        self._last = outcome.verdict
        self._progress = dataclasses.replace(self._progress, phase="waiting", message="")
        self.get_logger().info(outcome.verdict)
        if outcome.result is not None:
            for line in gate_lines(outcome.result.gates):
                self.get_logger().info(f"gate {line}")

    def _run_settings(self, goal: Any) -> RunSettings:
        max_poses = int(goal.max_poses or self.value("max_poses"))
        return RunSettings(
            max_poses=max_poses,
            min_poses=min(self.value("min_poses"), max_poses),
            target_sigma_mm=goal.target_sigma_mm or self.value("target_sigma_mm"),
            look=LookSettings(frames=self.value("frames_per_view")),
            solver=HandEyeSettings(),
        )

    def _session(self, mode: str) -> Session:
        """Guesses of both mounts, and whose camera it is.

        Raises:
            CalibrationStopped: there is nothing to guess the camera's place from.
        """
        path = camera_path(self._cell)
        try:
            nominal = load_calibration(path)
        except CalibrationFileError:
            nominal = None
        serial = self._cell.camera.serial or (nominal.serial if nominal is not None else "")
        if self.value("camera_pose"):
            X = pose_of_words(self.value("camera_pose"), "camera_pose")
        elif nominal is not None and nominal.mode == mode:
            in_hand = nominal.T_tool_camera
            X = nominal.camera.T_base_camera if in_hand is None else in_hand
        else:
            raise CalibrationStopped(
                f"no guess of where the camera is: {path} holds none for {mode}. Measure it roughly (6 cm, 6 degrees) "
                "and pass camera_pose as 'x y z rx ry rz'"
            )
        width, height = self._board.size_m
        name = "board_pose" if mode == "eye_to_hand" else "table_board_pose"
        centre = pose_of_words(self.value(name), name)
        Y = centre @ transform((-0.5 * width, -0.5 * height, 0.0))
        camera = self._hands.camera()
        if self.value("intrinsics"):
            camera = load_intrinsics(Path(self.value("intrinsics")).expanduser()).resized(camera.width, camera.height)
        setup = ViewSetup(mode, camera, self._board, X, Y)  # type: ignore[arg-type]
        return Session(setup, serial, self._cell.name)

    # ---- by hand

    async def _by_hand(self, verb: str) -> str:
        if self._busy.locked():
            raise Refused("a run is in progress; cancel it first, or wait for its end")
        return str(await self._work(lambda: self._do_by_hand(verb)))

    async def _work(self, work: Callable[[], object]) -> object:
        """Run something that blocks, alone; its errors are refusals."""
        if self._busy.locked():
            raise Refused("the calibrator is busy; cancel the run, or wait for its end")

        def alone() -> object:
            with self._busy:
                self._last = ""
                answer = work()
                if self._manual is not None:
                    self._progress = self._manual.progress
                return answer

        try:
            return await self.in_thread(alone)
        except (CalibrationStopped, SampleError, CalibrationFileError, ValueError) as error:
            raise Refused(str(error)) from error

    def _do_by_hand(self, verb: str) -> str:
        manual = self._manual_session()
        if verb == "take_sample":
            return manual.take(self._look_once())
        if verb == "remove_sample":
            return manual.remove()
        if verb == "compute":
            return manual.compute()
        return manual.save(self._install_at())

    def _manual_session(self) -> ManualSession:
        if self._manual is None:
            session = self._session(self.value("mode"))
            samples = SampleFolder(self.value("output"), session, resume=True)
            self._manual = ManualSession(session, samples, self.value("max_poses"))
        return self._manual

    def _look_once(self) -> Look:
        settings = LookSettings(frames=self.value("frames_per_view"))
        self._hands.needs_arm = False
        return look(self._hands, self._board, settings, on_image=self._show)

    def _install_at(self) -> str:
        return str(camera_path(self._cell)) if self.value("install") else ""

    def _easy_parameters(self) -> HandeyeParameters:
        prefix = self.value("tf_prefix")
        return HandeyeParameters(
            name=self.value("name"),
            calibration_type="eye_on_base" if self.value("mode") == "eye_to_hand" else "eye_in_hand",
            robot_base_frame=f"{prefix}base",
            robot_effector_frame=f"{prefix}tcp",
            tracking_base_frame=f"{prefix}{CAMERA_FRAME}",
            tracking_marker_frame=f"{prefix}{BOARD_FRAME}",
            freehand_robot_movement=True,
        )

    # ---- what people see

    def _preview(self) -> None:
        """Show the newest image when no run does."""
        if self._busy.locked():
            return
        newest = self._hands.newest_image()
        if newest is not None and newest.stamp_ns > self._drawn_ns:
            self._drawn_ns = newest.stamp_ns
            self._show(newest, detect(newest.image, self._board))

    def _show(self, frame: CameraImage, view: BoardView | None) -> None:
        """Publish the board's frame, and the picture when somebody watches; without camera_info neither."""
        camera, T_camera_board = self._hands.intrinsics(), None
        if camera is None:
            return
        stamp_ns = frame.stamp_ns
        if view is not None:
            T_camera_board, _ = board_pose(view, self._board, camera)
            prefix = self.value("tf_prefix")
            seen = transform_stamped(T_camera_board, stamp_ns, f"{prefix}{CAMERA_FRAME}", f"{prefix}{BOARD_FRAME}")
            self._frames.publish(TFMessage(transforms=[seen]))
        if self._pictures.get_subscription_count() == 0:
            return
        progress = self._progress
        found = 0 if view is None else len(view.ids_N)
        lines = [f"pose {progress.pose} of {progress.poses}  {progress.phase}", f"{found} corners"]
        if math.isfinite(progress.sigma_mm):
            lines.append(f"sigma {progress.sigma_mm:.2f} mm  {progress.sigma_deg:.3f} deg")
        picture = draw(frame.image, view, lines, board=self._board, camera=camera, T_camera_board=T_camera_board)
        with self._picture_lock:
            if self._message is None or self._message.pixels.shape != picture.shape:
                frame_id = f"{self.value('tf_prefix')}{CAMERA_FRAME}"
                self._message = ImageMessage(picture.shape[0], picture.shape[1], "rgb8", frame_id)
            self._pictures.publish(self._message.fill(picture, stamp_ns))


def pose_of_words(words: str, name: str) -> NDArray[np.float64]:
    """4x4 pose of 'x y z rx ry rz' (metres, rotation vector in radians).

    Raises:
        ValueError: not six numbers.
    """
    try:
        numbers = [float(word) for word in words.replace(",", " ").split()]
    except ValueError:
        numbers = []
    if len(numbers) != 6 or not all(map(math.isfinite, numbers)):
        raise ValueError(f"{name} must be six numbers 'x y z rx ry rz' (metres, rotation vector), got {words!r}")
    return from_ur(numbers)


def _board(value: Any) -> Board:
    marker_m = value("board_marker_m") if value("board_kind") == "charuco" else 0.0
    return Board(
        value("board_kind"), value("board_columns"), value("board_rows"), value("board_square_m"), marker_m,
        value("board_dictionary"), value("board_legacy"),
    )  # fmt: skip


def _in_words(progress: Progress) -> str:
    words = f"pose {progress.pose} of {progress.poses}, {progress.phase}"
    if progress.message:
        words += f": {progress.message}"
    if math.isfinite(progress.sigma_mm):
        words += (
            f" [sigma {progress.sigma_mm:.2f} mm {progress.sigma_deg:.3f} deg, held out {progress.held_out_px:.2f} px]"
        )
    return words


def _to_result(outcome: Outcome, saved: Saved) -> CalibrateHandEye.Result:
    answer = CalibrateHandEye.Result(
        accepted=outcome.accepted,
        message=outcome.verdict,
        calibration_id=saved.calibration_id,
        calibration_file=saved.file,
        poses=outcome.poses,
    )
    result = outcome.result
    if result is None:
        answer.sigma_mm = answer.sigma_deg = math.nan
        answer.held_out_px = answer.held_out_mm = answer.held_out_deg = math.nan
        return answer
    answer.camera = to_pose(result.X)
    answer.sigma_mm, answer.sigma_deg = float(result.sigma_mm), float(result.sigma_deg)
    answer.held_out_px = float(result.held_out.pixels_rms)
    answer.held_out_mm = float(result.held_out.millimetres_rms)
    answer.held_out_deg = float(result.held_out.degrees_rms)
    answer.gates = gate_lines(result.gates)
    return answer


def main() -> None:
    """Entry point of the executable ``calibrator``."""
    sys.exit(run(CalibratorNode))


if __name__ == "__main__":
    main()
