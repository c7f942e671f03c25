"""The sequence that calibrates a camera by itself: choose a view, go there, stand still, look, solve, until sure.

The first views come from rough guesses of where camera and board are (wrong by centimetres and degrees), so they keep
the board in the middle of the image. The first view corrects the guess; from three views on the solver's own result
leads, and each next view is the one expected to shrink the covariance most. Nothing here knows ROS: what moves the arm
and what sees are given.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from calibration.board import BoardView, board_pose
from calibration.hand_eye import DegenerateSamples, HandEyeResult, HandEyeSettings, solve
from calibration.next_pose import choose_next
from prophrl_nodes.calibrating.look import CalibrationStopped, CameraImage, Eyes, LookSettings, look
from prophrl_nodes.calibrating.samples import SampleFolder, View
from robot_bridge.arm_clearance import path_problem
from robot_bridge.cell import SafetyConfig
from robot_bridge.ur_kinematics import Kinematics
from robot_bridge.view_poses import ViewLimits, ViewPose, ViewSetup, candidates, clearance_for, most_different

Array = NDArray[np.float64]

FIRST_VIEWS = 3
MAX_MISSES_IN_A_ROW = 5
GUESS_DOUBT_M = 0.10
KNOWN_DOUBT_M = 0.02
GUESS_MARGIN_SHARE = 0.19
"""Of the image height: 6 cm and 6 degrees at half a metre move the board about so far."""
ONE_VIEW_MARGIN_SHARE = 0.10
SOLVED_MARGIN_PX = 10.0
ENOUGH_VIEWS = 4
"""With fewer views to choose from, a smaller margin is tried."""


class Hands(Eyes, Protocol):
    """An arm that can be sent to joint angles, and eyes."""

    def move(self, q: Array) -> None:
        """Go there and arrive. Raises ``CalibrationStopped`` when the arm stops or refuses."""


@dataclass(frozen=True)
class RunSettings:
    """When a run is done.

    Attributes:
        max_poses: views at most, samples of an earlier run included.
        min_poses: no earlier end than after this many, however small the covariance: held-out errors need views.
        target_sigma_mm: expected error of the camera's position that is good enough.
    """

    max_poses: int = 15
    min_poses: int = 9
    target_sigma_mm: float = 0.4
    look: LookSettings = field(default_factory=LookSettings)
    solver: HandEyeSettings = field(default_factory=HandEyeSettings)


@dataclass(frozen=True)
class Progress:
    """Where a run is: phase, pose k of n, corners of the newest view, what the newest solution says of itself."""

    phase: str
    pose: int
    poses: int
    corners: int = 0
    sigma_mm: float = math.nan
    sigma_deg: float = math.nan
    held_out_px: float = math.nan
    message: str = ""


@dataclass(frozen=True)
class Outcome:
    """How a run ended: the newest solution (None when there was none) and why it ended, in words."""

    result: HandEyeResult | None
    reason: str
    poses: int
    stopped: bool = False

    @property
    def accepted(self) -> bool:
        """There is a solution and all its gates passed."""
        return self.result is not None and self.result.accepted and not self.stopped

    @property
    def verdict(self) -> str:
        """The outcome in one line."""
        if self.result is None:
            return f"no calibration: {self.reason}"
        held = self.result.held_out
        figures = (
            f"{self.poses} poses, sigma {self.result.sigma_mm:.2f} mm {self.result.sigma_deg:.3f} deg, held out "
            f"{held.pixels_rms:.2f} px {held.millimetres_rms:.2f} mm {held.degrees_rms:.2f} deg"
        )
        if self.stopped:
            return f"stopped: {self.reason} ({figures})"
        if self.result.accepted:
            return f"accepted: {figures} ({self.reason})"
        failed = "; ".join(f"{gate.name}: {gate.reason}" for gate in self.result.failures)
        return f"refused: {failed} ({figures})"


class CalibrationRun:
    """One run over a folder of samples.

    Args:
        setup: mode, camera model, board, and the guesses of both mounts.
        report: called whenever something changes.
        on_image: called with every image looked at and what was found in it.
    """

    def __init__(
        self,
        hands: Hands,
        setup: ViewSetup,
        kinematics: Kinematics,
        safety: SafetyConfig,
        samples: SampleFolder,
        settings: RunSettings | None = None,
        *,
        seed: int = 0,
        report: Callable[[Progress], None] = lambda progress: None,
        on_image: Callable[[CameraImage, BoardView | None], None] = lambda image, view: None,
    ) -> None:
        self._hands = hands
        self._guess = setup
        self._setup = setup
        self._kinematics = kinematics
        self._safety = safety
        self._samples = samples
        self._settings = settings or RunSettings()
        self._rng = np.random.default_rng(seed)
        self._report = report
        self._on_image = on_image
        self._result: HandEyeResult | None = None
        self._corners = 0
        self._unsolved = ""
        self._missed: list[Array] = []

    def run(self) -> Outcome:
        """Until sure, out of poses, or stopped; never raises ``CalibrationStopped``."""
        reason, stopped = "", False
        try:
            reason = self._take_views()
        except CalibrationStopped as stop:
            reason, stopped = str(stop), True
        count = len(self._samples.views)
        if self._result is None:
            return Outcome(None, reason or self._unsolved, count, stopped)
        return Outcome(self._result, reason, count, stopped)

    def _take_views(self) -> str:
        start = self._hands.arm().q
        if self._samples.views:
            self._learn()
        misses = 0
        while not (done := self._done()):
            self._hands.check()
            self._say("choosing", "choosing the next view")
            view_pose, expected = self._choose(start)
            self._say("moving", expected)
            self._hands.move(view_pose.q)
            self._say("settling", "waiting until the arm stands")
            seen = look(self._hands, self._guess.board, self._settings.look, on_image=self._on_image)
            if seen.view is None:
                misses += 1
                self._missed.append(view_pose.T_base_tool)
                self._say("looking", f"no view here: {seen.problem}")
                if misses >= MAX_MISSES_IN_A_ROW:
                    return self._why_blind(misses, seen.problem)
                continue
            misses = 0
            self._corners = len(seen.view.view.ids_N)
            self._samples.append(seen.view, seen.image)
            self._say("solving", f"{self._corners} corners")
            self._learn()
        self._go_back(start)
        return done

    def _done(self) -> str:
        """Why no further view is needed; empty when one is."""
        settings, count = self._settings, len(self._samples.views)
        result = self._result
        good = result is not None and result.accepted and result.sigma_mm <= settings.target_sigma_mm
        if good and count >= settings.min_poses:
            return f"expected error below {settings.target_sigma_mm:g} mm"
        if count < settings.max_poses:
            return ""
        if result is None:
            return f"no solution after {count} views: {self._unsolved}"
        return f"{count} views are the limit"

    def _learn(self) -> None:
        """Solve with all views, or correct the guess while they are too few."""
        views = self._samples.views
        setup = self._guess
        self._correct_guess(views[-1])
        if len(views) < FIRST_VIEWS:
            return
        try:
            result = solve(
                [view.sample() for view in views],
                setup.board.corners_board_N3,
                setup.camera,
                setup.mode,
                self._settings.solver,
            )
        except DegenerateSamples as error:
            self._unsolved = str(error)
            self._say("solving", f"not yet solvable: {error}")
            return
        self._result, self._unsolved = result, ""
        self._setup = dataclasses.replace(setup, X=result.X, Y=result.Y)
        self._say("solving", "solved")

    def _correct_guess(self, view: View) -> None:
        T_camera_board, _ = board_pose(view.view, self._guess.board, self._guess.camera)
        self._setup = self._guess.corrected(view.T_base_tool, T_camera_board)

    # ---- choosing

    def _limits(self) -> list[ViewLimits]:
        """What views are drawn from, the best first; the next is for cells that leave no room for the one before."""
        height = self._guess.camera.height
        if self._result is not None:
            return [ViewLimits(margin_px=SOLVED_MARGIN_PX)]
        if self._samples.views:
            margin, tilt, roll = ONE_VIEW_MARGIN_SHARE * height, (0.25, 0.7), ViewLimits.roll_rad
        else:
            margin, tilt, roll = GUESS_MARGIN_SHARE * height, (0.0, 0.4), 0.6
        shares = (1.0, 0.6, 0.3)
        return [
            ViewLimits(margin_px=share * margin, tilt_rad=(share * tilt[0], tilt[1]), roll_rad=roll) for share in shares
        ]

    def _choose(self, q_start: Array) -> tuple[ViewPose, str]:
        """The next view to take and what is expected of it."""
        q_now = self._hands.arm().q
        views = self._draw(q_now, q_start)
        if not views:
            # Cornered: from where the run began there were ways to everything that was reached so far.
            self._say("moving", "no clear way from here, going back to the start")
            self._go_back(q_start)
            views = self._draw(self._hands.arm().q, q_start)
        if not views:
            raise CalibrationStopped(
                "no view can be reached: the board cannot be turned to the camera within the workspace box, clear of "
                "table, arm and camera. Check the guesses of camera and board, move the arm to the middle of its "
                "workspace, or widen safety.workspace_min_m/max_m in the cell file if the cell has room"
            )
        if self._result is None:
            done = [view.T_base_tool for view in self._samples.views] + self._missed
            return views[most_different(views, done)], "a first view, from the guess"
        result = self._result
        choice = choose_next(
            np.array([view.T_base_tool for view in views]),
            [view.T_base_tool for view in self._samples.views],
            result.X,
            result.Y,
            self._guess.board.corners_board_N3,
            self._guess.camera,
            result.mode,
            self._settings.solver,
        )
        if choice.index is None:
            return views[0], "a view the solution does not promise anything for"
        return views[choice.index], f"expected error after this view {choice.sigma_mm:.2f} mm"

    def _draw(self, q_now: Array, q_start: Array) -> list[ViewPose]:
        doubt = GUESS_DOUBT_M if not self._samples.views else KNOWN_DOUBT_M
        for limits in self._limits():
            views = candidates(
                self._setup, q_now, q_start, self._kinematics, self._safety, self._rng, limits=limits, doubt_m=doubt
            )
            views = [view for view in views if not self._missed_near(view)]
            if len(views) >= ENOUGH_VIEWS:
                break
        return views

    def _missed_near(self, view: ViewPose) -> bool:
        """A place where the board was not found is not tried again."""
        return any(
            float(np.linalg.norm(view.T_base_tool[:3, 3] - T[:3, 3])) < 0.03
            and float(np.trace(view.T_base_tool[:3, :3].T @ T[:3, :3])) > 2.97
            for T in self._missed
        )

    def _go_back(self, q_start: Array) -> None:
        """To where the run began, unless the board or the camera would be in the way."""
        clearance = clearance_for(self._setup, self._kinematics)
        problem = path_problem(self._hands.arm().q, q_start, clearance, self._safety)
        if problem:
            self._say("moving", f"the arm stays where it is: {problem}")
        else:
            self._hands.move(q_start)

    # ---- words

    def _why_blind(self, misses: int, problem: str) -> str:
        if self._samples.views:
            return f"no view of the board at {misses} places in a row: {problem}"
        return (
            f"no view of the board at any of {misses} places: {problem}. The guesses of camera and board may be "
            "wrong by more than 6 cm or 6 degrees: measure them again (camera_pose, board_pose), or take "
            "the views by hand (drive:=manual)"
        )

    def _say(self, phase: str, message: str) -> None:
        result = self._result
        self._report(
            Progress(
                phase,
                len(self._samples.views),
                self._settings.max_poses,
                self._corners,
                math.nan if result is None else result.sigma_mm,
                math.nan if result is None else result.sigma_deg,
                math.nan if result is None else result.held_out.pixels_rms,
                message,
            )
        )
