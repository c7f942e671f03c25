"""``prophrl rl ablate``: what it will run, what counts as done, and a whole study at its smallest."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from prophrl_nodes.cli import rl_ablate
from prophrl_nodes.cli.main import main
from prophrl_nodes.studies.ablation_jobs import StudyChanged
from prophrl_nodes.studies.fast_summary import PolicyResult, Summary
from prophrl_nodes.studies.fast_trials import Contender, FastTrial, StudyError, TrialSettings, identified
from prophrl_nodes.studies.policy_ablation import jobs_of, prepare, result_of, write_result

from calibration.storage import save_camera
from prophrl_models.data.dataset import Dataset, DatasetHeader, DatasetWriter
from prophrl_models.prophet.checkpoint import Sampling, save_prophet
from prophrl_models.prophet.codec import build_codec
from prophrl_models.prophet.config import preset
from prophrl_models.prophet.network import Prophet
from prophrl_models.reward.calibration import Decision
from prophrl_models.reward.classifier import ClassifierConfig, SuccessClassifier
from prophrl_models.reward.classifier_files import save_classifier
from prophrl_models.rl.settings import load_settings
from prophrl_models.training.checkpoint import read_checkpoint, save_policy
from robot_bridge.twin.tasks import get_task
from tests.helpers.reaches import CONVENTION, camera, places, reach
from tests.helpers.twin_policies import untrained_policy, write_untrained

TASK = "place_cube"
SPOKEN = get_task(TASK).instruction
PLAN = """
common: {preset: tiny, judge: "classifier:JUDGE", policy: POLICY, world: WORLD, device: cpu, world_steps: 1}
settings: {watch.tensorboard: false, rollout.video_every: 0}
seeds: [0, 1]
baseline: fa_grpo
twin: {task: place_cube, trials: 4, workers: 1}
arms:
  fa_grpo: {update.flow_scale: none}
  flow_grpo: {update.objective: flow_grpo, update.flow_scale: none}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    writer = DatasetWriter(folder / "data", DatasetHeader(convention=CONVENTION))
    for number, place in enumerate(places(6, 0)):
        episode = reach(place, number)
        writer.add(replace(episode, metadata=replace(episode.metadata, instruction=SPOKEN)), f"episode-{number}")
    writer.finish()
    for row in Dataset(folder / "data").table:
        save_camera(folder / "data" / row.folder / "calibration.yaml", camera(), serial="drawn")
    write_untrained(folder / "policy", TASK)
    torch.manual_seed(0)
    config = preset("tiny")
    made_of: dict[str, list[str]] = {"dataset_hashes": [], "calibration_ids": []}
    network, codec = Prophet(config.network), build_codec(config.codec)
    save_prophet(folder / "world", network, codec, config, made_of, sampling=Sampling(steps=1, solver="euler"))
    text = PLAN
    for word in ("JUDGE", "POLICY", "WORLD"):
        text = text.replace(word, str(folder / word.lower()))
    (folder / "plan.yaml").write_text(text)
    return folder


def parsed(home: Path, out: Path, *more: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    rl_ablate.register(parser)
    return parser.parse_args([str(w) for w in (home / "data", out, "--plan", home / "plan.yaml", *more)])


def finish(study: object, arm: str, seed: int, won: int, *, step: int = 2) -> None:
    """What a run and its trials leave behind."""
    folder = study.run_folder(arm, seed)  # type: ignore[attr-defined]
    start = read_checkpoint(study.policy)  # type: ignore[attr-defined]
    record = {
        "dataset_hash": "none",
        "calibration_ids": [],
        "step": step,
        "evaluations": [{"step": 0, "success": 0.25, "rollouts": 8}, {"step": 2, "success": 0.5, "rollouts": 8}],
    }
    number = 10 * seed + len(arm)
    save_policy(folder / "policy", untrained_policy(TASK, number), start.normalisation, record)
    trials(folder / "policy", folder / "twin.json", won)


def trials(policy: Path, file: Path, won: int, count: int = 4) -> None:
    """As prophrl trials fast writes them."""
    settings = TrialSettings(TASK, count)
    found = identified([Contender("policy", policy)], settings)
    rows = [PolicyResult(c, tuple(FastTrial(k, k < won, "", "", (), 9.0, 3, 0) for k in range(count))) for c in found]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(Summary(settings, tuple(rows)).as_json()))


