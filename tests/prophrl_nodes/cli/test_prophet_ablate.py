"""``prophrl prophet ablate``: what it will run, what it refuses, and a whole study that is killed on the way."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from prophrl_nodes.cli import prophet_ablate
from prophrl_nodes.cli.main import main
from prophrl_nodes.studies.ablation_jobs import StudyChanged
from prophrl_nodes.studies.world_ablation import jobs_of, prepare

from prophrl_models.prophet.ablate import ARMS, DEFAULT_ARMS, AblationError
from prophrl_models.prophet.train_settings import load_prophet_config
from tests.helpers.prophet_data import codec_folder, write_reaches

SETTINGS = """
size: tiny
batch_size: 2
micro_batch: 2
precision: fp32
read_ahead: 0
held_out: 0.4
loop: {steps: 2, warmup: 1, save_every: 1, log_every: 1, ema: 0.0, learning_rate: 1.0e-3}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    write_reaches(folder / "dataset", 6)
    codec_folder(folder / "codec")
    (folder / "settings.yaml").write_text(SETTINGS)
    return folder


def words(home: Path, out: Path, *more: object) -> list[str]:
    given = (home / "dataset", out, "--config", home / "settings.yaml", "--codec", home / "codec", "--threads", 1)
    brief = ("--latents", home / "latents", "--windows", 3, "--episodes", 1, "--chunks", 1, "--videos", 1)
    return [str(word) for word in (*given, *brief, *more)]


def parsed(home: Path, out: Path, *more: object) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    prophet_ablate.register(parser)
    return parser.parse_args(words(home, out, *more))


def test_every_arm_and_seed_is_one_command_a_user_would_type(home: Path, tmp_path: Path) -> None:
    study = prophet_ablate._study(parsed(home, tmp_path / "out", "--seeds", 0, 7, "--set", "network.blocks=1"))
    prepare(study)
    jobs = jobs_of(study)
    assert prophet_ablate.DEFAULT_ARMS == DEFAULT_ARMS
    assert [job.name for job in jobs] == [
        f"{arm}, seed {seed}: {part}" for seed in (0, 7) for arm in DEFAULT_ARMS for part in ("training", "evaluation")
    ]
    train, measure = list(jobs[2].command)[3:], list(jobs[3].command)[3:]
    assert train[:2] == ["prophet", "train"] and train[train.index("--seed") + 1] == "0"
    settings = load_prophet_config(train[train.index("--config") + 1])
    assert settings.network == {"blocks": 1, "memory": None, "known_alone": True} and settings.loop.steps == 2
    assert measure[:2] == ["prophet", "eval"] and measure[measure.index("--held-out") + 1] == "0.4"
    assert "--steps" not in measure, "each checkpoint's own passes"
    other = prophet_ablate._study(parsed(home, tmp_path / "out", "--passes", 3))
    asked = [list(job.command) for job in jobs_of(other) if job.name.endswith("evaluation")]
    assert {command[command.index("--steps") + 1] for command in asked} == {"3"}
    assert not any(job.is_done() for job in jobs) and not jobs[3].is_ready()
    commands = [list(job.command) for job in jobs[1::2]]
    options = {tuple(command[command.index("--out") + 2 :]) for command in commands}
    assert len(options) == 1  # the same clips and noise for everyone


def test_a_study_may_grow_but_not_change(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(prophet_ablate._study(parsed(home, out, "--seeds", 0, "--arms", "full", "base")))
    prepare(prophet_ablate._study(parsed(home, out, "--seeds", 0, 1, "--arms", "full", "no_frames")))
    assert {f.stem for f in (out / "settings").iterdir()} == {"full", "base", "no_frames"}
    with pytest.raises(StudyChanged, match=r"settings.loop.steps was 2, is 3"):
        prepare(prophet_ablate._study(parsed(home, out, "--steps", 3)))
    with pytest.raises(AblationError, match="full and no_frames are the same network"):
        prepare(prophet_ablate._study(parsed(home, tmp_path / "x", "--set", "network.action_frames=none")))
    assert not (tmp_path / "x").exists()


def test_without_a_codec_the_study_trains_one_for_all(home: Path, tmp_path: Path) -> None:
    options = parsed(home, tmp_path / "out")
    options.codec = None
    jobs = jobs_of(prophet_ablate._study(options))
    assert jobs[0].name == "codec for all arms: training" and list(jobs[0].command)[3:5] == ["prophet", "codec"]
    codec = list(jobs[0].command)[6]
    assert all(codec in job.command for job in jobs if job.name.endswith("0: training"))
    assert not jobs[1].is_ready()
    Path(codec).mkdir(parents=True)
    assert not jobs[1].is_ready(), "its training has only begun"
    codec_folder(Path(codec))
    assert jobs[1].is_ready()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_study_that_is_killed_goes_on_and_ends_in_table_and_page(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    more = words(home, out, "--seeds", 0, 1, "--arms", "full", "base", "--set", "network.blocks=1")
    command = [sys.executable, "-m", "prophrl_nodes.cli.main", "prophet", "ablate", *more]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    first = out / "runs" / "full" / "seed_0" / "eval" / "report.html"
    deadline = time.monotonic() + 400
    while not first.is_file() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert first.is_file()
    measured_ns = first.stat().st_mtime_ns
    assert main(["prophet", "ablate", *more]) == 0
    said = capsys.readouterr().out
    assert first.stat().st_mtime_ns == measured_ns and "parts are done already" in said
    assert "copy last frame" in said and "Against base:" in said
    facts = json.loads((out / "report.json").read_text())
    assert [arm["name"] for arm in facts["arms"]] == ["full", "base"] and not facts["missing"]
    assert all(len(arm["closed loop"]["epe_px"]["seeds"]) == 2 for arm in facts["arms"])
    assert facts["arms"][0]["parameters"] > facts["arms"][1]["parameters"] > 0
    base = yaml.safe_load((out / "settings" / "base.yaml").read_text())["network"]
    assert base == {"blocks": 1, **ARMS["base"].network}
    assert facts["headline"] in (out / "report.html").read_text()
    assert main(["prophet", "ablate", *more]) == 0  # nothing left to do: the report again
    assert "8 of 8 parts are done already" in capsys.readouterr().out
