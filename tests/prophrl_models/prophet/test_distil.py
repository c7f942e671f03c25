"""Distillation: the target is exact where the answer is known, and a student does in few passes what it was taught."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from prophrl_models.prophet.checkpoint import load_prophet, read_sampling
from prophrl_models.prophet.clips import ClipBatch
from prophrl_models.prophet.distil import (
    DistilOptions,
    distil_prophet,
    euler,
    predictor,
    segment_loss,
    teacher_target,
    walk,
)
from prophrl_models.prophet.sampler import Sampler
from prophrl_models.prophet.train import train_prophet
from prophrl_models.prophet.train_open import Origin
from prophrl_models.prophet.train_settings import ClipOptions, ProphetTrainConfig
from prophrl_models.prophet.worlds import load_world
from prophrl_models.training.settings import TrainingError
from tests.helpers.prophet_data import codec_folder, write_reaches
from tests.helpers.prophet_runs import CONFIG

pytestmark = pytest.mark.timeout(600)

SPREAD = 0.7


def gaussian(x: Tensor, sigma: float) -> Tensor:
    """The best prediction for clips that are normal with deviation SPREAD: shrink towards the mean, 0."""
    return x * (SPREAD**2 / (SPREAD**2 + sigma**2))


def exact(x: Tensor, sigma: float, end: float) -> Tensor:
    """The ODE's solution for such clips: x keeps its place among the noisy clips of every level."""
    return x * math.sqrt((SPREAD**2 + end**2) / (SPREAD**2 + sigma**2))


def test_the_walk_follows_the_exact_path_and_improves_with_passes() -> None:
    x = torch.tensor([3.0, -1.0, 0.5], dtype=torch.float64)
    errors = []
    for passes in (4, 8, 16):
        levels = [10.0 * (0.5 / 10.0) ** (k / passes) for k in range(passes + 1)]
        errors.append(float((walk(gaussian, x, levels, to_clip=False) - exact(x, 10.0, 0.5)).abs().max()))
    assert errors[1] < errors[0] / 2.5 and errors[2] < errors[1] / 2.5  # second order: a quarter for twice the passes
    assert errors[2] < 0.02


def test_one_euler_step_with_the_target_lands_where_the_teacher_lands() -> None:
    x = torch.tensor([3.0, -1.0, 0.5], dtype=torch.float64)
    options = DistilOptions(teacher_passes=40)
    target = teacher_target(gaussian, x, 8.0, 0.6, options)
    torch.testing.assert_close(euler(x, target, 8.0, 0.6), exact(x, 8.0, 0.6), atol=2e-3, rtol=0)
    last = teacher_target(gaussian, x, 0.6, None, options)
    torch.testing.assert_close(last, exact(x, 0.6, 0.0), atol=2e-3, rtol=0)


def test_the_samplers_steps_are_the_ones_that_were_taught() -> None:
    options = DistilOptions(passes=3, teacher_passes=2)
    sampling = options.sampling()
    assert sampling.steps == 3 and sampling.solver == "euler"
    sampler = Sampler(None, times=sampling.times, solver="euler")
    np.testing.assert_allclose(sampler.sigmas, options.sigmas(), rtol=1e-4)


