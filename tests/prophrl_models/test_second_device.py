"""What computes on the CPU computes on another device too, and says the same.

No machine of the tests has a GPU; ``tests/helpers/second_device.py`` says what this device finds and what it cannot.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file as safe_load
from torch import Tensor

from prophrl_models.policies import load
from prophrl_models.policies.chunking import Committed
from prophrl_models.policies.interface import FlowPolicy, ObservationBatch, TrainingBatch
from prophrl_models.prophet.codec_train import train_codec
from prophrl_models.prophet.distil import DistilOptions, distil_prophet
from prophrl_models.prophet.rollout import Prompt
from prophrl_models.prophet.train import train_prophet
from prophrl_models.prophet.train_open import Origin
from prophrl_models.prophet.train_settings import ProphetTrainConfig
from prophrl_models.reward.calibration import Decision
from prophrl_models.reward.classifier import SuccessClassifier
from prophrl_models.reward.classifier_judge import ClassifierJudge
from prophrl_models.reward.vlm_local import LocalAnswerer
from prophrl_models.reward.votes import VotingJudge
from prophrl_models.rl.open_run import open_trainer
from prophrl_models.serving.engine import PolicyEngine, PolicyRequest
from prophrl_models.serving.protocol import ReceivedObservation
from prophrl_models.training.distributed import ALONE, Processes
from prophrl_models.training.lora import LoraOptions
from tests.helpers import dot_world, pi05, prismatic_policies, served_policy, small_reinforcement, small_runs, small_vla
from tests.helpers.prophet_data import codec_folder, write_reaches
from tests.helpers.prophet_runs import CONFIG as WORLD_CONFIG
from tests.helpers.reaches import INSTRUCTION
from tests.helpers.second_device import OnSecond, WrongDevice, second_device
from tests.helpers.small_reinforcement import LOOKS
from tests.helpers.tiny_vlm import write_vlm
from tests.prophrl_models.prophet.test_codec_train import OPTIONS as CODEC_OPTIONS
from tests.prophrl_models.prophet.test_codec_train import TINY as CODEC

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_reaches(tmp_path_factory.mktemp("reaches") / "data", 4)


@pytest.fixture(scope="module")
def world(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world model of twelve steps, trained on the CPU."""
    folder = tmp_path_factory.mktemp("world")
    return trained_world(folder / "run", dataset, codec_folder(folder / "codec"), ALONE)


def trained_world(out: Path, dataset: Path, codec: Path, processes: Processes, train: str = "full") -> Path:
    config = replace(WORLD_CONFIG, train=train)
    return train_prophet([dataset], out, config, origin=Origin(None, codec, None), processes=processes)


def curve(run: Path) -> list[float]:
    """The losses that a run wrote down."""
    return [json.loads(line)["loss"] for line in (run / "log.jsonl").read_text().splitlines()]


# The device itself ---------------------------------------------------------------------------------------------------


def test_it_computes_what_the_cpu_computes_and_refuses_what_lies_elsewhere() -> None:
    x = torch.arange(6.0).reshape(2, 3)
    with second_device() as device:
        there = x.to(device)
        assert (there @ there.T).device == device and torch.equal((there @ there.T).cpu(), x @ x.T)
        assert torch.equal((there + torch.tensor(1.0))[torch.tensor([1])].cpu(), x[1:] + 1.0), (
            "numbers, indices: as CUDA"
        )
        assert torch.tensor([1.0, 2.0], device=device).tolist() == there.new_tensor([1.0, 2.0]).tolist() == [1.0, 2.0]
        there[0].mul_(2.0)
        assert there.sum().item() == 18.0, "a view writes into its base"
        for wrong in (
            lambda: there + x,
            lambda: torch.cat([there, x]),
            lambda: torch.where(there > 0, there, x),
            lambda: x[there[0].long()],
            lambda: there.numpy(),
            lambda: torch.randn(2, device=device, generator=torch.Generator()),
            lambda: torch.randn(2, generator=torch.Generator(device)),
        ):
            with pytest.raises(WrongDevice):
                wrong()


