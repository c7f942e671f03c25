"""Training of policies with a backbone: what is interrupted goes on unchanged, what does not fit is refused."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from calibration.poses import ActionConvention
from prophrl_models.data.dataset import Dataset
from prophrl_models.policies import flow
from prophrl_models.policies.interface import ObservationBatch
from prophrl_models.policies.load import load_policy
from prophrl_models.training.checkpoint import read_checkpoint
from prophrl_models.training.loop import Loop, LoopOptions, Progress
from prophrl_models.training.rows import DatasetRows, Row
from prophrl_models.training.settings import TrainingError
from prophrl_models.training.stream import BatchStream
from prophrl_models.training.vla import VlaConfig, fit, passes, set_precision, step_loss, train_vla
from prophrl_models.training.vla_policy import Origin, check_fits, check_statistics
from tests.helpers.reaches import write_dataset
from tests.helpers.small_runs import CONFIG, FRAMES, new_policy, provenance, run

pytestmark = [pytest.mark.usefixtures("small_kind"), pytest.mark.timeout(400)]
BRIEF = replace(CONFIG, loop=replace(CONFIG.loop, steps=6, warmup=2, save_every=2), workers=0)


def log(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def curve(folder: Path) -> list[float]:
    return [line["loss"] for line in log(folder)]


def program(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.helpers.small_runs", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize("what", ["full", pytest.param("lora", marks=pytest.mark.slow)])
def test_killed_run_ends_as_the_undisturbed_one(dataset_folder: Path, tmp_path: Path, what: str) -> None:
    """SIGKILL in the middle of a random batch of a real process; a second one goes on."""
    whole = run(dataset_folder, tmp_path / "whole", replace(CONFIG, train=what))  # type: ignore[arg-type]
    _kill_and_finish(dataset_folder, tmp_path, what, whole, random.randrange(1, 2 * CONFIG.loop.steps))


@pytest.mark.slow
def test_run_killed_before_its_first_resume_file_starts_over(dataset_folder: Path, tmp_path: Path) -> None:
    """The random test above found it: the lines of the first start stayed in the log."""
    _kill_and_finish(dataset_folder, tmp_path, "full", run(dataset_folder, tmp_path / "whole", CONFIG), 5)


def _kill_and_finish(dataset_folder: Path, tmp_path: Path, what: str, whole: Path, kill_at: int) -> None:
    words = [str(dataset_folder), str(tmp_path / "cut"), "--train", what]
    killed = program(*words, "--kill-at", str(kill_at))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "cut" / "policy").exists()
    done = program(*words)
    assert done.returncode == 0, done.stderr
    said = f"killed in batch {kill_at}"
    assert [line["step"] for line in log(tmp_path / "cut")] == list(range(1, CONFIG.loop.steps + 1)), said
    np.testing.assert_allclose(curve(tmp_path / "cut"), curve(tmp_path / "whole"), atol=1e-6, rtol=0, err_msg=said)
    a, b = (load_file(folder / "model.safetensors") for folder in (whole, tmp_path / "cut" / "policy"))
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=1e-6, rtol=0, msg=f"{name}, {said}")
    assert not list((tmp_path / "cut").glob("resume*"))


def test_training_learns_and_the_checkpoint_acts(dataset_folder: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    folder = run(
        dataset_folder,
        tmp_path / "run",
        replace(CONFIG, loop=replace(CONFIG.loop, steps=80, learning_rate=5e-3, log_every=10, tensorboard=True)),
        say=lines.append,
    )
    losses = curve(tmp_path / "run")
    assert losses[-1] < 0.7 * losses[0]
    assert lines[0].startswith("memory (estimated, GB)") and "no graphics card" in lines[0]
    assert list((tmp_path / "run" / "tensorboard").iterdir())
    dataset = Dataset(dataset_folder)
    chunk = load_policy(folder).act(ObservationBatch.of([dataset[0].observation(3)]))
    rows = DatasetRows(dataset, FRAMES)
    assert chunk.shape == (1, 8, 7)
    assert (chunk[0] - torch.from_numpy(rows.row(3).actions_CHD)).abs().max() < 0.5
    record = read_checkpoint(folder).provenance
    assert record["parent"] == {"random": "small"} and record["training"]["loop"]["steps"] == 80
    assert {"batch_s", "wait_s", "gradient_norm", "flow"} <= set(log(tmp_path / "run")[-1])


def test_accumulated_gradient_equals_that_of_a_large_batch(dataset_folder: Path, tmp_path: Path) -> None:
    """The reference: all rows in one forward pass with the same noise, gradient by hand, clipping and AdamW by hand."""
    dataset = Dataset(dataset_folder)
    rows = DatasetRows(dataset, FRAMES)
    policy, reference = (new_policy(dataset, rows, noise=0.05) for _ in range(2))
    options = LoopOptions(steps=3, learning_rate=1e-3, warmup=0, weight_decay=0.0, gradient_clip=0.5, ema=0.0)
    config = replace(CONFIG, loop=options, micro_batch=4, batch_size=12)
    stream = BatchStream(rows, policy, 4, seed=0, augment=None, workers=0)
    loop = Loop(policy, options, tmp_path / "small", accumulate=passes(config, 1))
    loop.run(step_loss(policy, stream, config, torch.device("cpu")))

    optimiser = torch.optim.AdamW(reference.parameters(), lr=1e-3, betas=options.betas, weight_decay=0.0)
    weakest = [torch.full_like(b, torch.inf) for b in reference.parameters()]
    for step in range(3):
        parts = [stream.batch(3 * step + k) for k in range(3)]
        noises, times = [], []
        for k in range(3):
            generator = torch.Generator().manual_seed(3 * step + k)
            noises.append(torch.randn(4, 8, 7, generator=generator))
            times.append(flow.sample_times(4, generator))
        actions = reference.spec.action_scaling.normalise(torch.cat([p.actions_BCD for p in parts]))
        inputs = parts[0].inputs
        joined = type(inputs)(
            *(torch.cat([getattr(p.inputs, name) for p in parts]) for name in ("image", "state_B7", "text"))
        )
        noise, t = torch.cat(noises), torch.cat(times)
        v = reference.velocity(reference.embed(joined), flow.interpolate(actions, noise, t), t)
        optimiser.zero_grad()
        (v - (noise - actions)).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(reference.parameters(), 0.5)
        for least, b in zip(weakest, reference.parameters(), strict=True):
            least.copy_(torch.minimum(least, torch.zeros_like(b) if b.grad is None else b.grad.abs()))
        for group in optimiser.param_groups:  # half a cosine from the peak to a hundredth
            group["lr"] = 1e-3 * (0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * step / 3)))
        optimiser.step()
    compared = 0
    for (name, a), b, least in zip(policy.named_parameters(), reference.parameters(), weakest, strict=True):
        # AdamW makes a whole step of whatever gradient there is. Where it is nothing but rounding (the bias of keys has
        # none), a step's direction depends on the order of sums, and that on the machine.
        real = least > 1e-6
        compared += int(real.sum())
        torch.testing.assert_close(a[real], b[real], atol=1e-5, rtol=1e-4, msg=name)
    assert compared > 0.5 * sum(b.numel() for b in reference.parameters())


def test_gradient_checkpointing_and_threads_do_not_change_the_curve(dataset_folder: Path, tmp_path: Path) -> None:
    run(dataset_folder, tmp_path / "plain", BRIEF)
    run(dataset_folder, tmp_path / "other", replace(BRIEF, gradient_checkpointing=True, workers=3))
    np.testing.assert_allclose(curve(tmp_path / "plain"), curve(tmp_path / "other"), atol=1e-6, rtol=0)


def test_bf16_keeps_trained_weights_in_float32_and_stores_matrices_of_the_backbone_halved(
    dataset_folder: Path, tmp_path: Path
) -> None:
    folder = run(dataset_folder, tmp_path / "run", replace(BRIEF, precision="bf16", train="lora"))
    tensors = load_file(folder / "model.safetensors")
    assert tensors["layers.0.qkv.weight"].dtype is torch.bfloat16
    assert all(value.dtype is torch.float32 for name, value in tensors.items() if name.startswith("head."))
    assert np.isfinite(curve(tmp_path / "run")).all()
    dataset = Dataset(dataset_folder)
    policy = new_policy(dataset, DatasetRows(dataset, FRAMES))
    policy.layers.requires_grad_(False)
    set_precision(policy, "bf16")
    kinds = {name: p.dtype for name, p in policy.named_parameters()}
    assert kinds["layers.0.qkv.weight"] is torch.bfloat16 and kinds["layers.0.norm.weight"] is torch.float32
    assert kinds["patch.weight"] is torch.float32


def test_checkpoint_of_a_run_with_integrated_state_says_so(dataset_folder: Path, tmp_path: Path) -> None:
    folder = run(dataset_folder, tmp_path / "run", replace(BRIEF, state_source="integrated"))
    assert read_checkpoint(folder).spec.state_source == "integrated"


def test_continuing_with_other_settings_is_refused_by_name(dataset_folder: Path, tmp_path: Path) -> None:
    def stop(progress: Progress) -> None:
        if progress.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(dataset_folder, tmp_path, BRIEF, progress=stop)
    other = replace(BRIEF, batch_size=4, loop=replace(BRIEF.loop, learning_rate=1e-2))
    with pytest.raises(TrainingError, match=r"batch_size was 8, is 4; loop\.learning_rate was 0\.001, is 0\.01"):
        run(dataset_folder, tmp_path, other)
    harmless = replace(BRIEF, workers=1, gradient_checkpointing=True, loop=replace(BRIEF.loop, save_every=3))
    assert run(dataset_folder, tmp_path, harmless).is_dir()
    with pytest.raises(TrainingError, match=r"finished training.*--resume-from"):
        run(dataset_folder, tmp_path, BRIEF)


class Spoiled:
    """Rows of which one is not what it should be."""

    def __init__(self, rows: DatasetRows, spoil: Callable[[Row], Row]) -> None:
        self.rows, self.format, self.spoil = rows, rows.format, spoil

    def __len__(self) -> int:
        return len(self.rows)

    def row(self, i: int) -> Row:
        return self.spoil(self.rows.row(i)) if i == 17 else self.rows.row(i)


def nan_action(row: Row) -> Row:
    actions = row.actions_CHD.copy()
    actions[2, 4] = np.nan
    return replace(row, actions_CHD=actions)


def nan_state(row: Row) -> Row:
    return replace(row, state_7=np.where(np.arange(7) == 6, np.inf, row.state_7).astype(np.float32))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (nan_action, r"episode 'reach-0', step 17: column dey_rad of its action 2 steps ahead is nan"),
        (nan_state, r"episode 'reach-0', step 17: column opening of its state is inf"),
        (lambda row: replace(row, instruction="  "), r"step 17: the instruction is empty"),
        (lambda row: replace(row, image_HW3=row.image_HW3[:200]), r"step 17: image of shape \(200, 320, 3\)"),
        (lambda row: replace(row, actions_CHD=row.actions_CHD[:, :6]), r"actions of shape \(8, 6\), expected \(8, 7\)"),
    ],
)
@pytest.mark.parametrize("workers", [0, 2])
def test_bad_row_is_refused_with_its_place(
    dataset_folder: Path, tmp_path: Path, spoil: Callable[[Row], Row], message: str, workers: int
) -> None:
    dataset = Dataset(dataset_folder)
    rows = DatasetRows(dataset, FRAMES)
    config = replace(BRIEF, workers=workers, loop=replace(BRIEF.loop, steps=100))
    arguments: Any = (Spoiled(rows, spoil), dataset.normalisation(), tmp_path / "run", config, provenance(dataset))
    with pytest.raises(TrainingError, match=message):
        fit(new_policy(dataset, rows), *arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"convention": ActionConvention.LOCAL_FRAME_DELTA}, "the data have LOCAL_FRAME_DELTA.*convert the dataset"),
        ({"action_dim": 14}, "action dimension: the policy has 7, the data have 14"),
        ({"chunk": 5}, "chunk: the policy has 8, the data have 5. To go on, set frames.chunk to 8"),
        ({"image_width": 256}, "image size: the policy has 240x320, the data have 240x256"),
        ({"control_rate_hz": 5.0}, "control rate"),
        ({"state_source": "integrated"}, "set state_source to measured"),
    ],
)
def test_data_that_mean_something_else_are_refused(dataset_folder: Path, change: dict[str, Any], message: str) -> None:
    dataset = Dataset(dataset_folder)
    rows = DatasetRows(dataset, FRAMES)
    with pytest.raises(TrainingError, match=message):
        check_fits(new_policy(dataset, rows).spec, replace(rows.format, **change))


def test_statistics_of_other_data_are_refused(dataset_folder: Path, tmp_path: Path) -> None:
    folder = run(dataset_folder, tmp_path / "run", BRIEF)
    check_statistics(folder, Dataset(dataset_folder).normalisation())
    other = Dataset(write_dataset(tmp_path / "other", count=2, seed=5)).normalisation()
    with pytest.raises(TrainingError, match="was trained with the statistics of dataset"):
        check_statistics(folder, other)


def test_first_weights_must_be_named_exactly_once(dataset_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"unknown policy 'pi06'; choose one of tiny, pi05"):
        Origin("pi06", tiny_size=True)
    with pytest.raises(TrainingError, match="got none"):
        Origin("pi05")
    with pytest.raises(TrainingError, match="got init, tiny_size"):
        Origin("pi05", init=tmp_path, tiny_size=True)
    with pytest.raises(TrainingError, match="no folder at"):
        Origin("pi05", init=tmp_path / "nothing").identity()
    with pytest.raises(ValueError, match="nothing"):
        train_vla(dataset_folder, tmp_path / "run", Origin("pi05", resume_from=tmp_path / "nothing"), BRIEF)


def test_batch_that_does_not_divide_is_refused_with_a_proposal() -> None:
    with pytest.raises(TrainingError, match="choose one that is, for example 8"):
        passes(replace(VlaConfig(), batch_size=9, micro_batch=4), 2)
    assert passes(replace(VlaConfig(), batch_size=24, micro_batch=4), 2) == 3
