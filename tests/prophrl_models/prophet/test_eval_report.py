"""The world model's report says what was measured, needs nothing from outside, and shows the right pictures."""

from __future__ import annotations

import json
import re
from pathlib import Path

import av
import numpy as np
import pytest

from calibration.action_frame import render_action_frames
from calibration.poses import from_euler
from prophrl_models.data.dataset import Dataset
from prophrl_models.prophet.eval_data import Clip, ClipReader
from prophrl_models.prophet.eval_figures import Line, horizon_plot, round_ticks
from prophrl_models.prophet.eval_report import write_report
from prophrl_models.prophet.eval_video import action_frames, frames_file, pick_shown
from prophrl_models.prophet.evaluate import CHUNK, LOOP, Evaluation, EvaluationSettings, Subject, evaluate
from tests.helpers import reaches
from tests.helpers.drawn_world import DrawnWorld, write_dataset
from tests.helpers.pages import Page

STRANGE = "half <script>alert('x')</script>"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_dataset(tmp_path_factory.mktemp("drawn"), (30, 21, 40, 9, 34, 18))


@pytest.fixture(scope="module")
def evaluated(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Evaluation, Path, Path]:
    kept, folder = tmp_path_factory.mktemp("kept"), tmp_path_factory.mktemp("report")
    worlds = [("exact", DrawnWorld()), (STRANGE, DrawnWorld(gain=0.5, grain=2.0))]
    subjects = [Subject(name, name, lambda world=world: world) for name, world in worlds]  # type: ignore[misc]
    settings = EvaluationSettings(held_out=0.5, windows=4, chunks=2, batch=4, videos=2, noise_seeds=2)
    evaluation = evaluate(subjects, dataset, settings, kept)
    write_report(evaluation, dataset, folder, provenance={"model": "drawn"}, created_at="today", kept_frames=kept)
    return evaluation, folder, kept


def test_page_is_sound_and_self_contained(evaluated: tuple[Evaluation, Path, Path]) -> None:
    evaluation, folder, _ = evaluated
    text = (folder / "report.html").read_text()
    page = Page(text)
    assert "<script" not in text and "alert(&#39;x&#39;)" in text
    links = page.attributes("href") + page.attributes("src")
    outside = [link for link in links if not link.startswith(("#", "data:"))]
    assert outside and all((folder / link).is_file() for link in outside)
    assert "http" not in re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL)
    mean = evaluation.rows[1].spread(CHUNK, "epe_px")
    assert f"{mean.mean:.4f}" in page.text
    assert "Follows its actions" in page.text and "time per chunk" in page.text


def test_facts_hold_the_numbers_and_no_nan(evaluated: tuple[Evaluation, Path, Path]) -> None:
    evaluation, folder, _ = evaluated
    text = (folder / "report.json").read_text()
    assert "NaN" not in text and "Infinity" not in text
    facts = json.loads(text)
    assert [row["name"] for row in facts["rows"]] == [row.name for row in evaluation.rows]
    told, row = facts["rows"][2], evaluation.rows[2]
    assert told[LOOP]["psnr_db"]["mean"]["mean"] == pytest.approx(row.spread(LOOP, "psnr_db").mean)
    assert told[LOOP]["psnr_db"]["mean"]["deviation"] == pytest.approx(row.spread(LOOP, "psnr_db").deviation)
    assert len(told["members"]) == 2 and np.shape(told["horizon"]["epe_px"]) == (2, 16)
    assert told["sensitivity"]["true_minus"]["shuffled"]["epe_px"]["clips"] == 4
    assert facts["rows"][0]["sensitivity"] is None


def test_videos_show_real_and_imagined_frames_side_by_side(
    evaluated: tuple[Evaluation, Path, Path], dataset: Dataset
) -> None:
    evaluation, folder, kept = evaluated
    number = evaluation.shown[0]
    clip = evaluation.loops[number]
    with av.open(str(folder / "videos" / f"loop_{number:03d}.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == clip.frames + 1
    assert frames[0].shape[1] == 3 * 256 + 2 * 4  # real, exact, half
    real = ClipReader(dataset, 48, 64).frames(clip, 0, clip.frames + 1)
    stored = np.load(frames_file(kept, STRANGE, number))
    assert len(stored) == clip.frames
    shown = frames[-1][22 : 22 + 192]
    for left, wanted in ((0, real[-1]), (260, real[-1]), (520, stored[-1])):
        small = shown[:, left : left + 256].reshape(48, 4, 64, 4, 3).mean(axis=(1, 3))
        assert np.abs(small - wanted).mean() < 6.0
    with_overlay = frames[-1][22 + 196 : 22 + 196 + 192]
    assert np.abs(with_overlay.astype(int) - shown).max() > 100


def test_the_overlay_is_where_the_hand_is(dataset: Dataset) -> None:
    """Actions integrated from the first state lead to the measured poses, which are drawn here by themselves."""
    reader = ClipReader(dataset, 240, 320)
    clip, episode = Clip(2, 3, 30), dataset[2]
    drawn = action_frames(reader, clip)
    assert drawn is not None and drawn.shape == (31, 240, 320, 3)
    measured = episode.state_T7[3:34]
    poses = np.stack([from_euler(state[:6]) for state in measured])
    wanted = render_action_frames(poses, measured[:, 6], reaches.camera())
    assert wanted.any(axis=(1, 2, 3)).all()
    assert (np.abs(drawn.astype(int) - wanted).max(axis=-1) > 40).mean() < 1e-4
    assert (np.abs(drawn[0].astype(int) - wanted[-1]).max(axis=-1) > 40).mean() > 1e-2


def test_without_calibration_there_is_no_overlay(tmp_path: Path) -> None:
    plain = write_dataset(tmp_path, (9,), calibrated=False)
    assert action_frames(ClipReader(plain, 48, 64), Clip(0, 0, 5)) is None


def test_shown_loops_are_not_more_than_there_are(dataset: Dataset) -> None:
    clips = [Clip(p, 0, 9) for p in range(4)]
    assert pick_shown(dataset, clips, 2) == (0, 1)
    assert pick_shown(dataset, clips, 9) == (0, 1, 2, 3)
    assert pick_shown(dataset, clips, 0) == ()


def test_ticks_enclose_the_values_in_round_steps() -> None:
    for low, high in ((0.0, 1.0), (0.31, 0.97), (-3.2, 41.0), (5.0, 5.0), (0.0, 0.0), (1e-5, 2e-5), (17.3, 30.1)):
        ticks = round_ticks(low, high)
        assert ticks[0] <= low + 1e-12 and ticks[-1] >= high - 1e-12 and 2 <= len(ticks) <= 8
        step = np.diff(ticks)
        assert step == pytest.approx(np.full(len(step), step[0]))
        assert f"{step[0]:.3e}"[0] in "125" and ticks == sorted(ticks)


def test_horizon_plot_draws_every_row_and_survives_empty_ones() -> None:
    many = [Line(f"row {k}", np.full((2, 6), float(k)) + np.arange(6)) for k in range(8)]
    empty = Line("empty", np.full((1, 6), np.nan))
    svg = horizon_plot([*many, empty], "EPE", "px", 10.0, 3)
    assert svg.count("<polyline") == 8 and svg.count("<polygon") == 8
    Page(svg)
    assert horizon_plot([empty], "EPE", "px", 10.0, 3) == ""
