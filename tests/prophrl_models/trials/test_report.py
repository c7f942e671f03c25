"""The report: one file that needs nothing else, says what happened, and cannot be broken by what people type."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest

from prophrl_models.data.quality import QualityRow
from prophrl_models.trials.figures import Curve, Mark, Workspace, curve_plot, interval_bar, placement_map, trial_strip
from prophrl_models.trials.plan import make_plan
from prophrl_models.trials.report import Machine, TimingRow, TrialCard, TrialReport, cards_of, render, write_report
from prophrl_models.trials.results import ResultLog, TrialResult, compare
from prophrl_models.trials.statistics import SuccessRate, clopper_pearson
from prophrl_models.trials.video import TrialMedia, jpeg_bytes, write_media
from tests.helpers.pages import Page


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrialMedia, Path]:
    folder = tmp_path_factory.mktemp("videos")
    return write_media(folder, "t001", (np.full((48, 64, 3), k, np.uint8) for k in range(20)), 10.0, stills=4), folder


def report_of(outcomes: list[str], **changes: object) -> TrialReport:
    cards = [
        TrialCard(
            f"t{k + 1:03d}", "sft", outcome, "" if outcome == "success" else "time is up", 8.0 + k, -0.6, 0.02 * k
        )
        for k, outcome in enumerate(outcomes)
    ]
    facts: dict[str, object] = dict(  # noqa: C408
        task="place_cube",
        instruction="put the cube into the bowl",
        policy="sft",
        trials=cards,
        created_at="today",
        machine=Machine(2, 2.5),
        provenance={"dataset": "ab" * 32, "calibration": "none"},
    )
    return TrialReport(**{**facts, **changes})  # type: ignore[arg-type]


QUALITY = QualityRow("demo-7", "success", 80, 8.0, 29.9, 2, 125.0, 0.083, 0.07, 1, 0.25, 4, 0, None)


def test_the_headline_says_how_many_of_how_many_and_the_interval() -> None:
    page = Page(render(report_of(["success"] * 17 + ["failure"] * 3)))
    assert "17 of 20 trials succeeded" in page.text
    interval = clopper_pearson(17, 20)
    assert f"between {100 * interval.low:.0f} % and {100 * interval.high:.0f} %" in page.text
    assert "Put the cube into the bowl." in page.text


def test_voided_trials_are_told_but_not_counted() -> None:
    page = Page(render(report_of(["success", "void", "failure"])))
    assert "1 of 2 trials succeeded" in page.text
    assert "1 trial could not be run and was repeated: t002 (time is up)." in page.text
    assert "t002" not in page.attributes("id")


def test_the_page_needs_no_other_file_but_its_videos(media: tuple[TrialMedia, Path], tmp_path: Path) -> None:
    made, videos = media
    cards = (replace(report_of(["success"]).trials[0], media=made),)
    report = report_of(
        ["success"],
        trials=cards,
        scene_jpeg=jpeg_bytes(np.zeros((24, 32, 3), np.uint8)),
        quality=[QUALITY],
        timing=[TimingRow("camera", "Hz", 30.0, 29.7, 21.4, "30 Hz")],
        curves=[Curve("training", [1, 10, 100], [1.0, 0.5, 0.1])],
    )
    path = write_report(report, tmp_path / "out", videos)
    text = path.read_text()
    page = Page(text)
    outside = [
        v for name in ("src", "href", "poster") for v in page.attributes(name) if not v.startswith(("data:", "#"))
    ]
    assert set(outside) == {"videos/t001.mp4"}
    assert (path.parent / unquote(outside[0])).read_bytes() == (videos / "t001.mp4").read_bytes()
    assert not re.search(r"https?://|@import|url\(|<script|<link", text)


def test_every_link_inside_the_page_leads_somewhere() -> None:
    page = Page(render(report_of(["success", "failure", "failure"])))
    targets = set(page.attributes("id"))
    links = {href[1:] for href in page.attributes("href") if href.startswith("#")}
    assert {"t001", "t002", "t003", "trials"} <= links <= targets
    assert len(page.attributes("id")) == len(targets), "ids are unique"


def test_every_picture_and_control_has_words_for_those_who_do_not_see_it(media: tuple[TrialMedia, Path]) -> None:
    cards = (replace(report_of(["success"]).trials[0], media=media[0]),)
    page = Page(render(report_of(["success"], trials=cards)))
    for tag, attrs in page.elements:
        if tag == "img":
            assert attrs.get("alt")
        if tag in ("video", "svg", "article"):
            assert attrs.get("aria-label")
    assert ("html", {"lang": "en"}) in page.elements


def test_what_people_type_stays_text() -> None:
    nasty = '<img src=x onerror=alert(1)> "quoted" & co'
    report = report_of(["failure"], instruction=nasty, task=nasty, provenance={nasty: nasty}, note=nasty)
    card = replace(report.trials[0], reason=nasty, placement=nasty, details={nasty: nasty})
    report = replace(
        report, trials=(card,), quality=[replace(QUALITY, episode_id=nasty)], curves=[Curve(nasty, [1, 2], [2, 1])]
    )
    page = Page(render(report))
    assert not [attrs for tag, attrs in page.elements if tag == "img" or "onerror" in attrs]
    assert nasty in page.text


def test_failures_are_grouped_by_reason_with_links_to_the_trials() -> None:
    report = report_of(["failure"] * 3)
    cards = [replace(c, reason=r) for c, r in zip(report.trials, ["missed", "time is up", "missed"], strict=True)]
    text = Page(render(replace(report, trials=cards))).text
    assert re.search(r"missed 2 t001 t003 time is up 1 t002", text)


def test_a_perfect_policy_gets_no_list_of_failures() -> None:
    text = Page(render(report_of(["success"] * 4))).text
    assert "No trial failed." in text and "Why trials failed" not in text


def test_two_policies_are_shown_and_compared(tmp_path: Path) -> None:
    placements = [{"objects": {"cube": [-0.6, 0.03 * k, 0.0]}, "cell": [0, k]} for k in range(6)]
    plan, key = make_plan("place_cube", "do it", placements, ["sft", "rl"], seed=0)
    log = ResultLog(tmp_path / "r.jsonl", plan)
    while (trial := log.next_trial()) is not None:
        success = key.policies[trial.label] == "rl"
        log.append(TrialResult(trial.trial_id, True, success, "done" if success else "missed", 5.0, {}, "bag-1"))
    cards = cards_of(log, key, primary_object="cube")
    assert {(c.policy, c.outcome) for c in cards} == {("rl", "success"), ("sft", "failure")}
    by_id = {c.trial_id: c for c in cards}
    for trial in plan.trials:
        card = by_id[trial.trial_id]
        assert (card.x_m, card.y_m) == (-0.6, 0.03 * trial.placement)
        assert card.placement == f"grid cell 1, {trial.placement + 1}"
    text = Page(render(report_of([], trials=cards, policy="rl", comparison=compare(log, key, "sft", "rl")))).text
    assert "6 of 6 trials succeeded" in text and "0 of 6" in text
    assert "rl minus sft : +100 points 95 % interval +" in text
    assert "too few to tell them apart" not in text, "six pairs of six are unlikely to be chance (p = 0.03)"
    assert "Of 6 pairs, 6 were solved by rl alone and 0 by sft alone" in text


def test_a_report_without_a_valid_trial_is_refused() -> None:
    with pytest.raises(ValueError, match="no valid trial of policy 'sft'"):
        report_of(["void"])


def test_an_unknown_outcome_is_refused() -> None:
    with pytest.raises(ValueError, match="'succes' is not success, failure or void"):
        report_of(["succes"])


def test_a_missing_video_is_named(media: tuple[TrialMedia, Path], tmp_path: Path) -> None:
    cards = (replace(report_of(["success"]).trials[0], media=replace(media[0], video="gone.mp4")),)
    with pytest.raises(FileNotFoundError, match=r"trial t001 has no video at .*gone\.mp4"):
        write_report(report_of(["success"], trials=cards), tmp_path)


def test_the_same_facts_are_written_for_programs(tmp_path: Path) -> None:
    report = report_of(["success", "failure"], timing=[TimingRow("camera", "Hz", 30.0, 29.7, 21.4)])
    cards = [replace(report.trials[0], x_m=math.nan, y_m=math.nan), report.trials[1]]
    write_report(replace(report, trials=cards), tmp_path)
    facts = json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail)
    assert facts["policies"]["sft"]["successes"] == 1
    assert facts["policies"]["sft"]["interval_95"]["high"] == pytest.approx(clopper_pearson(1, 2).high)
    assert facts["trials"][0]["x_m"] is None and facts["trials"][1]["reason"] == "time is up"
    assert facts["timing"][0]["worst"] == 21.4


def test_writing_again_replaces_the_report_as_a_whole(tmp_path: Path) -> None:
    write_report(report_of(["failure"]), tmp_path)
    write_report(report_of(["success"]), tmp_path)
    assert "1 of 1 trials succeeded" in Page((tmp_path / "report.html").read_text()).text
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "report.json", "videos"]


def test_the_machine_is_described_by_cores_and_clock_only() -> None:
    assert str(Machine(2, 2.45)) == "2 cores, 2.5 GHz" or str(Machine(2, 2.45)) == "2 cores, 2.4 GHz"
    assert str(Machine(1, None)) == "1 core"
    here = Machine.here()
    assert here.cores >= 1 and re.fullmatch(r"\d+ cores?(, \d+\.\d GHz)?", str(here))


def numbers(pattern: str, svg: str) -> list[float]:
    return [float(value) for value in re.findall(pattern, svg)]


def test_the_interval_is_drawn_to_scale() -> None:
    svg = interval_bar(SuccessRate(12, 20))
    (x,), (width,) = numbers(r'class="band" x="([\d.]+)"', svg), numbers(r'class="band"[^>]*?width="([\d.]+)"', svg)
    interval = clopper_pearson(12, 20)
    assert (x - 20) / 600 == pytest.approx(interval.low, abs=0.001)
    assert width / 600 == pytest.approx(interval.high - interval.low, abs=0.001)
    assert (numbers(r'class="point" cx="([\d.]+)"', svg)[0] - 20) / 600 == pytest.approx(0.6, abs=0.001)


def test_the_map_shows_the_table_as_the_camera_sees_it() -> None:
    marks = [
        Mark("near-the-robot", "success", "#a", -0.50, 0.0),
        Mark("near-the-camera", "success", "#b", -0.80, 0.0),
        Mark("robots-left", "failure", "#c", -0.65, 0.20),
    ]
    svg = placement_map(marks, Workspace())
    x, y = numbers(r'class="dot \w+" cx="([\d.]+)"', svg), numbers(r'class="dot \w+" cx="[\d.]+" cy="([\d.]+)"', svg)
    assert y[0] < y[2] < y[1], "the robot is at the top"
    assert x[2] < x[0] == x[1], "+y of the base frame is on the left when one looks at the robot"
    assert svg.count('class="cross"') == 1, "failure is told by shape, not by colour alone"


def test_longer_trials_have_taller_bars() -> None:
    svg = trial_strip([Mark(str(k), "success", "#x", duration_s=d) for k, d in enumerate([2.0, 8.0, 4.0])])
    short, tall, middle = numbers(r'class="bar success"[^>]*?height="([\d.]+)"', svg)
    assert short < middle < tall


def test_curves_run_from_left_to_right_and_downwards_for_falling_loss() -> None:
    svg = curve_plot([Curve("training", [0, 500, 1000], [1.0, 0.1, 0.01])])
    points = re.search(r'points="([^"]+)"', svg)
    assert points
    xy = np.array([list(map(float, pair.split(","))) for pair in points[1].split()])
    assert (np.diff(xy, axis=0) > 0).all()
    assert xy[1].tolist() == pytest.approx(((xy[0] + xy[2]) / 2).tolist(), abs=0.11), "equal factors, equal steps"


@pytest.mark.parametrize("curves", [[], [Curve("a", [1], [0.5])], [Curve("a", [1, 2], [0.0, -1.0])]])
def test_curves_without_two_positive_values_are_left_out(curves: list[Curve]) -> None:
    assert curve_plot(curves) == ""
    assert "Training" not in Page(render(report_of(["success"], curves=curves))).text
