"""The training loop: an interrupted and resumed run is the run that was not interrupted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from prophrl_models.training.checkpoint import CheckpointError
from prophrl_models.training.loop import Loop, LoopOptions, MovingAverage, Progress, learning_rate

OPTIONS = LoopOptions(steps=60, learning_rate=1e-2, warmup=5, log_every=10, save_every=25, ema=0.9)


class Problem:
    """Fit a small network to a noisy line; the noise comes from the loop's generator."""

    def __init__(self, stop_at: int | None = None) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))
        self.stop_at = stop_at

    def loss(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        if step == self.stop_at:
            raise KeyboardInterrupt
        x = torch.randn(16, 2, generator=generator)
        error = self.model(x)[:, 0] - (x[:, 0] - 2 * x[:, 1] + 0.1 * torch.randn(16, generator=generator))
        return {"loss": error.square().mean(), "bias": error.mean().detach()}


def run(folder: Path, problem: Problem, options: LoopOptions = OPTIONS, fingerprint: str = "data") -> Loop:
    loop = Loop(problem.model, options, folder, fingerprint)
    loop.resume()
    loop.run(problem.loss)
    return loop


def log(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("stop", [27, 40, 3])
def test_resumed_run_follows_the_uninterrupted_loss_curve(tmp_path: Path, stop: int) -> None:
    whole = Problem()
    run(tmp_path / "whole", whole)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", Problem(stop_at=stop))
    second = Problem()
    loop = run(tmp_path / "cut", second)
    assert loop.step == OPTIONS.steps
    for name, parameter in whole.model.named_parameters():
        torch.testing.assert_close(dict(second.model.named_parameters())[name], parameter, atol=0, rtol=0)
    ends = [[line["loss"] for line in log(tmp_path / name) if line["step"] >= 50] for name in ("whole", "cut")]
    assert ends[0] == ends[1]


def test_log_has_no_step_twice_after_resuming(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Problem(stop_at=44))
    run(tmp_path, Problem())
    assert [line["step"] for line in log(tmp_path)] == [10, 20, 30, 40, 50, 60]


def test_killed_run_goes_on_from_the_last_save(tmp_path: Path) -> None:
    """A kill leaves the periodic resume file and log lines beyond it."""
    run(tmp_path, Problem(), replace(OPTIONS, steps=60))
    resumed = Loop(Problem().model, OPTIONS, tmp_path, "data")
    assert resumed.resume() and resumed.step == 50
    assert [line["step"] for line in log(tmp_path)] == [10, 20, 30, 40, 50]


def test_resume_file_of_another_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Problem(stop_at=30))
    with pytest.raises(CheckpointError, match="other data or settings"):
        run(tmp_path, Problem(), fingerprint="other data")


def test_training_learns_and_the_average_is_smoother_than_the_weights(tmp_path: Path) -> None:
    problem = Problem()
    loop = run(tmp_path, problem, replace(OPTIONS, steps=400))
    lines = log(tmp_path)
    assert lines[-1]["loss"] < 0.2 * lines[0]["loss"]
    loop.average.copy_to(problem.model)
    with torch.no_grad():
        assert problem.loss(-1, torch.Generator().manual_seed(9))["loss"] < 0.1


def test_progress_is_reported_with_means_since_the_last_report(tmp_path: Path) -> None:
    problem, seen = Problem(), list[Progress]()
    Loop(problem.model, OPTIONS, tmp_path, "data").run(problem.loss, seen.append)
    assert [p.step for p in seen] == [10, 20, 30, 40, 50, 60]
    assert seen[-1].fraction == 1.0 and {"loss", "bias", "gradient_norm"} <= set(seen[0].losses)


def test_loss_that_is_not_a_number_stops_the_run_and_names_the_step(tmp_path: Path) -> None:
    problem = Problem()

    def poisoned(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        losses = problem.loss(step, generator)
        return {"loss": losses["loss"] * float("nan")} if step == 12 else losses

    with pytest.raises(FloatingPointError, match="step 12"):
        Loop(problem.model, OPTIONS, tmp_path, "data").run(poisoned)
    assert all(torch.isfinite(p).all() for p in problem.model.parameters())


def test_learning_rate_warms_up_and_ends_at_a_hundredth() -> None:
    rates = [learning_rate(step, OPTIONS) for step in range(OPTIONS.steps + 1)]
    assert rates[0] == pytest.approx(OPTIONS.learning_rate / OPTIONS.warmup)
    assert max(rates) == pytest.approx(OPTIONS.learning_rate) and rates.index(max(rates)) in (4, 5)
    assert rates[-1] == pytest.approx(0.01 * OPTIONS.learning_rate)


def test_run_that_never_saved_starts_over_with_a_clean_log(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Problem(stop_at=23))
    (tmp_path / "resume.safetensors").unlink()  # as if killed before the first save
    run(tmp_path, Problem())
    assert [line["step"] for line in log(tmp_path)] == [10, 20, 30, 40, 50, 60]


def test_average_follows_its_formula_and_is_the_weights_themselves_without_decay() -> None:
    model = nn.Linear(1, 1, bias=False)
    average, none = MovingAverage(model, 0.9), MovingAverage(model, 0.0)
    expected = model.weight.item()
    for step in range(1, 150):
        with torch.no_grad():
            model.weight.fill_(float(step % 7))
        average.update(model, step)
        none.update(model, step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * (step % 7)
    assert average.values["weight"].item() == pytest.approx(expected, rel=1e-4)
    none.copy_to(model)
    assert not none.values and model.weight.item() == float(149 % 7)


def test_learning_rate_ends_at_the_fraction_that_was_asked() -> None:
    options = replace(OPTIONS, final_fraction=0.1)
    assert learning_rate(OPTIONS.steps, options) == pytest.approx(0.1 * OPTIONS.learning_rate)
    middle = (OPTIONS.steps + OPTIONS.warmup) / 2
    assert learning_rate(int(middle), options) == pytest.approx(0.55 * OPTIONS.learning_rate, rel=0.03)
