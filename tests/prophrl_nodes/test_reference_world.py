"""The shipped world model's recipe: every part is a command that exists, and what is done is not done again."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import pytest
from prophrl_nodes.cli import prophet_reference
from prophrl_nodes.studies.ablation_jobs import StudyChanged
from prophrl_nodes.studies.reference_world import PACKED, SHIPPED, ReferenceWorld

from robot_bridge.twin.tasks import TASK_IDS
from tests.helpers.command_lines import parse_prophrl


def test_every_part_is_a_command_line_that_prophrl_understands(tmp_path: Path) -> None:
    jobs = ReferenceWorld(tmp_path).jobs()
    assert len({job.name for job in jobs}) == len(jobs) == 7 * len(TASK_IDS) + 5
    assert len({job.log for job in jobs}) == len(jobs)
    for job in jobs:
        parse_prophrl(job.command)
        assert not job.is_done(), job.name


def test_a_folder_of_other_numbers_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prophrl_nodes.studies.reference_world.run_jobs", lambda jobs, say: {})
    ReferenceWorld(tmp_path, episodes=20).run(print)
    ReferenceWorld(tmp_path, episodes=20, host="127.0.0.2").run(print)
    with pytest.raises(StudyChanged, match="episodes was 20, is 21"):
        ReferenceWorld(tmp_path, episodes=21).run(print)


def test_a_part_waits_for_what_it_is_made_of(tmp_path: Path) -> None:
    jobs = {job.name: job for job in ReferenceWorld(tmp_path, tasks=("place_cube",)).jobs()}
    assert [name for name, job in jobs.items() if job.is_ready()] == ["place_cube: demonstrations"]

    def finish(*names: str) -> None:
        for name in names:
            (tmp_path / name).mkdir()
            (tmp_path / name / "dataset.json").write_text(json.dumps({"complete": True}))

    def learn(*names: str) -> None:
        for name in names:
            (tmp_path / name / "policy").mkdir(parents=True)
            (tmp_path / name / "policy" / "provenance.json").touch()

    finish("demonstrations", "few_5_place_cube")
    assert jobs["place_cube: 14 demonstrations"].is_ready()
    learn("policy_5_place_cube")
    assert not jobs["place_cube: attempts, 8 rows a look"].is_ready(), "one of two policies is missing"
    learn("policy_14_place_cube")
    assert jobs["place_cube: attempts, 8 rows a look"].is_ready()
    finish("play_place_cube")
    assert not jobs["codec"].is_ready(), "attempts with whole chunks are missing"
    finish("whole_place_cube")
    assert jobs["codec"].is_ready()
    (tmp_path / "codec").mkdir()
    assert not jobs["world model"].is_ready(), "the codec has only begun"
    (tmp_path / "codec" / "codec_provenance.json").touch()
    assert jobs["world model"].is_ready() and not jobs["packing"].is_ready() and not jobs["evaluation"].is_ready()


def test_every_job_waits_for_its_own_task(tmp_path: Path) -> None:
    jobs = {job.name: job for job in ReferenceWorld(tmp_path).jobs()}
    for task in TASK_IDS:
        (tmp_path / f"play_{task}").mkdir()
        (tmp_path / f"play_{task}" / "dataset.json").write_text(json.dumps({"complete": True}))
        assert jobs[f"{task}: attempts, 8 rows a look"].is_done()
        assert not jobs[f"{task}: attempts, 20 rows a look"].is_done()


def test_policies_cannot_learn_from_more_than_there_is(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"1\.\.10 demonstrations \(--episodes\), got \(5, 14\)"):
        ReferenceWorld(tmp_path, episodes=10)


def test_the_packed_world_says_how_it_is_made_again(tmp_path: Path) -> None:
    study = ReferenceWorld(tmp_path, tasks=("place_cube",), episodes=5, few=(2, 3))
    again = study.command_line()
    assert again.startswith("prophrl prophet reference OUT --task place_cube --few 2 3 --episodes 5 ")
    parser = argparse.ArgumentParser(exit_on_error=False)
    prophet_reference.register(parser)
    said = parser.parse_args(again.split()[3:])
    assert (said.task, said.episodes, said.few, said.play) == (["place_cube"], 5, [2, 3], study.play)
    (pack,) = (job for job in study.jobs() if job.name == "packing")
    assert f"rebuilt_by={again}" in pack.command


def test_with_a_world_model_given_only_recordings_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prophrl_nodes.studies.reference_world.run_jobs", lambda jobs, say: {})
    study = ReferenceWorld(tmp_path / "out", tasks=("place_cube",), world=SHIPPED)
    assert [job.name for job in study.jobs()][-1] == "place_cube: attempts, 20 rows a look"
    study.run(print)
    study.run(print)  # called again, it goes on
    for file in SHIPPED.iterdir():
        assert (study.out / PACKED / file.name).read_bytes() == file.read_bytes()
    with pytest.raises(StudyChanged, match="world was"):
        ReferenceWorld(tmp_path / "out", tasks=("place_cube",)).run(print)


def test_a_world_model_that_is_none_or_shows_another_part_of_the_picture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no world model's checkpoint folder \(--world\)"):
        ReferenceWorld(tmp_path / "out", world=tmp_path)
    other = tmp_path / "other"
    shutil.copytree(SHIPPED, other)
    config = json.loads((other / "config.json").read_text())
    config["prophet"]["image_region"] = [0.0, 0.0, 0.5]
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="the recordings would show"):
        ReferenceWorld(tmp_path / "out", world=other)
    assert not (tmp_path / "out").exists()
