"""Trials in the fast lane: placements, the log, resuming, films, and the numbers that are said about them."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import av
import numpy as np
import pytest
from prophrl_nodes.studies.engine_runner import EngineRunner
from prophrl_nodes.studies.fast_placements import AROUND_M, GRID, fast_placements
from prophrl_nodes.studies.fast_summary import PolicyResult, Summary, read_outcomes
from prophrl_nodes.studies.fast_trials import (
    PROTECTIVE_STOP,
    TIME_LIMIT,
    Contender,
    FastTrial,
    StudyError,
    TrialSettings,
    identified,
    run_fast_trials,
    run_trial,
)
from prophrl_nodes.studies.fast_trials_log import TrialLog
from prophrl_nodes.studies.filmed_lane import FilmedLane

from prophrl_models.data.lines import LineError
from prophrl_models.trials.paired import tango_interval
from robot_bridge.twin.fast_lane import FastLane
from robot_bridge.twin.tasks import HELD_OUT_CLEARANCE_M, TASK_IDS, Placement, get_task, held_out_placements
from tests.helpers.twin_policies import untrained_policy, write_untrained

TASK = "place_cube"
SHORT = TrialSettings(TASK, 1, max_duration_s=0.5)
DONE = Placement(TASK, {"cube": (-0.65, 0.1, 0.0), "bowl": (-0.65, 0.1, 0.0)})
"""The cube lies in the bowl from the start."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_untrained(tmp_path_factory.mktemp("policy") / "untrained", TASK)


@pytest.mark.parametrize("task", TASK_IDS)
def test_placements_are_the_held_out_ones_and_then_places_no_demonstration_began_from(task: str) -> None:
    placements = fast_placements(task, 50, seed=3)
    assert placements[:GRID] == held_out_placements(task, GRID)
    assert fast_placements(task, 30, seed=3) == placements[:30]
    primary = get_task(task).primary.name
    grid = np.array([p.objects[primary][:2] for p in placements[:GRID]])
    for placement in placements[GRID:]:
        nearest_m = np.hypot(*(grid - placement.objects[primary][:2]).T).min()
        assert 0.0 < nearest_m <= AROUND_M < HELD_OUT_CLEARANCE_M  # demonstrations begin at the clearance or beyond
        for (_, a), (_, b) in itertools.combinations(placement.objects.items(), 2):
            assert math.hypot(a[0] - b[0], a[1] - b[1]) >= get_task(task).min_separation_m
    assert len({json.dumps(p.to_json()["objects"]) for p in placements}) == 50
    assert fast_placements(task, 21, seed=4)[GRID] != placements[GRID]


def test_a_trial_says_whether_it_succeeded_and_otherwise_what_was_missing() -> None:
    runner = EngineRunner.of_policy(untrained_policy(TASK))
    with FastLane(TASK, render=False) as lane:
        won = run_trial(lane, runner, DONE, 4, replace(SHORT, max_duration_s=3.0))
        lost = run_trial(lane, runner, held_out_placements(TASK, 1)[0], 0, SHORT)
    assert won == FastTrial(4, True, "", "", (), won.duration_s, won.chunks, 0)
    assert 0.6 <= won.duration_s < 3.0
    assert not lost.success and lost.stop == TIME_LIMIT and lost.unmet == ("cube is over the bowl",)
    assert lost.reason.startswith("time limit of 0 s: not: cube is over the bowl")


def test_the_same_trial_goes_the_same_way_filmed_or_not_and_other_numbers_mean_other_noise() -> None:
    runner = EngineRunner.of_policy(untrained_policy(TASK))
    placement = held_out_placements(TASK, 1)[0]
    paths = []
    with FilmedLane(TASK) as lane:
        for index, film in ((0, False), (0, True), (1, False)):
            if film:
                lane.start_filming()
            run_trial(lane, runner, placement, index, SHORT)
            if film:
                frames = lane.stop_filming()
            paths.append(lane.trajectory)
    assert np.array_equal(paths[0], paths[1]) and not np.array_equal(paths[0], paths[2])
    assert len(frames) == 5 and frames[0].shape == (240, 320, 3) and not np.array_equal(frames[0], frames[-1])


