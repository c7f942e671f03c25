"""Replays in the fast lane: a scripted demonstration succeeds again; and the command around it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from prophrl_nodes.cli.main import main
from prophrl_nodes.replaying.fast import FastReplays
from prophrl_nodes.replaying.outcome import EpisodeOutcome, rates, read_outcomes, void, write_outcome
from prophrl_nodes.replaying.plan import ReplayError

from robot_bridge.cell_files import open_cell
from tests.helpers.demonstrations import Demonstration


@pytest.fixture(scope="module")
def outcomes(bag: Path) -> dict[str, EpisodeOutcome]:
    found = {}
    for mode in ("actions", "joints"):
        with FastReplays(open_cell("twin"), mode) as replays:
            found[mode] = replays.replay(bag)
    return found


@pytest.mark.parametrize("mode", ["actions", "joints"])
def test_a_demonstration_succeeds_again_along_the_same_path(outcomes: dict[str, EpisodeOutcome], mode: str) -> None:
    outcome = outcomes[mode]
    assert outcome.valid and outcome.success, outcome.reason
    tracking = outcome.tracking
    assert tracking is not None
    assert tracking["position_mm"]["p50"] < 1.5 and tracking["position_mm"]["p95"] < 4.0
    assert tracking["rotation_deg"]["p95"] < 0.5 and tracking["path_mm"]["max"] < 4.0
    # The servo's lag alone: the transport delay of the teleoperation is not replayed.
    assert 0.03 < tracking["lag_s"] < 0.12
    assert tracking["gripper_unmatched"] == 0 and len(tracking["gripper_s"]) == 2
    assert tracking["missing_s"] < 0.2


def test_gripper_commands_that_wait_meet_the_arm_where_they_met_it(
    bag: Path, outcomes: dict[str, EpisodeOutcome]
) -> None:
    prompt = outcomes["joints"].tracking
    assert prompt is not None
    with FastReplays(open_cell("twin"), "joints", prompt["lag_s"]) as replays:
        waited = replays.replay(bag).tracking
    assert waited is not None
    assert all(late_s < -0.03 for late_s in prompt["gripper_s"])
    assert all(abs(late_s) < 0.03 for late_s in waited["gripper_s"])


def test_reports_survive_being_written_and_read(outcomes: dict[str, EpisodeOutcome], tmp_path: Path) -> None:
    for outcome in outcomes.values():
        write_outcome(tmp_path, outcome)
    assert {outcome.mode: outcome for outcome in read_outcomes(tmp_path)} == outcomes
    (tmp_path / "x.replay.json").write_text('{"format": "something else"}')
    with pytest.raises(ReplayError, match="delete it or use another output folder"):
        read_outcomes(tmp_path)


def test_only_what_had_succeeded_before_counts(outcomes: dict[str, EpisodeOutcome]) -> None:
    failed = void("/bags/x", "actions", "fast", "no such topic")
    assert rates([outcomes["actions"], failed])["place_cube"].trials == 1
    assert rates([failed]) == {}


def test_the_fast_lane_is_the_twins() -> None:
    with pytest.raises(ReplayError, match="is a real one"):
        FastReplays(open_cell("ur30e"), "actions")


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main(["bag", "replay", *words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_command_replays_a_folder_of_bags_and_reports(
    demonstration: Demonstration, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    demonstration.write(tmp_path / "bags", "good")
    demonstration.write(tmp_path / "bags", "elsewhere", cell="ur30e")
    code, out, _ = said(capsys, str(tmp_path / "bags"), "--fast", "--json", "--output", str(tmp_path / "out"))
    report: dict[str, Any] = json.loads(out)
    assert code == 1  # one of the two could not be replayed
    assert {e["episode_id"]: e["valid"] for e in report["episodes"]} == {"good": True, "elsewhere": False}
    assert report["rates"]["place_cube"]["trials"] == 1 and report["rates"]["place_cube"]["successes"] == 1
    assert report["rates"]["place_cube"]["interval_95"][0] == pytest.approx(0.025, abs=0.001)
    assert len(list(Path(report["folder"]).glob("*.replay.json"))) == 2

    code, out, _ = said(capsys, str(tmp_path / "bags"), "--fast", "--limit", "1", "--output", str(tmp_path / "out"))
    assert "elsewhere: elsewhere was recorded on cell 'ur30e'" in out and "good" not in out.split("reports in")[0]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["/nowhere/at/all"], "no bag at /nowhere/at/all"),
        (["BAG", "--cell", "ur30e", "--fast"], "are for the twin"),
        (["BAG", "--cell", "ur30e", "--unattended"], "are for the twin"),
        (["BAG", "--cell", "no_such_cell"], "no cell named 'no_such_cell'"),
        (["BAG", "--fast", "--gripper-delay", "3"], "must not be negative and --gripper-delay lie in 0..1"),
    ],
)
def test_wrong_usage_is_refused_with_words(
    bag: Path, capsys: pytest.CaptureFixture[str], words: list[str], complaint: str
) -> None:
    code, _, err = said(capsys, *(str(bag) if word == "BAG" else word for word in words))
    assert code == 1 and complaint in err
