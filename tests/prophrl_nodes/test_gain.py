"""What reinforcement gains, as a study: every part is a command that exists, waits for its inputs, is done once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from prophrl_nodes.studies.ablation_jobs import Job, StudyChanged
from prophrl_nodes.studies.gain import GainStudy

from prophrl_models.trials.plan import make_plan
from prophrl_models.trials.results import ResultLog, TrialResult
from robot_bridge.twin.tasks import TASK_IDS, get_task, held_out_placements
from tests.helpers.command_lines import parse_prophrl

TASK = "pull_tissue"


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    file = tmp_path / "rl.yaml"
    file.write_text("steps: 2\n")
    return file


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    """What a finished reference folder has, as far as names go."""
    folder = tmp_path / "reference"
    finish_checkpoint(folder / "small", "world")
    finish_dataset(folder / "demonstrations")
    for task in TASK_IDS:
        finish_checkpoint(folder / f"policy_14_{task}" / "policy", f"first {task}")
        for kind in ("play", "whole"):
            finish_dataset(folder / f"{kind}_{task}")
    return folder


def finish_dataset(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "dataset.json").write_text(json.dumps({"complete": True}))


def finish_checkpoint(folder: Path, name: str, **facts: Any) -> None:
    folder.mkdir(parents=True)
    (folder / "provenance.json").write_text(json.dumps({"sha256": {"model.safetensors": name}, "step": 1, **facts}))


def by_name(study: GainStudy) -> dict[str, Job]:
    return {job.name: job for job in study.jobs()}


def test_every_part_is_a_command_line_that_prophrl_understands(reference: Path, settings: Path, tmp_path: Path) -> None:
    jobs = GainStudy(reference, tmp_path / "out", settings).jobs()
    assert len({job.name for job in jobs}) == len({job.log for job in jobs}) == len(jobs) == 11 * len(TASK_IDS)
    for job in jobs:
        parse_prophrl(job.command)
        assert not job.is_done(), job.name


def test_parts_can_be_left_out(reference: Path, settings: Path, tmp_path: Path) -> None:
    study = GainStudy(
        reference, tmp_path, settings, tasks=(TASK,), seeds=(4,), robot_trials=0, starts=0, world_steps=0
    )  # fmt: skip
    names = [name.removeprefix(f"{TASK}: ") for name in by_name(study)]
    assert names == [
        "demonstrations", "judge", "reinforcement, seed 4", "trials in simulated time"
    ]  # fmt: skip
    assert str(reference / "small") in by_name(study)[f"{TASK}: reinforcement, seed 4"].command


def test_the_first_policy_can_add_attempts_of_its_own(reference: Path, settings: Path, tmp_path: Path) -> None:
    study = GainStudy(reference, tmp_path / "out", settings, tasks=(TASK,), play=40)
    jobs = {name.removeprefix(f"{TASK}: "): job for name, job in by_name(study).items()}
    made = [parse_prophrl(jobs[f"attempts, {rows} rows a look"].command) for rows in (8, 20)]
    assert [options.attempts for options in made] == [40, 40]
    assert made[0].seed != made[1].seed
    world = parse_prophrl(jobs["world model"].command)
    assert [options.out for options in made] == world.datasets[-2:] and len(world.datasets) == 5

    finish_dataset(tmp_path / "out" / TASK / "demonstrations")
    finish_dataset(made[0].out)
    assert not jobs["world model"].is_ready(), "one kind of attempts is not made yet"
    finish_dataset(made[1].out)
    assert jobs["world model"].is_ready()


def test_the_judge_learns_from_attempts_planned_in_imagination_and_from_demonstrations_alone(
    reference: Path, settings: Path, tmp_path: Path
) -> None:
    study = GainStudy(reference, tmp_path / "out", settings, tasks=(TASK,), world_steps=0, planned=24)
    jobs = {name.removeprefix(f"{TASK}: "): job for name, job in by_name(study).items()}
    plan, home = jobs["attempts planned in imagination"], tmp_path / "out" / TASK
    options = parse_prophrl(plan.command)
    assert options.world == reference / "small" and options.attempts == 24
    assert options.checkpoints == [reference / f"policy_14_{TASK}" / "policy"]
    assert options.execute == 20, "whole chunks, where the settings keep all"
    assert options.out == home / "planned"
    assert parse_prophrl(jobs["judge"].command).sources == [home / "demonstrations", home / "planned"]
    assert not plan.is_ready(), "its weights are missing"
    for name in ("model.safetensors", "codec.safetensors", "config.json"):
        (reference / "small" / name).touch()
    assert plan.is_ready()
    finish_dataset(home / "demonstrations")
    assert not jobs["judge"].is_ready()
    finish_dataset(home / "planned")
    assert jobs["judge"].is_ready()


def test_the_study_can_train_the_first_policies_itself(reference: Path, settings: Path, tmp_path: Path) -> None:
    study = GainStudy(reference, tmp_path / "out", settings, tasks=(TASK,), few=9, policy_steps=300, play=4)
    study.claim()
    jobs = {name.removeprefix(f"{TASK}: "): job for name, job in by_name(study).items()}
    home = tmp_path / "out" / TASK
    chosen, trained = jobs["9 demonstrations"], jobs["a policy from 9 demonstrations"]
    assert parse_prophrl(chosen.command).count == 9 and parse_prophrl(trained.command).steps == 300
    assert not chosen.is_ready()
    finish_dataset(home / "demonstrations")
    assert chosen.is_ready() and not trained.is_ready()
    finish_dataset(home / "few")
    assert trained.is_ready()

    users = ["attempts, 8 rows a look", "imagined rollouts carried out, before", "reinforcement, seed 0"]
    for kind in ("play", "whole"):
        finish_dataset(home / f"{kind}_{TASK}")
    finish_checkpoint(home / "judge" / "classifier", "judge")
    finish_checkpoint(home / "world" / "prophet", "adapted")
    for name in ("model.safetensors", "codec.safetensors", "config.json"):
        (home / "world" / "prophet" / name).touch()
    assert not any(jobs[name].is_ready() for name in users), "there is no first policy yet"
    finish_checkpoint(home / "imitation" / "policy", "first")
    assert all(jobs[name].is_ready() for name in users)
    for name in users:
        assert str(home / "imitation" / "policy") in jobs[name].command


def test_a_part_waits_for_what_it_is_made_of(reference: Path, settings: Path, tmp_path: Path) -> None:
    study = GainStudy(reference, tmp_path / "out", settings, tasks=(TASK,))
    home = tmp_path / "out" / TASK
    jobs = {name.removeprefix(f"{TASK}: "): job for name, job in by_name(study).items()}

    def ready() -> set[str]:
        return {name for name, job in jobs.items() if job.is_ready() and not job.is_done()}

    assert ready() == {"demonstrations"}
    finish_dataset(home / "demonstrations")
    assert ready() == {"world model", "judge"}
    finish_checkpoint(home / "judge" / "classifier", "judge")
    assert ready() == {"world model"}, "there is no world to act in yet"
    finish_checkpoint(home / "world" / "prophet", "adapted")
    assert "world model" in ready(), "its weights are missing"
    for name in ("model.safetensors", "codec.safetensors", "config.json"):
        (home / "world" / "prophet" / name).touch()
    assert "world model" not in ready()
    carried = "imagined rollouts carried out, before"
    assert ready() == {carried, "reinforcement, seed 0", "reinforcement, seed 1"}
    finish_checkpoint(home / "rl_0" / "policy", "rl 0")
    assert "trials in simulated time" not in ready(), "the other seed is missing"
    assert {"imagined rollouts carried out, after", "plan of the trials"} <= ready()
    finish_checkpoint(home / "rl_1" / "policy", "rl 1")
    assert "trials in simulated time" in ready()


def test_a_judge_of_videos_waits_for_the_attempts_imagined_again(
    reference: Path, settings: Path, tmp_path: Path
) -> None:
    study = GainStudy(reference, tmp_path / "out", settings, tasks=(TASK,), world_steps=0, judge_kind="video")
    home = tmp_path / "out" / TASK
    jobs = {name.removeprefix(f"{TASK}: "): job for name, job in by_name(study).items()}
    judge = parse_prophrl(jobs["judge"].command)
    assert judge.kind == "video" and judge.sources[-1] == home / "imagined"
    assert parse_prophrl(jobs["reinforcement, seed 0"].command).judge == f"classifier:{home / 'judge' / 'classifier'}"
    finish_dataset(home / "demonstrations")
    assert not jobs["judge"].is_ready()
    (home / "imagined").mkdir()
    assert jobs["judge"].is_ready()


def test_a_folder_that_is_no_finished_reference_is_refused(reference: Path, settings: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"other numbers of demonstrations than 9; missing: .*policy_9_"):
        GainStudy(reference, tmp_path / "out", settings, few=9).claim()
    (reference / f"whole_{TASK}" / "dataset.json").unlink()
    with pytest.raises(FileNotFoundError, match=f"missing: .*whole_{TASK}/dataset.json$"):
        GainStudy(reference, tmp_path / "out", settings).claim()


def test_seeds_may_be_added_and_other_numbers_not(reference: Path, settings: Path, tmp_path: Path) -> None:
    GainStudy(reference, tmp_path / "out", settings, seeds=(0,)).claim()
    GainStudy(reference, tmp_path / "out", settings, seeds=(0, 1, 2), trials=200, host="127.0.0.3").claim()
    with pytest.raises(StudyChanged, match="world_steps was 1000, is 500"):
        GainStudy(reference, tmp_path / "out", settings, world_steps=500).claim()
    settings.write_text("steps: 3\n")
    with pytest.raises(StudyChanged, match="settings"):
        GainStudy(reference, tmp_path / "out", settings).claim()


def test_what_was_measured_is_found_again_by_checkpoint(reference: Path, settings: Path, tmp_path: Path) -> None:
    study = GainStudy(reference, tmp_path / "out", settings, tasks=(TASK, "place_cube"), seeds=(0,), trials=4)
    home = tmp_path / "out" / TASK
    looks = [{"step": 0, "success": 0.25, "rollouts": 8}, {"step": 1, "success": 0.5, "rollouts": 8}]
    finish_checkpoint(home / "rl_0" / "policy", "rl 0", evaluations=looks)
    assert not study.measured()
    write_fast(study, {"first": [True, False, False, False], "rl": [True, True, False, False]})
    assert study.measured()
    gain = study.result({"some part": "no disk"})
    assert gain.missing == ("place_cube",) and gain.mean == 0.25 and dict(gain.failed) == {"some part": "no disk"}
    (found,) = gain.tasks
    assert found.runs[0].imagined is not None and found.runs[0].imagined_start is not None
    assert (found.runs[0].imagined_start.successes, found.runs[0].imagined.successes) == (2, 4)
    assert found.robot is None and not found.verdicts
    run_trials(home / "trials")
    (home / "before").mkdir()
    (home / "before" / "enacted.json").write_text(json.dumps({"summary": {"true": 0.5}}))
    (found,) = study.result({}).tasks
    assert found.verdicts == {"before": {"true": 0.5}}
    assert found.robot is not None and (found.robot.only_a, found.robot.only_b, found.robot.pairs) == (0, 2, 2)
    assert found.robot_rates is not None and [rate.successes for rate in found.robot_rates] == [0, 2]
    more = GainStudy(reference, tmp_path / "out", settings, tasks=(TASK,), seeds=(0,), trials=5)
    assert not more.measured(), "a trial of each policy is missing"


def write_fast(study: GainStudy, found: dict[str, list[bool]]) -> None:
    """As ``prophrl trials fast`` writes it, as far as it is read."""
    from prophrl_models.serving.engine import id_of

    folders = {"first": study.reference / f"policy_14_{TASK}" / "policy", "rl": study.out / TASK / "rl_0" / "policy"}
    policies = [
        {
            "checkpoint_id": id_of(json.loads((folders[name] / "provenance.json").read_text())),
            "outcomes": [{"success": outcome} for outcome in outcomes],
        }
        for name, outcomes in found.items()
    ]
    text = json.dumps({"format": 1, "settings": {"task": TASK}, "policies": policies})
    (study.out / TASK / "fast.json").write_text(text)


def run_trials(folder: Path) -> None:
    """Trials in which the reinforced policy always succeeds and the first never."""
    placements = [place.to_json() for place in held_out_placements(TASK, 2)]
    plan, key = make_plan(TASK, get_task(TASK).instruction, placements, ["first", "reinforced"], seed=0)
    key.save(folder / "key.json")
    plan.save(folder / "plan.json")
    log = ResultLog(folder / "trials.jsonl", plan)
    for trial in plan.trials:
        log.append(TrialResult(trial.trial_id, True, key.policies[trial.label] == "reinforced"))
