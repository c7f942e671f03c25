"""The demo's reinforcement: commands that exist, parts that wait for each other, and two policies to try."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from prophrl_nodes.cli.presets import preset_file
from prophrl_nodes.studies import demo_reinforcement
from prophrl_nodes.studies.ablation_jobs import StudyChanged
from prophrl_nodes.studies.demo import Demo, DemoOptions, DemoRefused
from prophrl_nodes.studies.demo_reinforcement import (
    FROM_NOTHING,
    MINUTES,
    DemoReinforcement,
    Presets,
    ReinforcementFailed,
)
from prophrl_nodes.studies.reference_world import REGION

from prophrl_models.data.image import ImageRegion
from prophrl_models.prophet.checkpoint import read_config
from prophrl_models.rl.settings import load_settings
from tests.helpers.command_lines import parse_prophrl

TASK = "pull_tissue"
PRESETS = Presets(preset_file("train", "imagined"), preset_file("rl", "demo"))
FULL = PRESETS._replace(effort=FROM_NOTHING)


@pytest.fixture
def reinforcement(tmp_path: Path) -> DemoReinforcement:
    return DemoReinforcement(tmp_path, TASK, PRESETS, seed=3)


def test_every_part_is_a_command_line_that_prophrl_understands(reinforcement: DemoReinforcement) -> None:
    jobs = reinforcement.jobs()
    assert len({job.name for job in jobs}) == len({job.log for job in jobs}) == len(jobs) == 6
    noise = load_settings(PRESETS.reinforcement).rollout.noise_level
    understood = [parse_prophrl(job.command) for job in jobs]
    assert [options.noise for options in understood[:2]] == [noise] * 2, "attempts explore as reinforcement does"
    plan, judge = understood[3:5]
    assert plan.attempts == MINUTES.planned and plan.world == understood[-1].world and plan.noise == noise
    assert plan.out == judge.sources[-1] and plan.seed not in [options.seed for options in understood[:2]]
    assert not any(job.is_done() for job in jobs)
    # Without a policy nothing can begin, and what follows waits for the part before it.
    assert not any(job.is_ready() for job in jobs)


def test_policy_and_pictures_are_those_of_the_world_model_that_comes_with_the_project(
    reinforcement: DemoReinforcement,
) -> None:
    reinforcement.check()
    shown = ImageRegion(*REGION)
    assert reinforcement.header.sync.image_region == shown == read_config(demo_reinforcement.SHIPPED).image_region
    assert reinforcement.training.state_source == "commanded_opening"


def test_a_missing_world_model_is_said_before_anything_is_recorded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=100e9))
    gone = PRESETS._replace(effort=MINUTES._replace(start=tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="in a clone of the repository, or with --full 1"):
        Demo(DemoOptions(task=TASK, output=tmp_path / "demo", episodes=1, trials=1, reinforcement=gone))


def test_from_nothing_no_world_model_is_needed_and_none_is_given(tmp_path: Path) -> None:
    full = DemoReinforcement(tmp_path, TASK, FULL, seed=3)
    full.check()
    (train,) = (parse_prophrl(job.command) for job in full.jobs() if job.name.endswith("world model"))
    assert (train.init, train.preset, train.steps) == (None, "small", FROM_NOTHING.world_steps)
    (adapt,) = (
        parse_prophrl(job.command)
        for job in DemoReinforcement(tmp_path, TASK, PRESETS, seed=3).jobs()
        if job.name.endswith("world model")
    )
    assert (adapt.init, adapt.preset) == (demo_reinforcement.SHIPPED, "small_adapt")


def test_an_interrupted_demo_goes_on_as_it_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=100e9))
    begun = DemoOptions(task=TASK, output=tmp_path / "demo", reinforcement=PRESETS)
    Demo(begun)
    Demo(replace(begun, episodes=50, trials=5))
    for other, said in (
        (replace(begun, reinforcement=None), "reinforced was 'in the shipped world model', is 'no'"),
        (replace(begun, reinforcement=FULL), "is 'in a world model from nothing'"),
        (replace(begun, task="place_cube"), "task was 'pull_tissue', is 'place_cube'"),
    ):
        with pytest.raises(StudyChanged, match=said):
            Demo(other)


def test_a_part_that_fails_ends_the_demo_with_its_name(reinforcement: DemoReinforcement, tmp_path: Path) -> None:
    (reinforcement.first).mkdir(parents=True)
    (reinforcement.first / "provenance.json").write_text(json.dumps({}))
    (tmp_path / "logs").mkdir()
    said: list[str] = []
    with pytest.raises(ReinforcementFailed, match="pull_tissue: attempts, 8 rows a look: "):
        reinforcement.run(said.append)
    assert any("left out" in line for line in said)


def test_two_policies_need_room_for_twice_the_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=14e9))
    Demo(DemoOptions(episodes=30, trials=20, output=tmp_path / "alone"))
    with pytest.raises(DemoRefused, match="30 demonstrations and 40 trials need about 24 GB"):
        Demo(DemoOptions(episodes=30, trials=20, output=tmp_path / "both", reinforcement=PRESETS))
