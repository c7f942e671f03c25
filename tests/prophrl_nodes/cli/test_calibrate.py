"""``prophrl calibrate``: the sub-commands that need no robot, and what ``hand-eye`` would start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from prophrl_nodes.calibrating.samples import SampleFolder, Session, View
from prophrl_nodes.cli.main import main
from scipy.spatial.transform import Rotation

from calibration.board import DEFAULT_BOARD, BoardView
from calibration.camera import PinholeCamera
from calibration.hand_eye import HandEyeSettings
from calibration.intrinsics_file import load_intrinsics
from calibration.storage import load
from calibration.synthetic_cell import SyntheticCell
from robot_bridge.twin.calibration_scene import nominal_T_base_board, nominal_T_tool_board
from robot_bridge.view_poses import ViewSetup

CAMERA = PinholeCamera(424.0, 424.0, 423.5, 239.5, 848, 480)


def test_it_lists_what_can_be_calibrated(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["calibrate", "--help"])
    said = capsys.readouterr().out
    for verb in ("hand-eye", "intrinsics", "board", "gello", "gripper", "resolve", "check"):
        assert verb in said


def test_hand_eye_starts_the_launch_file(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["calibrate", "hand-eye", "--cell", "twin", "--camera-seed", "7", "--poses", "12", "--dry-run"]
    assert main([*words, "camera_profile:=848x480@10"]) == 0
    said = capsys.readouterr().out
    assert "calibrator" in said
    for setting in ("camera_seed:=7", "max_poses:=12", "run:=true", "848x480@10"):
        assert setting in said
    assert main(["calibrate", "hand-eye", "--cell", "ur30e", "--manual", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "nodes.lab" not in said and "run:=false" in said


def test_the_guesses_of_the_launch_file_are_the_mounts_of_the_twin() -> None:
    from prophrl_nodes.nodes.calibrator import PARAMETERS, pose_of_words

    from calibration.poses import transform

    default = {spec.name: str(spec.default) for spec in PARAMETERS}
    width, height = DEFAULT_BOARD.size_m
    corner = transform((-0.5 * width, -0.5 * height, 0.0))
    tool = pose_of_words(default["board_pose"], "board_pose") @ corner
    table = pose_of_words(default["table_board_pose"], "table_board_pose") @ corner
    np.testing.assert_allclose(tool, nominal_T_tool_board(), atol=2e-4)
    np.testing.assert_allclose(table, nominal_T_base_board(), atol=2e-4)
    with pytest.raises(ValueError, match="six numbers"):
        pose_of_words("1 2 3", "camera_pose")


def test_the_board_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", "board", "--output", str(tmp_path / "board.pdf"), "--columns", "8"]) == 0
    assert (tmp_path / "board.pdf").read_bytes().startswith(b"%PDF")
    assert "charuco 8x6 30 mm" in capsys.readouterr().out
    assert main(["calibrate", "board", "--output", str(tmp_path / "board.gif")]) == 1


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """A folder as a run leaves it: views of a synthetic cell with noise, images blank."""
    rng = np.random.default_rng(2)
    settings = HandEyeSettings()
    cell = SyntheticCell.draw("eye_to_hand", rng)
    setup = ViewSetup("eye_to_hand", cell.camera, DEFAULT_BOARD, cell.X_nominal, cell.Y_nominal)
    folder = SampleFolder(tmp_path / "run", Session(setup, "7", "paper"))
    blank = np.zeros((8, 8, 3), dtype=np.uint8)
    for T in cell.candidates_M44[rng.permutation(len(cell.candidates_M44))]:
        seen = cell.view(T, settings, rng)
        if seen is not None and len(folder.views) < 14:
            view = BoardView(seen.ids_N, seen.corners_px_N2, cell.camera.width, cell.camera.height)
            folder.append(View(np.zeros(6), seen.T_base_tool, view, 1, 3), blank)
    assert len(folder.views) == 14
    return tmp_path / "run"


def run_json(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Any]:
    capsys.readouterr()
    code = main(list(words))
    return code, json.loads(capsys.readouterr().out)


def test_samples_of_an_earlier_run_are_solved_again(samples: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = run_json(capsys, "calibrate", "hand-eye", "--solve", str(samples), "--json")
    assert (code, said["accepted"]) == (0, True), said
    assert load(said["file"]).id == said["calibration_id"]
    assert main(["calibrate", "hand-eye", "--solve", str(samples), "--refine-intrinsics"]) == 0
    assert "accepted: 14 poses" in capsys.readouterr().out


def test_too_few_samples_are_refused_with_a_reason(samples: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = samples / "samples" / "samples.jsonl"
    lines.write_text("\n".join(lines.read_text().splitlines()[:2]) + "\n")
    assert main(["calibrate", "hand-eye", "--solve", str(samples)]) == 1
    assert "no calibration: " in capsys.readouterr().out
    assert main(["calibrate", "hand-eye", "--solve", str(samples.parent / "nothing")]) == 1
    assert "session.json is missing" in capsys.readouterr().err


def draw_board(T_camera_board: np.ndarray) -> np.ndarray:
    """The board as the camera sees it, on grey."""
    scale = 40
    picture = DEFAULT_BOARD.image(scale)
    to_metres = np.array([[1 / scale, 0, 0.5 / scale], [0, 1 / scale, 0.5 / scale], [0, 0, 1.0]])
    to_metres[:2] *= DEFAULT_BOARD.square_m
    H = CAMERA.K @ T_camera_board[:3, [0, 1, 3]] @ to_metres
    image = np.full((480, 848), 120, dtype=np.uint8)
    return np.asarray(cv2.warpPerspective(picture, H, (848, 480), image, borderMode=cv2.BORDER_TRANSPARENT))


def test_intrinsics_come_from_pictures_in_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    for number in range(14):
        tilt = Rotation.from_euler("xyz", rng.uniform([-0.6, -0.6, -1.5], [0.6, 0.6, 1.5]))
        u, v = ((number % 4) / 3 - 0.5) * 520, ((number // 4) / 3 - 0.5) * 260
        distance = rng.uniform(0.32, 0.42)
        T = np.eye(4)
        T[:3, :3] = tilt.as_matrix()
        T[:3, 3] = np.array([u / 424, v / 424, 1.0]) * distance - T[:3, :3] @ [0.135, 0.09, 0.0]
        cv2.imwrite(str(tmp_path / f"{number:02d}.png"), draw_board(T))
    output = tmp_path / "lens" / "intrinsics.yaml"
    words = ("calibrate", "intrinsics", str(tmp_path), "--model", "pinhole", "--output", str(output), "--json")
    capsys.readouterr()
    code = main(list(words))
    said = json.loads(capsys.readouterr().out)
    assert code == 0, said
    assert abs(said["fx"] - 424.0) < 2.0
    assert abs(load_intrinsics(output).fx - said["fx"]) < 1e-3
    few = [str(path) for path in sorted(tmp_path.glob("*.png"))[:4]]
    assert main(["calibrate", "intrinsics", *few, "--output", str(tmp_path / "no.yaml")]) == 1
    assert "refused" in capsys.readouterr().out
    assert not (tmp_path / "no.yaml").exists()


def test_no_pictures_and_pictures_without_board_are_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", "intrinsics", str(tmp_path)]) == 1
    assert "no pictures" in capsys.readouterr().err
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((480, 848), 120, dtype=np.uint8))
    assert main(["calibrate", "intrinsics", str(tmp_path)]) == 1
    assert "found in none of 1 pictures" in capsys.readouterr().err
