"""``prophrl rl run --audit-twin``: what the arguments become, and what is refused before a run begins."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import pytest
from prophrl_nodes.cli import rl
from prophrl_nodes.studies.fast_trials import StudyError

from prophrl_models.rl.settings import RlSettings
from tests.helpers.twin_policies import write_untrained


def parsed(policy: Path, *words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    rl.register(parser)
    sources = ("--policy", str(policy), "--world", "world", "--judge", "classifier:judge")
    return parser.parse_args(["run", "data", "out", *sources, *words])


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


def test_judges_are_named_by_kind_and_place() -> None:
    server = rl.parse_judge("server:http://127.0.0.1:8000/v1,some/model")
    assert (server.kind, server.place, server.model) == ("server", "http://127.0.0.1:8000/v1", "some/model")
    with pytest.raises(rl.UsageError, match="got 'oracle:x'"):
        rl.parse_judge("oracle:x")
