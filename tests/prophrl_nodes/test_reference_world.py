"""The shipped world model's recipe: every part is a command that exists, and what is done is not done again."""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path

import pytest
from prophrl_nodes.studies.ablation_jobs import StudyChanged
from prophrl_nodes.studies.reference_world import ReferenceWorld, complete

from robot_bridge.twin.tasks import TASK_IDS


def test_every_part_is_a_command_line_that_prophrl_understands(tmp_path: Path) -> None:
    jobs = ReferenceWorld(tmp_path).jobs()
    assert len({job.name for job in jobs}) == len(jobs) == 6 * len(TASK_IDS) + 5
    assert len({job.log for job in jobs}) == len(jobs)
    for job in jobs:
        assert list(job.command[1:3]) == ["-m", "prophrl_nodes.cli.main"]
        name, *words = job.command[3:]
        module = importlib.import_module(f"prophrl_nodes.cli.{name}")
        parser = argparse.ArgumentParser(allow_abbrev=False, exit_on_error=False)
        module.register(parser)
        getattr(module, "parse", argparse.ArgumentParser.parse_args)(parser, words)
        assert not job.is_done(), job.name


def test_a_folder_of_other_numbers_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prophrl_nodes.studies.reference_world.run_jobs", lambda jobs, say: {})
    ReferenceWorld(tmp_path, episodes=10).run(print)
    ReferenceWorld(tmp_path, episodes=10, host="127.0.0.2").run(print)
    with pytest.raises(StudyChanged, match="episodes was 10, is 11"):
        ReferenceWorld(tmp_path, episodes=11).run(print)


def test_a_dataset_counts_when_it_is_complete(tmp_path: Path) -> None:
    assert not complete(tmp_path)
    (tmp_path / "dataset.json").write_text(json.dumps({"complete": False}))
    assert not complete(tmp_path)
    (tmp_path / "dataset.json").write_text(json.dumps({"complete": True}))
    assert complete(tmp_path)
