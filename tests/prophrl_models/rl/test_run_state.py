"""A run that is killed at any moment goes on along the same curve."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from prophrl_models.policies.tiny import TinyPolicy
from prophrl_models.rl.rollouts import Unit
from prophrl_models.rl.run_state import RESUME_FILE, ROLLOUT_FOLDER, RunStore, load_rollouts, save_rollouts
from prophrl_models.training.checkpoint import CheckpointError
from prophrl_models.training.settings import TrainingError
from tests.helpers.dot_runs import SETTINGS, dot_trainer, dot_worker, reopened

ROOT = Path(__file__).parents[3]
UNIT = Unit((0, 1), (3, 4), video=True)


def curve(folder: Path) -> dict[tuple[int, str], float]:
    """Everything in the log but times, by (step, name); the last line counts."""
    values = {}
    for line in (folder / "log.jsonl").read_text().splitlines():
        entry = json.loads(line)
        for name, value in entry.items():
            if not name.startswith("time/") and not name.endswith("_s"):
                values[entry["step"], name] = value
    return values


@pytest.mark.timeout(600)
def test_a_run_killed_three_times_follows_the_same_curve(taught_file: Path, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    whole = reopened(taught_file)
    dot_trainer(whole, tmp_path / "whole").run()

    for point in ("rollout:0", "update:1", "saved:2"):
        command = [sys.executable, "-m", "tests.helpers.dot_kill", str(taught_file), str(tmp_path / "cut"), point]
        killed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        if point == "rollout:0":  # the finished half of the work is there, and nothing else of that step
            kept = sorted(f.name for f in (tmp_path / "cut" / ROLLOUT_FOLDER / "step_000000").iterdir())
            assert "round_0_000.safetensors" in kept and "round_0_001.safetensors" not in kept
    resumed = reopened(taught_file)
    trainer = dot_trainer(resumed, tmp_path / "cut")
    trainer.run()

    expected, found = curve(tmp_path / "whole"), curve(tmp_path / "cut")
    assert set(found) == set(expected)
    assert (0, "held_out/success") in found  # the evaluation before the first step outlives three kills
    for key, value in found.items():
        assert value == pytest.approx(expected[key], abs=1e-6, rel=1e-6), key
    assert trainer.facts.evaluations and len(trainer.facts.evaluations) == 3
    for (name, a), b in zip(whole.named_parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6, msg=name)


def test_rollouts_survive_the_disk(taught: TinyPolicy, tmp_path: Path) -> None:
    found = dot_worker(taught).run(UNIT)
    save_rollouts(tmp_path / "unit.safetensors", found)
    again = load_rollouts(tmp_path / "unit.safetensors")
    assert torch.equal(found.chain_BSKCD, again.chain_BSKCD) and torch.equal(found.inputs.image, again.inputs.image)
    assert found.videos == again.videos and found.reasons == again.reasons and found.keep == again.keep
    data = (tmp_path / "unit.safetensors").read_bytes()
    (tmp_path / "unit.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match="is damaged"):
        load_rollouts(tmp_path / "unit.safetensors")


def test_a_unit_is_read_back_only_for_the_same_question(taught: TinyPolicy, tmp_path: Path) -> None:
    store = RunStore(tmp_path, "this run")
    found = dot_worker(taught).run(UNIT)
    store.save_unit(7, "round_0_000", UNIT, found)
    assert store.load_unit(7, "round_0_000", UNIT) is not None
    assert store.load_unit(7, "round_0_000", replace(UNIT, seeds=(3, 5))) is None
    assert RunStore(tmp_path, "another").load_unit(7, "round_0_000", UNIT) is None
    store.keep_only(8)
    assert store.load_unit(7, "round_0_000", UNIT) is None


def test_silence_is_not_kept(taught: TinyPolicy, tmp_path: Path) -> None:
    store = RunStore(tmp_path, "this run")
    found = dot_worker(taught).run(UNIT)
    store.save_unit(0, "x", UNIT, replace(found, success_B=torch.tensor([1.0, float("nan")])))
    assert store.load_unit(0, "x", UNIT) is None


def test_another_run_is_refused_by_name(taught: TinyPolicy, tmp_path: Path) -> None:
    trainer = dot_trainer(taught, tmp_path / "run")
    trainer.out_dir.mkdir()
    trainer.store.save(taught, trainer.updater, trainer.facts)
    other = replace(SETTINGS, update=replace(SETTINGS.update, beta=0.5))
    with pytest.raises(CheckpointError, match="other data, weights or settings"):
        dot_trainer(taught, tmp_path / "run", other).run()
    dot_trainer(taught, tmp_path / "new").store.forget()  # nothing there: harmless
    (tmp_path / "run" / RESUME_FILE).unlink()
    longer = dot_trainer(taught, tmp_path / "run", replace(SETTINGS, steps=5))
    assert longer.store.fingerprint == trainer.store.fingerprint  # a run may be made longer
    with pytest.raises(TrainingError, match="needs starts"):
        dot_trainer(taught, tmp_path / "run").__class__(
            taught,
            longer.executor,
            SETTINGS,
            tmp_path,
            training_starts=0,
            held_out_starts=3,
            normalisation=longer.normalisation,
            provenance=longer.provenance,
        )
