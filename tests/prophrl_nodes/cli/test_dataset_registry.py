"""``prophrl dataset sources`` and ``check`` say what the registry knows and what it finds in a folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from prophrl_nodes.cli.main import main

from tests.helpers.published_datasets import motion, write_lerobot_set, write_rlds_set


def test_sources_lists_every_dataset(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dataset", "sources"]) == 0
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 15
    row = next(line for line in out.splitlines() if line.startswith("agibot"))
    assert "LOCAL_FRAME_DELTA" in row and "125 closed .. 35 open" in row and "240x320" in row


def test_one_source_is_explained_with_its_open_questions(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dataset", "sources", "libero"]) == 0
    out = capsys.readouterr().out
    assert "open questions" in out and "create_dataset.py" in out


def test_sources_are_available_to_scripts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dataset", "sources", "--json"]) == 0
    entries = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert len(entries) == 14 and entries["droid"]["width"] == 416 and entries["agibot"]["effectors"] == 2


def test_check_prints_what_was_understood(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_rlds_set(tmp_path, "fractal20220817_data", [motion(6, 1), motion(5, 2)])
    assert main(["dataset", "check", "rt_1", str(path)]) == 0
    out = capsys.readouterr().out
    assert "2 episodes" in out and "LOCAL_FRAME_DELTA at 3 Hz" in out and "pick number 2" in out
    assert "opening at first 1.00" in out and "stored 24x32, read 240x320" in out
    assert main(["dataset", "check", "rt_1", str(path), "--json", "--episodes", "1"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["episodes"] == 2 and len(found["read"]) == 1 and found["read"][0]["frames"] == 6


def test_check_with_the_wrong_name_says_which_key_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_lerobot_set(tmp_path / "set", "rt_1", "v3.0", 3, [motion(4)])
    assert main(["dataset", "check", "bridge", str(folder)]) == 1
    error = capsys.readouterr().err
    assert "observation.images.image_0" in error and "observation.images.image" in error
    assert main(["dataset", "check", "fractal", str(folder)]) == 1
    assert "Valid names" in capsys.readouterr().err