def test_an_interrupted_study_runs_only_what_is_missing(checkpoint: Path, tmp_path: Path) -> None:
    file = tmp_path / "trials.jsonl"
    contenders = identified([Contender("one", checkpoint), Contender("same", checkpoint)], SHORT)
    assert contenders[0].checkpoint_id == contenders[1].checkpoint_id != ""
    films = {"videos": 1, "video_folder": tmp_path / "films"}
    first = run_fast_trials(contenders[:1], SHORT, log=TrialLog(file), **films)  # type: ignore[arg-type]
    with av.open(str(tmp_path / "films" / "01_one_001.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) == 5
    file.write_bytes(file.read_bytes() + b'{"key": "cut o')  # what a crash leaves
    log = TrialLog(file)
    assert len(log) == 1
    # The second contender is the same checkpoint, so its trial is known: nothing is run any more.
    broken = [replace(contender, folder=tmp_path / "nowhere") for contender in contenders]
    assert run_fast_trials(broken, SHORT, log=log) == [first[0], first[0]]
    with pytest.raises(ValueError, match="nowhere"):
        run_fast_trials(broken[:1], replace(SHORT, seed=1), log=log)
    file.write_text("{}\n")
    with pytest.raises(LineError, match=r"line 1 is damaged .*'trial'"):
        TrialLog(file)


def test_policies_that_cannot_be_tried_are_refused_before_the_first_trial(checkpoint: Path) -> None:
    for settings, said in (
        (replace(SHORT, task="grasp_bottle"), "was not trained on 'grasp the bottle and lift it'"),
        (replace(SHORT, execute_length=21), "plans 20 actions: execute 1..20 of them, not 21"),
    ):
        with pytest.raises(StudyError, match=said):
            identified([Contender("one", checkpoint)], settings)
    with pytest.raises(StudyError, match=r"need 1..2 workers"):
        run_fast_trials([], SHORT, workers=3)


def results(outcomes: dict[str, list[str]]) -> Summary:
    """A study with these outcomes: a string of + and - for each policy of a name."""
    found = []
    for name, rows in outcomes.items():
        for row in rows:
            trials = tuple(
                FastTrial(k, True, "", "", (), 8.0 + k, 3, 0)
                if sign == "+"
                else FastTrial(k, False, "why", PROTECTIVE_STOP if k else TIME_LIMIT, ("cube is at rest",), 30.0, 9, 1)
                for k, sign in enumerate(row)
            )
            found.append(PolicyResult(Contender(name, Path(name), f"{name}{row}"), trials))
    return Summary(TrialSettings(TASK, len(found[0].trials)), tuple(found))


def test_the_summary_pairs_by_placement_and_gathers_seeds(tmp_path: Path) -> None:
    summary = results({"sft": ["+--+--"], "rl": ["+++++-", "-+++--"]})
    assert summary.names == ["sft", "rl (1)", "rl (2)"]
    raw = summary.as_json()
    sft, rl, _ = raw["policies"]
    assert (sft["successes"], sft["trials"], sft["success_duration_s"]) == (2, 6, 9.5)
    assert sft["unmet"] == {"cube is at rest": 4} and sft["stops"] == {PROTECTIVE_STOP: 4}
    assert rl["interval_95"][0] == pytest.approx(0.359, abs=1e-3)  # Clopper-Pearson of 5 in 6
    first, second = raw["pairs"]
    assert [first[name] for name in ("both", "only_first", "only_second", "neither")] == [2, 0, 3, 1]
    assert [second[name] for name in ("both", "only_first", "only_second", "neither")] == [1, 1, 2, 2]
    assert first["difference"] == 0.5 and first["p_mcnemar"] == 0.25
    assert first["interval_95"] == [tango_interval(0, 3, 6).low, tango_interval(0, 3, 6).high]
    (seeds,) = raw["seeds"]
    assert seeds["count"] == 2 and seeds["rate"]["mean"] == pytest.approx(2 / 3)
    assert seeds["difference"]["mean"] == pytest.approx(1 / 3)
    assert seeds["difference"]["deviation"] == pytest.approx((1 / 3) / math.sqrt(2))
    file = tmp_path / "study.json"
    file.write_text(json.dumps(raw))
    assert read_outcomes(file, TASK)["sft+--+--"] == [True, False, False, True, False, False]
    with pytest.raises(StudyError, match="holds trials of place_cube, not of place_bowl"):
        read_outcomes(file, "place_bowl")
    with pytest.raises(StudyError, match="is no result of prophrl trials fast"):
        read_outcomes(tmp_path / "absent.json", TASK)


def test_a_trial_comes_back_from_json() -> None:
    trial = FastTrial(3, False, "why", TIME_LIMIT, ("a", "b"), 1.25, 2, 1)
    assert FastTrial.from_json(json.loads(json.dumps(asdict(trial)))) == trial
