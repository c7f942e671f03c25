"""The board: its picture has its geometry, and its corners are found where they are, or it is said why not."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from calibration.board import DEFAULT_BOARD, Board, BoardView, board_pose, detect, explain_absence
from calibration.camera import PinholeCamera
from tests.helpers.board_pictures import facing, take_picture, true_corners

Array = NDArray[np.float64]

CAMERA = PinholeCamera(424.0, 424.0, 423.5, 239.5, 848, 480)
CHESSBOARD = Board("chessboard", 9, 6, 0.030)
SMALL = Board("charuco", 5, 4, 0.050, 0.037, "DICT_4X4_50")
BENT = PinholeCamera(424.0, 426.0, 420.0, 242.0, 848, 480, distortion=np.array([-0.06, 0.05, 0.001, -0.001, -0.01]))


@pytest.mark.parametrize("board", [DEFAULT_BOARD, CHESSBOARD, SMALL], ids=lambda board: board.name)
def test_corners_of_the_printed_picture_are_where_the_geometry_says(board: Board) -> None:
    margin, pixels = 1.0, 60
    view = detect(board.image(pixels, margin), board)
    assert view is not None
    expected = (board.corners_board_N3[:, :2] / board.square_m + margin) * pixels - 0.5
    assert view.ids_N.tolist() == list(range(board.corner_count))
    assert view.corners_px_N2 == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("board", [DEFAULT_BOARD, CHESSBOARD], ids=lambda board: board.kind)
@pytest.mark.parametrize(("distance_m", "rms_px"), [(0.45, 0.08), (0.70, 0.15), (0.95, 0.20)])
def test_corner_noise_stays_far_below_a_pixel(board: Board, distance_m: float, rms_px: float) -> None:
    rng = np.random.default_rng(1)
    errors = []
    for camera in (CAMERA, BENT):
        for _ in range(2):
            T = facing(board, distance_m, rng.uniform(-0.55, 0.55, 3), tuple(rng.uniform(-0.06, 0.06, 2)))
            view = detect(take_picture(board, T, camera, rng), board)
            assert view is not None
            assert len(view.ids_N) == board.corner_count
            errors.append(view.corners_px_N2 - true_corners(board, T, camera)[view.ids_N])
    assert float(np.sqrt(np.mean(np.concatenate(errors) ** 2))) < rms_px


def test_pose_of_the_board_is_its_true_pose() -> None:
    rng = np.random.default_rng(2)
    for rotvec in ([0.4, -0.3, 0.2], [-0.5, 0.1, 3.0]):
        T = facing(DEFAULT_BOARD, 0.6, np.array(rotvec), (0.05, -0.02))
        view = detect(take_picture(DEFAULT_BOARD, T, BENT, rng), DEFAULT_BOARD)
        assert view is not None
        found, rms_px = board_pose(view, DEFAULT_BOARD, BENT)
        assert rms_px < 0.25
        assert found[:2, 3] == pytest.approx(T[:2, 3], abs=0.0005)
        assert found[2, 3] == pytest.approx(T[2, 3], abs=0.002)
        angle = np.linalg.norm(cv2.Rodrigues(found[:3, :3].T @ T[:3, :3])[0])
        assert np.degrees(angle) < 0.5


def test_pose_refuses_a_camera_of_another_image_size() -> None:
    view = BoardView(np.arange(6, dtype=np.int32), np.zeros((6, 2)), 424, 240)
    with pytest.raises(ValueError, match="424x240"):
        board_pose(view, DEFAULT_BOARD, CAMERA)


@pytest.mark.parametrize("turn", [0.0, np.pi])
def test_chessboard_turned_by_half_keeps_its_corner_numbers(turn: float) -> None:
    T = facing(CHESSBOARD, 0.6, np.array([0.0, 0.0, turn]))
    view = detect(take_picture(CHESSBOARD, T, CAMERA, np.random.default_rng(0)), CHESSBOARD)
    assert view is not None
    assert view.corners_px_N2 == pytest.approx(true_corners(CHESSBOARD, T, CAMERA)[view.ids_N], abs=0.3)


def test_covered_corners_are_left_out_and_the_others_stay_exact() -> None:
    T = facing(DEFAULT_BOARD, 0.5, np.array([0.2, 0.3, 0.0]))
    image = take_picture(DEFAULT_BOARD, T, CAMERA, np.random.default_rng(0))
    true = true_corners(DEFAULT_BOARD, T, CAMERA)
    cv2.rectangle(image, (330, 100), (450, 260), 90, -1)
    covered = np.all((true > [330, 100]) & (true < [450, 260]), axis=1)
    assert 5 < covered.sum() < 35
    view = detect(image, DEFAULT_BOARD)
    assert view is not None
    assert not set(view.ids_N) & set(np.flatnonzero(covered))
    assert len(view.ids_N) > 0.6 * (~covered).sum()
    assert view.corners_px_N2 == pytest.approx(true[view.ids_N], abs=0.5)


@pytest.mark.parametrize("shape", [(120, 160), (120, 160, 3)])
def test_empty_picture_has_no_board(shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).integers(90, 110, shape, dtype=np.uint8)
    assert detect(image, DEFAULT_BOARD) is None
    assert detect(image, CHESSBOARD) is None


def _picture(board: Board, distance_m: float = 0.5, **how: float) -> NDArray[np.uint8]:
    return take_picture(
        board, facing(board, distance_m, np.array([0.2, 0.2, 0.0])), CAMERA, np.random.default_rng(0), **how
    )


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (lambda: np.full((480, 848), 7, np.uint8), "no contrast"),
        (lambda: _picture(Board("charuco", 9, 6, 0.030, 0.022, "DICT_6X6_250")), "carries DICT_6X6"),
        (lambda: _picture(Board("charuco", 12, 9, 0.030, 0.022)), "board in view is larger"),
        (lambda: _picture(DEFAULT_BOARD, blur_px=9.0), "blurred"),
        (lambda: np.random.default_rng(0).integers(0, 255, (480, 848), np.uint8), "no board in view"),
    ],
)
def test_absent_board_is_explained(picture: Callable[[], NDArray[np.uint8]], words: str) -> None:
    image = picture()
    if "larger" not in words:
        assert detect(image, DEFAULT_BOARD) is None
    assert words in explain_absence(image, DEFAULT_BOARD)


def test_mirrored_board_is_not_taken_for_the_board() -> None:
    assert detect(np.ascontiguousarray(_picture(DEFAULT_BOARD)[:, ::-1]), DEFAULT_BOARD) is None


def test_board_with_other_markers_at_its_squares_is_not_taken_for_the_board() -> None:
    # The same first ids stand elsewhere: no plane fits them.
    assert detect(_picture(Board("charuco", 7, 8, 0.030, 0.022)), DEFAULT_BOARD) is None


def test_legacy_pattern_needs_to_be_asked_for() -> None:
    old = Board("charuco", 9, 6, 0.030, 0.022, legacy_pattern=True)
    assert detect(_picture(old), old) is not None
    assert not np.array_equal(old.image(40), DEFAULT_BOARD.image(40))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Board("chessboard", 8, 6, 0.03), "half a turn"),
        (lambda: Board("charuco", 9, 6, 0.03, 0.04), "marker_m"),
        (lambda: Board("charuco", 9, 6, 0.03, 0.02, "DICT_9X9"), "unknown dictionary"),
        (lambda: Board("charuco", 20, 20, 0.03, 0.02, "DICT_5X5_100"), "larger dictionary"),
        (lambda: Board("charuco", 2, 6, 0.03, 0.02), "at least 3 x 3"),
        (lambda: DEFAULT_BOARD.image(8), "at least"),
        (lambda: Board.from_dict({"kind": "charuco", "squares": 3}), "not a board description"),
    ],
)
def test_impossible_board_is_refused(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def test_description_of_a_board_makes_the_same_board() -> None:
    assert Board.from_dict(SMALL.to_dict()) == SMALL
