"""``prophrl prophet``: from a dataset to a world model by commands alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from prophrl_nodes.cli.main import main

from tests.helpers.prophet_data import codec_folder, write_reaches

SETTINGS = """
size: tiny
batch_size: 2
micro_batch: 2
precision: fp32
read_ahead: 0
codec: {batch: 2, crop: 32, statistics_groups: 8, loop: {steps: 2, warmup: 1, save_every: 1}}
loop: {steps: 2, warmup: 1, save_every: 1, log_every: 1, ema: 0.0, learning_rate: 1.0e-3}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    write_reaches(folder / "dataset", 2)
    write_reaches(folder / "blind", 1, calibrated=False)
    codec_folder(folder / "codec")
    (folder / "settings.yaml").write_text(SETTINGS)
    return folder


def prophet(home: Path, verb: str, *words: object) -> int:
    return main(["prophet", verb, *map(str, words), "--config", str(home / "settings.yaml")])


def test_one_command_makes_codec_latents_and_world(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prophet(home, "train", home / "dataset", home / "run") == 0
    assert "world model:" in capsys.readouterr().out
    assert (home / "run" / "codec" / "codec.safetensors").is_file()
    assert (home / "run" / "prophet" / "model.safetensors").is_file()
    assert prophet(home, "train", home / "dataset", home / "run") == 1
    assert "holds a finished training" in capsys.readouterr().err


def test_the_steps_can_be_taken_one_by_one(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prophet(home, "codec", home / "dataset", home / "own_codec") == 0
    assert "psnr_db" in capsys.readouterr().out
    latents = home / "latents"
    assert prophet(home, "cache", home / "dataset", latents, "--codec", home / "own_codec") == 0
    [cached] = latents.iterdir()
    words = ("--codec", home / "own_codec", "--latents", latents)
    assert prophet(home, "train", home / "dataset", home / "steps", *words, "--steps", 1, "--seed", 3) == 0
    assert [folder.name for folder in latents.iterdir()] == [cached.name]
    record = json.loads((home / "steps" / "prophet" / "provenance.json").read_text())
    assert record["training"]["loop"]["seed"] == 3 and record["training"]["loop"]["steps"] == 1
    capsys.readouterr()
    teacher = home / "steps" / "prophet"
    assert prophet(home, "distil", teacher, home / "dataset", home / "fast", "--passes", 2, "--steps", 1) == 0
    assert json.loads((home / "fast" / "prophet" / "config.json").read_text())["sampling"]["steps"] == 2


def test_ablations_and_missing_cameras(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--codec", home / "codec", "--steps", 1)
    assert prophet(home, "train", home / "blind", home / "a", *words) == 1
    assert "--camera FILE" in capsys.readouterr().err
    calibration = home / "dataset" / "episodes" / "000000" / "calibration.yaml"
    assert prophet(home, "train", home / "blind", home / "b", *words, "--camera", calibration) == 0
    assert prophet(home, "codec", home / "blind", home / "seeing", "--camera", calibration) == 0
    assert prophet(home, "codec", home / "blind", home / "unseeing") == 0
    records = [json.loads((home / name / "codec_provenance.json").read_text()) for name in ("seeing", "unseeing")]
    assert records[0]["episodes_without_camera"] == 0 < records[1]["episodes_without_camera"]
    assert prophet(home, "train", home / "blind", home / "c", *words, "--no-frames", "--no-history") == 0
    network = json.loads((home / "c" / "prophet" / "config.json").read_text())["prophet"]["network"]
    assert network["action_frames"] == "none" and network["memory"] is None and network["known_alone"]


def test_wrong_usage_is_explained(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prophet", "train", str(home / "dataset"), str(home / "x"), "--preset", "huge"]) == 1
    assert "no preset 'huge'; choose one of" in capsys.readouterr().err
    assert prophet(home, "train", home / "dataset", home / "x", "--lora") == 1
    assert "give a world model with --init" in capsys.readouterr().err
    assert prophet(home, "train", home / "dataset", home / "x", "--no-frames", "--no-actions") == 1
    assert "knows nothing of the actions" in capsys.readouterr().err
    assert main(["prophet", "convert", str(home / "none"), str(home / "x"), "--vae", str(home / "none")]) == 1
    assert "AutoencoderKLWan" in (said := capsys.readouterr().err) or "no config.json" in said
    assert not (home / "x").exists()
