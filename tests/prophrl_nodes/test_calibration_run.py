"""The calibration sequence with an arm and a camera that obey at once: real solver, real kinematics, drawn corners."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from prophrl_nodes.calibrating import look as calibration_look
from prophrl_nodes.calibrating.look import ArmReading, LookSettings, look
from prophrl_nodes.calibrating.manual import ManualSession
from prophrl_nodes.calibrating.outcome import save_outcome
from prophrl_nodes.calibrating.run import CalibrationRun, Outcome, Progress, RunSettings
from prophrl_nodes.calibrating.samples import SampleError, SampleFolder, load_samples

from calibration.board import DEFAULT_BOARD, BoardView
from calibration.storage import load, save_camera
from prophrl_models.data.lines import LineError
from robot_bridge.cell import SafetyConfig
from robot_bridge.view_poses import ViewSetup
from tests.helpers.drawn_cell import CAMERA, GUESSES, HOME, KINEMATICS, DrawnCell, errors, session_of


def run(
    cell: DrawnCell, guess: ViewSetup, folder: Path, *, resume: bool = False, **settings: object
) -> tuple[Outcome, list[Progress]]:
    said: list[Progress] = []
    samples = SampleFolder(folder, session_of(guess), resume=resume)
    sequence = CalibrationRun(
        cell, guess, KINEMATICS, SafetyConfig(), samples, RunSettings(look=LookSettings(frames=3), **settings),  # type: ignore[arg-type]
        report=said.append,
    )  # fmt: skip
    return sequence.run(), said


@pytest.mark.parametrize("mode", ["eye_to_hand", "eye_in_hand"])
@pytest.mark.parametrize("seed", [1, 100])
def test_a_camera_that_stands_centimetres_from_the_guess_is_found(
    mode: str, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guess = GUESSES[mode]
    cell = DrawnCell(guess, seed, monkeypatch)
    outcome, said = run(cell, guess, tmp_path)
    assert outcome.accepted, outcome.verdict
    assert 9 <= outcome.poses <= 15
    assert outcome.result is not None
    millimetres, degrees = errors(outcome.result.X, cell.true.X)
    assert millimetres < 2.0
    assert degrees < 0.3
    sigmas = [progress.sigma_mm for progress in said if progress.message == "solved"]
    assert sigmas[-1] < 0.5 * sigmas[0]
    np.testing.assert_allclose(cell.moves[-1], HOME)  # back where it began


def test_samples_are_on_disk_as_they_are_taken_and_a_stopped_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guess = GUESSES["eye_to_hand"]
    cell = DrawnCell(guess, 1, monkeypatch)
    cell.stop_after = 4
    outcome, _ = run(cell, guess, tmp_path)
    assert outcome.stopped and not outcome.accepted
    assert "protective stop" in outcome.verdict
    session, views = load_samples(tmp_path)
    assert len(views) == outcome.poses >= 3
    assert (tmp_path / "samples" / "0001.png").is_file()
    assert session.setup.mode == "eye_to_hand"
    np.testing.assert_array_equal(session.setup.X, guess.X)

    with pytest.raises(SampleError, match="resume"):
        SampleFolder(tmp_path, session_of(guess))
    cell.stop_after, moves = 1000, len(cell.moves)
    resumed, _ = run(cell, guess, tmp_path, resume=True)
    assert resumed.accepted, resumed.verdict
    assert resumed.poses - len(views) <= len(cell.moves) - moves
    assert len(load_samples(tmp_path)[1]) == resumed.poses


def test_samples_of_another_setup_are_not_mixed_in(tmp_path: Path) -> None:
    samples = SampleFolder(tmp_path, session_of(GUESSES["eye_to_hand"]))
    samples._lines.write_text("")
    with pytest.raises(SampleError, match="mode"):
        SampleFolder(tmp_path, session_of(GUESSES["eye_in_hand"]), resume=True)


def test_a_torn_last_line_costs_only_that_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guess = GUESSES["eye_to_hand"]
    cell = DrawnCell(guess, 1, monkeypatch)
    outcome, _ = run(cell, guess, tmp_path, max_poses=4, min_poses=4)
    lines = tmp_path / "samples" / "samples.jsonl"
    lines.write_text(lines.read_text()[:-40])
    assert len(load_samples(tmp_path)[1]) == outcome.poses - 1
    resumed, _ = run(cell, guess, tmp_path, max_poses=4, min_poses=4, resume=True)
    assert len(load_samples(tmp_path)[1]) == resumed.poses == outcome.poses
    text = lines.read_text().splitlines()
    lines.write_text("\n".join(["{broken", *text[1:]]) + "\n")
    with pytest.raises(LineError, match="line 1"):
        load_samples(tmp_path)


def test_a_board_that_is_never_seen_ends_the_run_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guess = GUESSES["eye_to_hand"]
    cell = DrawnCell(guess, 1, monkeypatch)
    cell.hidden = True
    outcome, _ = run(cell, guess, tmp_path)
    assert not outcome.accepted
    assert "no marker in view" in outcome.verdict
    assert "camera_pose" in outcome.verdict
    assert len(cell.moves) <= 7


def test_too_few_views_are_refused_with_the_gate_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guess = GUESSES["eye_to_hand"]
    outcome, _ = run(DrawnCell(guess, 1, monkeypatch), guess, tmp_path, max_poses=4, min_poses=4)
    assert outcome.result is not None and not outcome.accepted
    assert outcome.verdict.startswith("refused: views")
    saved = save_outcome(tmp_path, session_of(guess), outcome, tmp_path / "installed.yaml")
    assert saved.file == "" and not (tmp_path / "installed.yaml").exists()
    said = json.loads((tmp_path / "result.json").read_text())
    assert said["accepted"] is False
    assert [gate["name"] for gate in said["gates"] if not gate["passed"]]


def test_an_accepted_calibration_is_saved_whole_and_installed_at_the_cells_image_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guess = GUESSES["eye_to_hand"]
    outcome, _ = run(DrawnCell(guess, 2, monkeypatch), guess, tmp_path)
    installed = tmp_path / "cell" / "camera.yaml"
    save_camera(installed, CAMERA.resized(424, 240), serial="123")
    saved = save_outcome(tmp_path, session_of(guess), outcome, installed)
    kept = load(saved.file)
    assert (kept.id, kept.samples, kept.camera.width) == (saved.calibration_id, outcome.poses, 848)
    assert kept.held_out is not None and kept.covariance_66 is not None
    assert outcome.result is not None
    np.testing.assert_allclose(kept.X, outcome.result.X, atol=1e-8)
    in_use = load(installed)
    assert (in_use.camera.width, in_use.camera.height) == (424, 240)
    np.testing.assert_allclose(in_use.X, kept.X, atol=1e-8)


def test_an_arm_that_keeps_moving_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = DrawnCell(GUESSES["eye_to_hand"], 1, monkeypatch)
    moving = cell.arm
    monkeypatch.setattr(cell, "arm", lambda: ArmReading(moving().q, np.full(6, 0.1), np.eye(4), cell.now_ns))
    seen = look(cell, DEFAULT_BOARD, LookSettings(patience_s=0.1))
    assert seen.view is None and "does not come to rest: shoulder_pan_joint" in seen.problem


def test_images_that_disagree_are_not_averaged(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = DrawnCell(GUESSES["eye_to_hand"], 1, monkeypatch)
    shaken = iter(range(1000))

    def shaking(image: object, board: object) -> BoardView:
        grid = DEFAULT_BOARD.corners_board_N3[:, :2] * 900.0 + 200.0 + 3.0 * (next(shaken) % 2)
        return BoardView(np.arange(40, dtype=np.int32), grid, 848, 480)

    monkeypatch.setattr(calibration_look, "detect", shaking)
    seen = look(cell, DEFAULT_BOARD)
    assert seen.view is None
    assert "images differ by" in seen.problem


def test_by_hand_views_are_taken_removed_computed_and_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guess = GUESSES["eye_to_hand"]
    cell = DrawnCell(guess, 1, monkeypatch)
    outcome, _ = run(cell, guess, tmp_path / "auto")
    poses = [view.q for view in load_samples(tmp_path / "auto")[1]]
    manual = ManualSession(session_of(guess), SampleFolder(tmp_path / "hand", session_of(guess)), 15)
    with pytest.raises(SampleError, match="not solvable"):
        manual.compute()
    for q in poses:
        cell.q = q
        assert "corners" in manual.take(look(cell, DEFAULT_BOARD))
    assert "removed" in manual.remove()
    assert len(load_samples(tmp_path / "hand")[1]) == len(poses) - 1
    cell.hidden = True
    with pytest.raises(SampleError, match="no marker in view"):
        manual.take(look(cell, DEFAULT_BOARD))
    cell.hidden = False
    manual.take(look(cell, DEFAULT_BOARD))
    assert manual.compute().startswith("accepted")
    assert "calibration.yaml" in manual.save("")
    assert outcome.accepted
