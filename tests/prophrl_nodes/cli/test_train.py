"""``prophrl train policy``: which settings go with which kind of policy."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
from prophrl_nodes.cli import train
from prophrl_nodes.cli.presets import preset_file

from prophrl_models.training.sft import load_config


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    train.register(parser)
    return parser.parse_args(["policy", "dataset", "out", *words])


def test_each_kind_of_policy_has_its_presets(tmp_path: Path) -> None:
    for words in (["--preset", "imagined", "--policy", "pi05"], ["--preset", "tiny", "--policy", "openvla_oft"]):
        with pytest.raises(train.UsageError, match="choose paper, one_24gb, one_80gb"):
            train.run(parsed(*words, "--init", str(tmp_path)))
    with pytest.raises(train.UsageError, match="preset 'paper' is not for the tiny policy; choose tiny or imagined"):
        train.run(parsed("--preset", "paper"))


def test_the_preset_for_imagination_differs_from_the_usual_one_in_what_imagination_needs() -> None:
    usual, imagined = (load_config(preset_file("train", name)) for name in ("tiny", "imagined"))
    assert imagined.state_source == "commanded_opening" and imagined.augment.coarse_share == 0.5
    assert imagined.frames == usual.frames and imagined.batch_size == usual.batch_size
    assert imagined.augment.position_m == usual.augment.position_m and imagined.loop.steps == usual.loop.steps
