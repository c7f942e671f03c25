"""``prophrl calibrate check``: recorded bags in, one row per episode and an exit status out."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from prophrl_nodes.cli import calibrate_drift
from prophrl_nodes.cli.calibrate_drift import DriftUsageError
from prophrl_nodes.drift_watch.check import DriftChecker
from prophrl_nodes.drift_watch.references import save_reference

from calibration.storage import load_calibration, save_camera
from robot_bridge.cell_files import open_cell
from tests.helpers.drift_episodes import BUMP, Studio, write_bag


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Three episodes under one calibration (the last after a bump), and one that carries none."""
    folder = tmp_path_factory.mktemp("drift")
    studio = Studio()
    calibration = folder / "camera.yaml"
    save_camera(calibration, studio.camera, serial="1")
    write_bag(folder / "bags", "e1", studio.film(1), calibration)
    write_bag(folder / "bags", "e2", studio.film(2), calibration)
    write_bag(folder / "bags", "e3", studio.film(3, BUMP), calibration)
    write_bag(folder / "other", "e4", studio.film(4), None)
    found = load_calibration(calibration)
    reference = DriftChecker(open_cell("twin")).reference(studio.film(9), found, "kept")
    save_reference(folder / "kept.yaml", reference)
    yield folder
    studio.close()


def run(*words: object) -> int:
    parser = argparse.ArgumentParser()
    calibrate_drift.register(parser)
    return calibrate_drift.run(parser.parse_args([str(word) for word in words]))


def test_a_folder_with_a_bumped_camera_gives_a_table_and_exit_status_1(
    bags: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(bags / "bags") == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["episode", "e1", "e2", "e3"]
    assert [line.split()[2] for line in lines[1:4]] == ["reference", "still", "moved"]
    assert "3 episodes: 1 with a moved camera, 0 unknown" in lines
    assert lines[-1].startswith("e3: ") and "prophrl launch calibrate" in lines[-1]


def test_untouched_episodes_give_exit_status_0_and_json_with_the_figures(
    bags: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    e1, e2 = (bags / "bags/place_cube" / name for name in ("e1", "e2"))
    assert run(e1, e2, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["moved"], said["unknown"]) == (0, 0)
    second = said["episodes"][1]
    assert (second["verdict"], second["reference_episode"]) == ("still", "e1")
    assert 0.0 < second["pixels"] < 0.3


def test_a_kept_reference_judges_the_first_episode_too(bags: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(bags / "bags", "--reference", bags / "kept.yaml", "--json") == 1
    said = json.loads(capsys.readouterr().out)["episodes"]
    assert [episode["verdict"] for episode in said] == ["still", "still", "moved"]
    assert {episode["reference_episode"] for episode in said} == {"kept"}
    with pytest.raises(DriftUsageError, match="no reference at"):
        run(bags / "bags", "--reference", bags / "none.yaml")


def test_an_episode_without_calibration_is_unknown_and_no_alarm(bags: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(bags / "other") == 0
    assert "e4: no calibration was in force when it was recorded" in capsys.readouterr().out


def test_verdicts_are_written_beside_the_bags_when_asked(bags: Path, tmp_path: Path) -> None:
    shutil.copytree(bags / "bags/place_cube/e1", tmp_path / "e1")
    assert run(tmp_path / "e1", "--reference", bags / "kept.yaml", "--write") == 0
    assert json.loads((tmp_path / "e1/drift.json").read_text())["verdict"] == "still"


def test_what_is_not_there_is_refused_with_what_to_give(bags: Path, tmp_path: Path) -> None:
    with pytest.raises(DriftUsageError, match="nothing to check"):
        run()
    with pytest.raises(DriftUsageError, match="there is no"):
        run(tmp_path / "nowhere")
    with pytest.raises(DriftUsageError, match="holds no recorded episode"):
        run(tmp_path)
