"""The report shows what the log says, and the presets are what they claim to be."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from prophrl_models.policies.tiny import TinyPolicy
from prophrl_models.rl.losses import FLOW_SCALE_FORMS
from prophrl_models.rl.report import line_plot, read_log, write_report
from prophrl_models.rl.settings import FlowScaleForm, load_settings, settings_of
from prophrl_models.training.settings import TrainingError
from tests.helpers.dot_runs import SETTINGS, dot_trainer
from tests.helpers.pages import Page

PRESETS = Path(__file__).parents[3] / "config" / "rl"


def test_a_run_leaves_a_page_with_curves_and_videos(taught: TinyPolicy, tmp_path: Path) -> None:
    settings = replace(SETTINGS, steps=1, watch=replace(SETTINGS.watch, report_every=1))
    dot_trainer(taught, tmp_path / "run", settings, write_report=write_report).run()
    text = (tmp_path / "run" / "report.html").read_text()
    videos = Page(text).attributes("src", of="video")
    assert len(videos) == 3 and all((tmp_path / "run" / video).is_file() for video in videos)
    for title in ("Success", "Exact KL", "Clipped ratios", "Gradient of the loss by velocity", "FlowScale weight"):
        assert title in text
    facts = json.loads((tmp_path / "run" / "report.json").read_text())
    assert facts["curves"]["held_out/success"]["0"] == facts["first_success"]
    assert facts["best_success"] == max(facts["curves"]["held_out/success"].values())
    assert write_report(tmp_path / "run").is_file()  # later, from the folder alone


def test_a_plot_shows_the_values_in_place() -> None:
    svg = line_plot("x", [("a", [(0.0, 0.0), (1.0, 1.0), (2.0, float("nan"))]), ("b", [(2.0, 0.5)])])
    (points,) = re.findall(r'c0" points="([^"]+)"', svg)
    (x0, y0), (x1, y1) = (tuple(map(float, p.split(","))) for p in points.split())
    assert x1 - x0 == pytest.approx((480 - 52 - 12) / 2, abs=0.2) and y0 - y1 == pytest.approx(210 - 12 - 34, abs=0.2)
    assert "a 1" in svg and "b 0.5" in svg and line_plot("none", []) == ""


def test_a_line_cut_short_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"step": 1, "a": 0.5}\n{"step": 1, "a": 0.75}\n{"step": 2, "a"')
    assert read_log(tmp_path) == {"a": {1: 0.75}}


def test_presets_take_four_updates_of_each_batch() -> None:
    for file in {*PRESETS.glob("*.yaml")} - {PRESETS / "ablation.yaml"}:  # that one is a plan of such settings
        assert load_settings(file).updates_per_step >= 4, file.name
    paper = load_settings(PRESETS / "paper.yaml")
    assert paper.rollout.prompts * paper.rollout.group_size == 256 and paper.steps == 100
    assert (paper.update.mini_batch, paper.update.clip_low, paper.update.clip_high) == (128, 0.2, 0.28)
    assert paper.update.learning_rate == 5e-6 and paper.update.beta == 0.04


def test_settings_know_every_form_and_refuse_others() -> None:
    assert get_args(FlowScaleForm) == ("none", *FLOW_SCALE_FORMS)
    with pytest.raises(TrainingError, match="did you mean 'flow_scale'"):
        settings_of({"update": {"flowscale": "none"}})
    with pytest.raises(TrainingError, match="must be one of"):
        settings_of({"update": {"flow_scale": "strong"}})
