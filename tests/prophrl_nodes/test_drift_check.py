"""Verdicts on episodes: robot and marker together, references on disk, and what cannot be judged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from prophrl_nodes.drift_watch.check import DriftChecker, MarkerFileError, NoReference, camera_for, load_board
from prophrl_nodes.drift_watch.filing import find_episode, wait_filed, write_verdict
from prophrl_nodes.drift_watch.references import (
    DriftReference,
    DriftReferenceError,
    load_reference,
    reference_path,
    save_reference,
)
from prophrl_nodes.drift_watch.verdict import DriftVerdict
from prophrl_nodes.recorder.episode import EpisodeInfo, EpisodeStore

from calibration.board import Board, BoardView
from calibration.drift import make_marker_reference
from calibration.storage import CameraCalibration
from robot_bridge.cell_files import open_cell
from tests.helpers.drift_episodes import BUMP, Studio

BOARD = Board("chessboard", 6, 5, 0.040)


@pytest.fixture(scope="module")
def studio() -> Iterator[Studio]:
    studio = Studio()
    yield studio
    studio.close()


@pytest.fixture(scope="module")
def calibration(studio: Studio) -> CameraCalibration:
    return CameraCalibration("0123456789ab", "2025-06-01T12:00:00+00:00", "1", studio.camera)


@pytest.fixture(scope="module")
def checker() -> DriftChecker:
    return DriftChecker(open_cell("twin"))


@pytest.fixture(scope="module")
def reference(studio: Studio, checker: DriftChecker, calibration: CameraCalibration) -> DriftReference:
    return checker.reference(studio.film(0), calibration, "first")


def corners(shift_px: float) -> BoardView:
    grid = np.stack(np.meshgrid(np.arange(5) * 12.0, np.arange(4) * 12.0), axis=-1).reshape(-1, 2)
    return BoardView(np.arange(20, dtype=np.int32), grid + np.array([30.0 + shift_px, 40.0]), 424, 240)


def with_marker(
    reference: DriftReference, monkeypatch: pytest.MonkeyPatch, shift_px: float
) -> tuple[DriftChecker, DriftReference]:
    """A checker that finds a standing board in every picture, displaced since the reference by ``shift_px``."""
    marker = make_marker_reference([corners(0.0)] * 6, BOARD, reference.camera)
    monkeypatch.setattr("prophrl_nodes.drift_watch.check.detect", lambda image, board: corners(shift_px))
    return DriftChecker(open_cell("twin"), BOARD), replace(reference, marker=marker)


def test_the_untouched_camera_stands_still_and_the_bumped_one_moved(
    studio: Studio, checker: DriftChecker, reference: DriftReference
) -> None:
    still = checker.check(studio.film(1), reference, "second")
    assert still.verdict == "still", still.reason
    assert (still.episode_id, still.reference_episode, still.frames) == ("second", "first", 14)
    moved = checker.check(studio.film(2, BUMP), reference, "third")
    assert moved.moved
    assert moved.pixels is not None and 1.0 < moved.pixels < 4.0
    assert moved.millimetres == pytest.approx(10.0, abs=1.0)
    assert "mm on the table; put the camera back, or calibrate again with: prophrl launch calibrate" in moved.reason
    assert moved.offset_px is not None and moved.offset_px[0] < -1.0  # the camera went right, the picture left


def test_an_episode_whose_camera_moved_halfway_does_not_become_the_reference(
    studio: Studio, checker: DriftChecker, calibration: CameraCalibration
) -> None:
    before, after = studio.film(3), studio.film(3, (0.03, 0.0, 0.0, 0.0, 0.0, 0.0))
    mixed = np.where((np.arange(14) % 2 == 0)[:, None, None, None], before.images_THW3, after.images_THW3)
    with pytest.raises(NoReference, match="its own frames do not agree"):
        checker.reference(replace(before, images_THW3=mixed), calibration, "bumped")


def test_too_little_to_look_at_is_unknown_and_says_how_little(
    studio: Studio, checker: DriftChecker, reference: DriftReference, calibration: CameraCalibration
) -> None:
    short = checker.check(studio.film(1, count=4), reference, "short")
    assert (short.verdict, short.reason) == ("unknown", "4 frames with joint angles, 6 needed")
    assert checker.check(None, reference, "none").reason.startswith("0 frames")
    with pytest.raises(NoReference, match="4 frames with joint angles, 12 needed"):
        checker.reference(studio.film(1, count=4), calibration, "short")
    dark = replace(studio.film(1), images_THW3=np.full((14, 240, 424, 3), 20, np.uint8))
    assert checker.check(dark, reference, "dark").verdict == "unknown"


def test_pictures_at_twice_the_size_are_checked_and_another_cut_out_is_refused(
    studio: Studio, checker: DriftChecker, calibration: CameraCalibration
) -> None:
    frames = studio.film(4)
    large = replace(frames, images_THW3=frames.images_THW3.repeat(2, axis=1).repeat(2, axis=2))
    assert camera_for(calibration, large).width == 848
    assert checker.reference(large, calibration, "large").camera.fx == pytest.approx(424.0)
    cut = replace(frames, images_THW3=frames.images_THW3[:, :, 52:372])
    with pytest.raises(NoReference, match="pictures are 320x240, the calibration is of 424x240"):
        camera_for(calibration, cut)
    with pytest.raises(NoReference, match="rides on the tool"):
        camera_for(replace(calibration, mode="eye_in_hand", T_tool_camera=np.eye(4)), frames)


def test_a_displaced_marker_alone_is_noted_but_the_robot_decides(
    studio: Studio, reference: DriftReference, monkeypatch: pytest.MonkeyPatch
) -> None:
    checker, marked = with_marker(reference, monkeypatch, 3.0)
    verdict = checker.check(studio.film(1), marked, "cleaned")
    assert verdict.verdict == "still"
    assert "marker is displaced by" in verdict.reason and "moved itself" in verdict.reason
    assert verdict.voices["marker"]["verdict"] == "moved"


@pytest.mark.parametrize(("shift_px", "expected"), [(0.0, "still"), (3.0, "moved")])
def test_where_the_robot_is_out_of_view_the_marker_decides(
    studio: Studio, reference: DriftReference, monkeypatch: pytest.MonkeyPatch, shift_px: float, expected: str
) -> None:
    checker, marked = with_marker(reference, monkeypatch, shift_px)
    blank = replace(studio.film(1), images_THW3=np.full((14, 240, 424, 3), 90, np.uint8))
    verdict = checker.check(blank, marked, "dark")
    assert verdict.verdict == expected, verdict.reason
    assert verdict.reason.startswith("marker: ")


def test_a_reference_is_the_same_after_a_stay_on_disk(
    studio: Studio, checker: DriftChecker, reference: DriftReference, tmp_path: Path
) -> None:
    marked = replace(reference, marker=make_marker_reference([corners(0.0)] * 6, BOARD, reference.camera))
    path = reference_path(tmp_path / "drift", "0123456789ab", 424, 240)
    assert load_reference(path) is None
    save_reference(path, marked)
    back = load_reference(path)
    assert back is not None and back.marker is not None
    assert (back.calibration_id, back.episode_id) == ("0123456789ab", "first")
    np.testing.assert_array_equal(back.robot.grey_KHW, reference.robot.grey_KHW)
    np.testing.assert_allclose(back.marker.corners_px_N2, corners(0.0).corners_px_N2)
    assert back.marker.board == BOARD
    frames = studio.film(5)
    assert checker.check(frames, replace(back, marker=None), "a") == checker.check(frames, reference, "a")
    assert sorted(p.name for p in path.parent.iterdir()) == ["0123456789ab-424x240.npz", "0123456789ab-424x240.yaml"]


def test_a_damaged_reference_names_itself_and_the_way_out(reference: DriftReference, tmp_path: Path) -> None:
    path = tmp_path / "x-424x240.yaml"
    save_reference(path, reference)
    path.with_suffix(".npz").write_bytes(b"PK half an archive")
    with pytest.raises(DriftReferenceError, match=r"x-424x240\.yaml .* delete it"):
        load_reference(path)
    path.write_text("format: something/9\n")
    with pytest.raises(DriftReferenceError, match="something/9"):
        load_reference(path)


def test_a_marker_file_that_describes_no_board_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "marker.yaml"
    file.write_text(json.dumps(BOARD.to_dict()))
    assert load_board(file) == BOARD
    file.write_text("kind: picture\n")
    with pytest.raises(MarkerFileError, match=r"marker\.yaml describes no board"):
        load_board(file)
    with pytest.raises(MarkerFileError):
        load_board(tmp_path / "none.yaml")


def test_a_verdict_follows_its_episode_to_where_it_is_filed(tmp_path: Path) -> None:
    store = EpisodeStore(tmp_path, reserve_bytes=0)
    verdict = DriftVerdict("still", "all is well", "e1", pixels=0.123456)
    assert write_verdict(tmp_path, verdict) is None
    folder = store.start(EpisodeInfo(task="place_cube", episode_id="e1"))
    assert not wait_filed(tmp_path, "e1", 0.0)  # nobody has decided yet
    assert write_verdict(tmp_path, verdict) == tmp_path / "incomplete" / "e1" / "drift.json"
    store.accept(folder, "success")
    assert wait_filed(tmp_path, "e1", 0.0)
    file = write_verdict(tmp_path, replace(verdict, verdict="moved"))
    assert file == tmp_path / "place_cube" / "e1" / "drift.json"
    written = json.loads(file.read_text())
    assert (written["format"], written["verdict"], written["pixels"]) == ("prophrl-drift/1", "moved", 0.1235)
    assert find_episode(tmp_path, "e1") == file.parent
    assert not [p for p in file.parent.iterdir() if p.name.endswith(".tmp")]
    store.discard(store.start(EpisodeInfo(task="place_cube", episode_id="e2")), "failure")
    assert not wait_filed(tmp_path, "e2", 0.0)


def test_the_figures_of_a_verdict_are_text_and_leave_out_what_was_not_measured() -> None:
    bare = DriftVerdict("unknown", "no calibration", "e1")
    assert bare.figures()["verdict"] == "unknown"
    assert "pixels" not in bare.figures()
    full = DriftVerdict("moved", "", "e1", pixels=2.0, offset_px=(1.5, -0.25), provisional=True)
    assert full.figures()["offset_px"] == "1.5 -0.25"
    assert full.figures()["provisional"] == "true"