@pytest.mark.parametrize("bad", [{"passes": 5}, {"passes": 0}, {"teacher_passes": 1}, {"own_share": 1.5}])
def test_options_that_cannot_be_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(TrainingError, match=r"1\.\.4 passes"):
        DistilOptions(**bad)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset, a codec, and a teacher that was trained for a moment."""
    folder = tmp_path_factory.mktemp("world")
    write_reaches(folder / "dataset", 2)
    codec_folder(folder / "codec")
    loop = dataclasses.replace(CONFIG.loop, steps=60, learning_rate=3e-3, save_every=0, ema=0.0)
    config = dataclasses.replace(CONFIG, loop=loop, micro_batch=4)
    train_prophet(
        [folder / "dataset"], folder / "run", config, origin=Origin(None, folder / "codec", folder / "latents")
    )
    return folder


def settings(steps: int, learning_rate: float = 1e-3) -> ProphetTrainConfig:
    loop = dataclasses.replace(CONFIG.loop, steps=steps, learning_rate=learning_rate, save_every=0, ema=0.0)
    return dataclasses.replace(CONFIG, loop=loop, micro_batch=4, clips=ClipOptions())


def test_a_student_comes_nearer_to_its_teacher_and_says_how_it_is_sampled(made: Path, tmp_path: Path) -> None:
    teacher_dir = made / "run" / "prophet"
    options = DistilOptions(passes=2, teacher_passes=3)
    folder = distil_prophet(
        teacher_dir,
        [made / "dataset"],
        tmp_path / "fast",
        settings(60),
        options,
        origin=Origin(latents=made / "latents"),
    )
    assert read_sampling(folder) == options.sampling()
    world = load_world(folder)
    assert world.sampler.steps == 2
    provenance = load_prophet(folder)[3]
    assert provenance["distilled"]["passes"] == 2 and provenance["parent"]["checkpoint"] == "prophet"
    with pytest.raises(ValueError, match="was distilled for 2 passes"):
        load_world(folder, steps=10)

    teacher, student = load_prophet(teacher_dir)[0], load_prophet(folder)[0]
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(8, 16, 6, 4, 6, generator=generator)
    known, history = noise[:, :, :1] * 0.5, torch.randn(8, 16, 15, 4, 6, generator=generator)
    inputs = (known, history, torch.zeros(8, 20, 14), torch.zeros(8, 16, 6, 4, 6))
    many = Sampler(teacher, steps=24, solver="ab2").sample(*inputs, noise_BCLHW=noise)
    times = options.sampling().times
    few = Sampler(teacher, times=times, solver="euler").sample(*inputs, noise_BCLHW=noise)
    taught = Sampler(student, times=times, solver="euler").sample(*inputs, noise_BCLHW=noise)
    assert (taught - many).square().mean() < (few - many).square().mean()


def test_interrupted_distillation_and_wrong_teachers(made: Path, tmp_path: Path) -> None:
    teacher_dir = made / "run" / "prophet"
    origin = Origin(latents=made / "latents")
    folder = distil_prophet(
        teacher_dir,
        [made / "dataset"],
        tmp_path / "fast",
        settings(1),
        origin=origin,
    )
    with pytest.raises(TrainingError, match="is distilled itself"):
        distil_prophet(folder, [made / "dataset"], tmp_path / "again", settings(1), origin=origin)
    with pytest.raises(TrainingError, match="holds a finished training"):
        distil_prophet(teacher_dir, [made / "dataset"], tmp_path / "fast", settings(1), origin=origin)
    other = dataclasses.replace(settings(1), train="lora")
    with pytest.raises(TrainingError, match="trains in full"):
        distil_prophet(teacher_dir, [made / "dataset"], tmp_path / "lora", other, origin=origin)


def test_the_teacher_never_learns_and_its_answer_is_a_constant(made: Path) -> None:
    teacher, _, config, _ = load_prophet(made / "run" / "prophet")
    teacher.requires_grad_(False)
    student, _, _, _ = load_prophet(made / "run" / "prophet")
    generator = torch.Generator().manual_seed(2)
    batch = ClipBatch(
        torch.randn(2, 16, 6, 4, 6, generator=generator),
        torch.randn(2, 16, 15, 4, 6, generator=generator),
        torch.randn(2, 16, 6, 4, 6, generator=generator),
        torch.randn(2, 20, 14, generator=generator),
        torch.tensor([[False] + [True] * 5] * 2),
        "drawn",
    )

    class One:
        def batch(self, number: int) -> ClipBatch:
            return batch

        def close(self) -> None: ...

    plain = settings(1)
    loss = segment_loss(student, teacher, One(), plain, DistilOptions(own_share=1.0))
    for number in range(4):
        generator.manual_seed(number)
        first = loss(number, generator)["loss"]
        generator.manual_seed(number)
        assert loss(number, generator)["loss"].item() == first.item()
        first.backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert any(parameter.grad is not None for parameter in student.parameters())
    kept = predictor(teacher, batch, "fp32", remember=True)(batch.latent_BCLHW, 1.0)
    afresh = predictor(teacher, batch, "fp32")(batch.latent_BCLHW, 1.0)
    torch.testing.assert_close(kept, afresh, atol=1e-5, rtol=1e-5)
    assert config.network.memory is not None
