"""``prophrl rl``: what the arguments become, what is refused before a run begins, and how a check ends."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from prophrl_nodes.cli import rl
from prophrl_nodes.cli.main import main
from prophrl_nodes.cli.rl_shared import read_settings
from prophrl_nodes.studies.fast_trials import StudyError

from calibration.poses import ActionConvention
from prophrl_models.rl.gates import CheckReport, Finding
from prophrl_models.rl.seen import SeenInTraining
from prophrl_models.rl.settings import RlSettings
from tests.helpers.twin_policies import write_untrained


def parsed(policy: Path, *words: str, verb: str = "run") -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    rl.register(parser)
    sources = ("--policy", str(policy), "--world", "world", "--judge", "classifier:judge")
    return parser.parse_args([verb, "data", *(["out"] if verb == "run" else []), *sources, *words])


def test_an_audit_on_the_twin_is_made_from_the_arguments_and_says_what_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = write_untrained(tmp_path / "policy", "place_bowl")
    options = parsed(policy, "--audit-twin", "place_bowl", "--audit-trials", "7", "--audit-execute", "5")
    examiner = rl._examiner(options, RlSettings())
    assert (examiner.settings.trials, examiner.settings.execute_length, len(examiner.placements)) == (7, 5, 7)
    assert rl._audit(options) == "--audit-twin place_bowl --audit-trials 7 --audit-execute 5"
    assert rl._audit(parsed(policy)) == ""
    assert "7 trials of place_bowl on the digital twin every 10 steps" in capsys.readouterr().out
    with pytest.raises(StudyError, match="was not trained on 'put the red cube into the bowl'"):
        rl._examiner(parsed(policy, "--audit-twin", "place_cube"), RlSettings())


def test_audits_that_would_never_happen_or_contradict_are_refused(tmp_path: Path) -> None:
    settings = RlSettings()
    for watch, said in (
        (replace(settings.watch, audit_every=0), "got 0 and 5"),
        (replace(settings.watch, audit_every=7), "must be a multiple of watch.evaluate_every, got 7 and 5"),
        (replace(settings.watch, evaluate_every=0), "got 10 and 0"),
    ):
        with pytest.raises(rl.UsageError, match=said):
            rl._examiner(parsed(tmp_path, "--audit-twin", "place_bowl"), replace(settings, watch=watch))
    both = parsed(tmp_path, "--audit-twin", "place_bowl", "--second-judge", "classifier:other")
    with pytest.raises(rl.UsageError, match="one run has one measure of the truth"):
        rl._examiner(both, settings)
    with pytest.raises(rl.UsageError, match="at least one trial, got 0"):
        rl._examiner(parsed(tmp_path, "--audit-twin", "place_bowl", "--audit-trials", "0"), settings)


def test_several_datasets_give_starts_and_the_last_path_is_the_output(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    rl.register(parser)
    sources = ("--policy", str(tmp_path), "--world", "world", "--judge", "classifier:judge")
    options = parser.parse_args(["run", "first", "second", "out", *sources])
    assert (options.datasets, options.out) == ([Path("first"), Path("second")], Path("out"))
    assert rl._opened(options).datasets == (Path("first"), Path("second"))


def test_a_second_judge_that_would_never_be_asked_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "idle.yaml").write_text("watch: {evaluate_every: 0}")
    words = ("--second-judge", "classifier:other", "--config", str(tmp_path / "idle.yaml"))
    with pytest.raises(rl.UsageError, match="there are none: watch"):
        rl.run(parsed(tmp_path, *words))


def test_threads_are_the_settings_own_unless_given(tmp_path: Path) -> None:
    (tmp_path / "two.yaml").write_text("threads: 2")
    config = ("--config", str(tmp_path / "two.yaml"))
    assert read_settings(parsed(tmp_path, *config)).threads == 2
    assert read_settings(parsed(tmp_path, *config, "--threads", "0")).threads == 2
    assert read_settings(parsed(tmp_path, *config, "--threads", "3")).threads == 3
    with pytest.raises(rl.UsageError, match="got -1"):
        read_settings(parsed(tmp_path, *config, "--threads", "-1"))


@pytest.mark.parametrize(("statuses", "code"), [("pp", 0), ("pf", 3), ("nf", 3), ("pn", 4)])
def test_a_check_tells_by_its_exit_code_what_came_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], statuses: str, code: int
) -> None:
    words = {"p": "pass", "f": "fail", "n": "not enough"}
    findings = tuple(Finding(f"gate {s}", words[s], 0.5, 0.4, 0.6, 0.5, "half") for s in statuses)  # type: ignore[arg-type]
    world = SimpleNamespace(convention=ActionConvention.ABSOLUTE_POSE_DIFFERENCE)
    worker = SimpleNamespace(policy=None, world=world, judge=None, starts=[])
    asked: list[tuple[int, SeenInTraining]] = []
    for module, name, value in (
        ("open_run", "open_worker", lambda sources, settings: worker),
        ("seen.SeenInTraining", "of", lambda judge, world: SeenInTraining(frozenset({"bag"}))),
        (
            "replays",
            "joined_episodes",
            lambda data, most, seed, seen: asked.append((torch.get_num_threads(), seen)) or [],
        ),
        ("check", "run_check", lambda *given, **more: CheckReport(findings)),
    ):
        monkeypatch.setattr(f"prophrl_models.rl.{module}.{name}", value)
    monkeypatch.setattr("prophrl_models.data.dataset.Dataset", lambda folder: folder)
    before = torch.get_num_threads()
    try:
        assert rl.run(parsed(tmp_path, "--json", "--threads", "1", verb="check")) == code
    finally:
        torch.set_num_threads(before)
    assert asked == [(1, SeenInTraining(frozenset({"bag"})))]
    said = json.loads(capsys.readouterr().out)
    assert [f["status"] for f in said["findings"]] == [words[s] for s in statuses]


def test_a_check_that_breaks_is_no_failed_gate_and_prints_no_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["rl", "check", str(tmp_path), "--policy", str(tmp_path), "--world", str(tmp_path)]
    assert main([*command, "--judge", f"classifier:{tmp_path}", "--json"]) == 1
    told = capsys.readouterr()
    assert told.out == "" and told.err.startswith("error: ")