def test_gradients_and_an_optimiser_step_are_those_of_the_cpu() -> None:
    def weights(device: torch.device) -> Tensor:
        torch.manual_seed(0)
        layer = torch.nn.Linear(3, 2).to(device)
        optimiser = torch.optim.AdamW(layer.parameters())
        torch.utils.checkpoint.checkpoint(layer, torch.ones(4, 3, device=device), use_reentrant=False).sum().backward()
        optimiser.step()
        assert isinstance(layer.weight, OnSecond) == (device != CPU)
        return layer.weight.detach().cpu()

    with second_device() as device:
        there = weights(device)
    assert torch.equal(there, weights(CPU))


# Policies ------------------------------------------------------------------------------------------------------------


def as_seen(start: Prompt) -> ReceivedObservation:
    return ReceivedObservation(start.image_HW3, start.state_7, start.instruction)


POLICIES: dict[str, tuple[Callable[[], FlowPolicy], Callable[[], ObservationBatch]]] = {
    "pi05": (pi05.policy, lambda: pi05.observations(2)),
    "vla_adapter": (lambda: prismatic_policies.policy("vla_adapter"), lambda: prismatic_policies.observations(2)),
    "openvla_oft": (lambda: prismatic_policies.policy("openvla_oft"), lambda: prismatic_policies.observations(2)),
    "tiny": (dot_world.new_policy, lambda: ObservationBatch.of([as_seen(p) for p in dot_world.starts(2, seed=0)])),
}


