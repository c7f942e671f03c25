"""``prophrl prophet eval``: from checkpoint folders to a table and a report."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import torch
from prophrl_nodes.cli import prophet_eval

from prophrl_models.prophet.checkpoint import Sampling, save_prophet
from prophrl_models.prophet.codec import build_codec
from prophrl_models.prophet.config import preset
from prophrl_models.prophet.network import Prophet
from tests.helpers.drawn_world import write_dataset


def parsed(*words: str | Path) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    prophet_eval.register(parser)
    return parser.parse_args([str(word) for word in words])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = preset("tiny")
    provenance = {"dataset_hashes": [], "calibration_ids": []}
    folder = tmp_path_factory.mktemp("checkpoint") / "untrained"
    network, codec = Prophet(config.network), build_codec(config.codec)
    return save_prophet(folder, network, codec, config, provenance, sampling=Sampling(steps=1, solver="euler"))


def test_checkpoints_of_one_name_become_one_row(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = write_dataset(tmp_path / "dataset", (24, 22, 30, 21))
    out = tmp_path / "report"
    small = ("--windows", "2", "--chunks", "1", "--episodes", "1", "--videos", "1", "--held-out", "0.5")
    options = parsed(f"ours={checkpoint}", f"ours={checkpoint}", dataset.folder, "--out", out, *small, "--json")
    assert prophet_eval.run(options) == 0
    told = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in told["rows"]] == ["copy last frame", "ours"]
    assert len(told["rows"][1]["members"]) == 2
    assert told["rows"][1]["single chunk"]["psnr_db"]["mean"]["deviation"] == 0.0  # the same weights and noise twice
    assert Path(told["report"]).is_file() and len(list((out / "videos").iterdir())) == 1
    assert not list(out.glob(".frames-*"))


def test_names_and_folders_are_told_apart() -> None:
    named = prophet_eval._named(["runs/full", "no history=runs/b", "./a=b/c"])
    assert named == [("full", Path("runs/full")), ("no history", Path("runs/b")), ("c", Path("./a=b/c"))]
    runs = prophet_eval._named(["runs/a/prophet", "runs/b/prophet", "other/a/prophet"])
    assert [name for name, _ in runs] == ["a (1)", "b", "a (2)"], "other trainings are no seeds of one"
    mixed = prophet_eval._named(["a=runs/x", "a=runs/y", "runs/a/prophet"])
    assert [name for name, _ in mixed] == ["a", "a", "a (3)"]
    with pytest.raises(prophet_eval.UsageError, match="'=runs/a' is no checkpoint"):
        prophet_eval._named(["=runs/a"])


def test_a_folder_that_is_no_world_model_is_refused(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "dataset", (24,))
    with pytest.raises(prophet_eval.UsageError, match="train one with prophrl prophet train"):
        prophet_eval.run(parsed(tmp_path, dataset.folder, "--out", tmp_path / "report"))