def test_every_arm_and_seed_is_a_run_and_trials_of_its_policy(home: Path, tmp_path: Path) -> None:
    study = rl_ablate._study(parsed(home, tmp_path / "out"))
    prepare(study)
    jobs = jobs_of(study)
    pairs = [f"{arm}, seed {seed}" for seed in (0, 1) for arm in ("fa_grpo", "flow_grpo")]
    assert [job.name for job in jobs] == [
        "start: trials on the twin",
        *(f"{pair}: {part}" for pair in pairs for part in ("reinforcement", "trials on the twin")),
    ]
    run, tried = list(jobs[3].command)[3:], list(jobs[4].command)[3:]
    assert run[:2] == ["rl", "run"] and run[run.index("--seed") + 1] == "0"
    settings = load_settings(run[run.index("--config") + 1])
    assert settings.update.objective == "flow_grpo" and settings.steps == 2 and not settings.watch.tensorboard
    assert tried[:2] == ["trials", "fast"] and tried[tried.index("--trials") + 1] == "4"
    assert jobs[0].is_ready() and not jobs[4].is_ready() and not any(job.is_done() for job in jobs)
    imagined = rl_ablate._study(parsed(home, tmp_path / "other", "--twin", "none", "--arms", "fa_grpo", "flow_grpo"))
    assert all(job.name.endswith("reinforcement") for job in jobs_of(imagined))


def test_finished_parts_are_known_and_compared_and_others_are_missing(home: Path, tmp_path: Path) -> None:
    study = rl_ablate._study(parsed(home, tmp_path / "out"))
    prepare(study)
    trials(study.policy, study.out / "start" / "twin.json", 1)
    finish(study, "fa_grpo", 0, 2)
    finish(study, "fa_grpo", 1, 2)
    finish(study, "flow_grpo", 0, 4, step=0)
    (study.run_folder("flow_grpo", 1)).mkdir(parents=True)
    jobs = {job.name: job.is_done() for job in jobs_of(study)}
    assert [name for name, done in jobs.items() if not done] == [
        "flow_grpo, seed 1: reinforcement", "flow_grpo, seed 1: trials on the twin",
    ]  # fmt: skip
    found = result_of(study, {})
    assert found.missing == ("flow_grpo, seed 1",) and sum(found.start) == 1
    fa, flow = found.arms
    assert [sum(run.trials) for run in fa.runs] == [2, 2] and [sum(run.trials) for run in flow.runs] == [4]
    assert fa.runs[0].imagined is not None and fa.runs[0].imagined.successes == 4
    assert flow.runs[0].best_step == 0 and "flow_grpo 0" in found.sentences[-1]
    assert found.to_baseline[0].pairs is not None and found.to_baseline[0].pairs.trials == 4
    assert write_result(study, {}).is_file()
    more = rl_ablate._study(parsed(home, tmp_path / "out", "--trials", 8))
    assert not any(job.is_done() for job in jobs_of(more) if job.name.endswith("twin"))
    (study.run_folder("fa_grpo", 0) / "resume.safetensors").write_bytes(b"")
    assert "fa_grpo, seed 0" in result_of(study, {}).missing


def test_what_cannot_be_run_is_refused_before_anything_starts(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(rl_ablate._study(parsed(home, out)))
    prepare(rl_ablate._study(parsed(home, out, "--seeds", 5, "--trials", 9)))  # may grow
    with pytest.raises(StudyChanged, match=r"settings.fa_grpo.steps was 2, is 3"):
        prepare(rl_ablate._study(parsed(home, out, "--steps", 3)))
    with pytest.raises(StudyError, match="was not trained on"):
        prepare(rl_ablate._study(parsed(home, tmp_path / "x", "--twin", "place_bowl")))
    with pytest.raises(StudyError, match="is no world model's checkpoint folder"):
        prepare(rl_ablate._study(parsed(home, tmp_path / "x", "--world", tmp_path)))
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_whole_study_ends_in_table_and_page(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    looks = ClassifierConfig((SPOKEN,), frames=4, height=24, width=32, channels=(8, 8, 8, 8), token=16, heads=2)
    save_classifier(home / "judge", SuccessClassifier(looks).eval(), Decision(), {"made_for": "a test"})
    words = [home / "data", tmp_path / "out", "--plan", home / "plan.yaml", "--seeds", 0]
    words += ["--trials", 1]
    assert main(["rl", "ablate", *map(str, words)]) == 0
    said = capsys.readouterr().out
    assert "flow_grpo" in said and "Against fa_grpo:" in said
    facts = json.loads((tmp_path / "out" / "report.json").read_text())
    assert not facts["missing"] and not facts["failed"] and facts["start"]["trials"] == 1
    assert all(len(arm["runs"]) == 1 and arm["trials"] == 1 for arm in facts["arms"])
    assert main(["rl", "ablate", *map(str, words)]) == 0
    assert "5 of 5 parts are done already" in capsys.readouterr().out