@pytest.mark.parametrize("kind", POLICIES)
def test_a_policy_samples_weighs_and_learns_there(kind: str) -> None:
    def work(device: torch.device) -> list[Tensor]:
        policy, seen = POLICIES[kind][0]().to(device), POLICIES[kind][1]()
        generator = torch.Generator(device).manual_seed(0)
        walked, _ = policy.sample_actions(seen, num_steps=2, generator=generator)
        drawn, trace = policy.sample_actions(seen, num_steps=2, mode="sde", generator=generator)
        logp = policy.log_prob(seen, trace)
        chunk = 0.01 * torch.ones(2, policy.spec.chunk, policy.spec.action_dim)
        batch = TrainingBatch(policy.prepare(seen), chunk, torch.ones(2), torch.zeros(2, 7), torch.ones(2), 2).to(
            device
        )
        (policy.sft_loss(batch, generator)["loss"] + 1e-3 * logp.mean()).backward()
        results = [walked, drawn, logp, policy.act(seen)]
        return results + [p.grad for p in policy.parameters() if p.grad is not None]

    with second_device() as device:
        there = work(device)
        assert {result.device for result in there} == {device}
        there = [result.detach().cpu() for result in there]
    for result, expected in zip(there, work(CPU), strict=True):
        torch.testing.assert_close(result, expected.detach(), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("kind", POLICIES)
def test_an_engine_answers_from_there(kind: str) -> None:
    def answers(device: torch.device) -> list[np.ndarray]:
        engine = PolicyEngine(POLICIES[kind][0]().to(device), device, max_batch=2)
        spec = engine.spec
        see = served_policy.observation(1)
        picture = np.ascontiguousarray(see.image_HW3[: spec.image_height, : spec.image_width])
        words = spec.instructions[0] if spec.instructions else "put the cube down"
        free = PolicyRequest(ReceivedObservation(picture, see.state_7, words), seed=5)
        first = engine.answer([free])[0].actions_CHD
        going_on = replace(free, committed=Committed(first[:3], 1))
        return [first, *(answer.actions_CHD for answer in engine.answer([going_on, free]))]

    with second_device() as device:
        there = answers(device)
    for result, expected in zip(there, answers(CPU), strict=True):
        np.testing.assert_allclose(result, expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("train", ["full", "lora"])
def test_a_policy_trains_there(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train: str) -> None:
    monkeypatch.setitem(load.KINDS, small_vla.KIND, small_vla.__name__)
    config = replace(small_runs.CONFIG, train=train, gradient_checkpointing=True, lora=LoraOptions(rank=2, alpha=4))
    small_runs.run(dataset, tmp_path / "here", config)
    with second_device() as device:
        small_runs.run(dataset, tmp_path / "there", config, processes=Processes(device=device))
    assert curve(tmp_path / "there") == pytest.approx(curve(tmp_path / "here"), rel=1e-4)


# The world model -----------------------------------------------------------------------------------------------------


def test_a_codec_trains_there(dataset: Path, tmp_path: Path) -> None:
    expected = train_codec([dataset], tmp_path / "here", CODEC, CODEC_OPTIONS)
    with second_device() as device:
        measured = train_codec([dataset], tmp_path / "there", CODEC, CODEC_OPTIONS, device=device)
    assert measured == pytest.approx(expected, rel=1e-3)
    assert curve(tmp_path / "there") == pytest.approx(curve(tmp_path / "here"), rel=5e-4)  # sums in another order


@pytest.mark.parametrize("train", ["full", pytest.param("lora", marks=pytest.mark.slow)])
def test_a_world_model_trains_there(dataset: Path, tmp_path: Path, train: str) -> None:
    codec = codec_folder(tmp_path / "codec")
    trained_world(tmp_path / "here", dataset, codec, ALONE, train)
    with second_device() as device:
        trained_world(tmp_path / "there", dataset, codec, Processes(device=device), train)
    assert curve(tmp_path / "there") == pytest.approx(curve(tmp_path / "here"), rel=1e-3)


def test_a_world_model_is_distilled_there(world: Path, dataset: Path, tmp_path: Path) -> None:
    config: ProphetTrainConfig = replace(WORLD_CONFIG, loop=replace(WORLD_CONFIG.loop, steps=3))
    options = DistilOptions()
    distil_prophet(world, [dataset], tmp_path / "here", config, options)
    with second_device() as device:
        distil_prophet(world, [dataset], tmp_path / "there", config, options, processes=Processes(device=device))
    assert curve(tmp_path / "there") == pytest.approx(curve(tmp_path / "here"), rel=1e-3)


# Judges and reinforcement --------------------------------------------------------------------------------------------


def test_a_classifier_judges_there() -> None:
    torch.manual_seed(0)
    model = SuccessClassifier(LOOKS).eval()
    videos = list(np.random.default_rng(0).integers(0, 256, (3, 9, 60, 80, 3), dtype=np.uint8))
    expected = ClassifierJudge(model, Decision()).judge(videos, [INSTRUCTION] * 3)
    with second_device() as device:
        verdicts = ClassifierJudge(model.to(device), Decision()).judge(videos, [INSTRUCTION] * 3)
    assert [v.success for v in verdicts] == [v.success for v in expected]
    assert [v.score for v in verdicts] == pytest.approx([v.score for v in expected], rel=1e-4)


def test_a_vision_language_model_judges_there(tmp_path: Path) -> None:
    folder = write_vlm(tmp_path / "tiny-qwen")
    video = np.random.default_rng(0).integers(0, 255, (6, 60, 80, 3), dtype=np.uint8)
    with second_device() as device:
        answerer = LocalAnswerer(folder, device=str(device), max_tokens=3)
        assert VotingJudge(answerer).judge([video], ["place_cube"])[0].votes == (None,) * 5
        assert answerer.device == device


def test_a_policy_is_reinforced_there(tmp_path: Path) -> None:
    """World, judge, rollouts, update, evaluation and what they write down."""
    sources, settings = small_reinforcement.write_sources(tmp_path), small_reinforcement.settings()
    open_trainer(sources, settings, tmp_path / "here").run()
    with second_device() as device:
        judge = replace(sources.judge, device=str(device))
        there = replace(sources, judge=judge, device=str(device))
        folder = open_trainer(there, settings, tmp_path / "there").run()
    here = safe_load(tmp_path / "here" / folder.name / "model.safetensors")
    for name, tensor in safe_load(folder / "model.safetensors").items():
        torch.testing.assert_close(tensor, here[name], atol=1e-3, rtol=1e-2)
