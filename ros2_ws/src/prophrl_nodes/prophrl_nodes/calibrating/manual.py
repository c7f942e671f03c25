"""Calibration with a person who moves the arm: views are taken when asked, solved when asked, saved when accepted."""

from __future__ import annotations

from calibration.hand_eye import DegenerateSamples, HandEyeResult, HandEyeSettings, solve
from prophrl_nodes.calibrating.look import Look
from prophrl_nodes.calibrating.outcome import save_outcome
from prophrl_nodes.calibrating.run import Outcome, Progress
from prophrl_nodes.calibrating.samples import SampleError, SampleFolder, Session, View
from robot_bridge.view_poses import ViewSetup


class ManualSession:
    """Samples of one session and the newest solution of exactly these samples. Answers are for the operator."""

    def __init__(
        self, session: Session, samples: SampleFolder, poses: int, settings: HandEyeSettings | None = None
    ) -> None:
        self._session = session
        self._samples = samples
        self._poses = poses
        self._settings = settings or HandEyeSettings()
        self._result: HandEyeResult | None = None
        self._corners = 0

    @property
    def progress(self) -> Progress:
        """As a run reports it."""
        result = self._result
        count = len(self._samples.views)
        if result is None:
            return Progress("by hand", count, self._poses, self._corners)
        held = result.held_out.pixels_rms
        return Progress(
            "by hand", count, self._poses, self._corners, result.sigma_mm, result.sigma_deg, held, "computed"
        )

    def take(self, seen: Look) -> str:
        """Keep a view.

        Raises:
            SampleError: the board was not found; says why.
        """
        if seen.view is None:
            raise SampleError(f"no sample: {seen.problem}")
        self._corners = len(seen.view.view.ids_N)
        index = self._samples.append(seen.view, seen.image)
        self._result = None
        return f"sample {index}: {self._corners} corners; {len(self._samples.views)} samples now"

    @property
    def views(self) -> list[View]:
        """What was taken and not removed."""
        return self._samples.views

    @property
    def setup(self) -> ViewSetup:
        """What is calibrated, with the guesses it began with."""
        return self._session.setup

    @property
    def result(self) -> HandEyeResult | None:
        """The newest solution of exactly these samples."""
        return self._result

    def remove(self, place: int = -1) -> str:
        """Forget a view, the newest by default."""
        index = self._samples.remove(place)
        self._result = None
        return f"sample {index} removed; {len(self._samples.views)} samples now"

    def compute(self) -> str:
        """Solve with the samples there are.

        Raises:
            SampleError: they do not determine a calibration; says what is missing.
        """
        views, setup = self._samples.views, self._session.setup
        try:
            self._result = solve(
                [view.sample() for view in views],
                setup.board.corners_board_N3,
                setup.camera,
                setup.mode,
                self._settings,
            )
        except DegenerateSamples as error:
            self._result = None
            raise SampleError(f"not solvable: {error}") from error
        return self._outcome().verdict

    def save(self, install_at: str) -> str:
        """Write the accepted solution, computing it first when the samples changed.

        Raises:
            SampleError: a gate refused it, or there is no solution.
        """
        if self._result is None:
            self.compute()
        outcome = self._outcome()
        saved = save_outcome(self._samples.folder, self._session, outcome, install_at)
        if not outcome.accepted:
            raise SampleError(outcome.verdict)
        return f"{saved.file} (id {saved.calibration_id}); {outcome.verdict}"

    def _outcome(self) -> Outcome:
        return Outcome(self._result, "by hand", len(self._samples.views))
