"""Adapters: they train what they should, and a checkpoint without them answers as the policy with them did."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from prophrl_models.data.dataset import Dataset
from prophrl_models.policies.interface import ObservationBatch
from prophrl_models.policies.load import load_policy
from prophrl_models.training.lora import LoraOptions, choose_trained, load_adapter, merged_state
from prophrl_models.training.rows import DatasetRows
from prophrl_models.training.settings import TrainingError
from prophrl_models.training.vla import without_adapters
from tests.helpers.small_runs import CONFIG, FRAMES, new_policy, run
from tests.helpers.small_vla import SmallVla

pytestmark = pytest.mark.usefixtures("small_kind")
OPTIONS = LoraOptions(rank=4, alpha=8)


@pytest.fixture(scope="module")
def dataset(dataset_folder: Path) -> Dataset:
    return Dataset(dataset_folder)


def policy_of(dataset: Dataset) -> SmallVla:
    return new_policy(dataset, DatasetRows(dataset, FRAMES), noise=0.1).eval()


def answer(policy: SmallVla, dataset: Dataset) -> torch.Tensor:
    obs = ObservationBatch.of([dataset[0].observation(t) for t in (0, 7)])
    noise = torch.randn(2, 8, 7, generator=torch.Generator().manual_seed(3))
    return policy.sample_actions(obs, noise)[1].actions_BCD


def test_new_adapters_change_nothing_and_only_they_and_the_head_train(dataset: Dataset) -> None:
    policy = policy_of(dataset)
    before = answer(policy, dataset)
    choose_trained(policy, "lora", OPTIONS)
    torch.testing.assert_close(answer(policy, dataset), before, atol=0, rtol=0)
    for name, parameter in policy.named_parameters():
        assert parameter.requires_grad == (name.startswith("head.") or ".lora_" in name), name
    # Every linear layer of the three blocks: four each, an A and a B.
    assert sum(".lora_" in name for name, _ in policy.named_parameters()) == 3 * 4 * 2


def test_training_with_adapters_moves_them_and_the_head_and_nothing_else(
    dataset: Dataset, dataset_folder: Path, tmp_path: Path
) -> None:
    loop = replace(CONFIG.loop, steps=4, warmup=0, ema=0.0)
    folder = run(dataset_folder, tmp_path / "run", replace(CONFIG, train="lora", lora=OPTIONS, loop=loop, workers=0))
    first = new_policy(dataset, DatasetRows(dataset, FRAMES), noise=0.05).state_dict()
    after = load_file(folder / "model.safetensors")
    assert set(after) == set(first)
    for name, value in after.items():
        adapted = name.startswith("layers.") and value.ndim == 2
        assert torch.equal(value, first[name]) != (adapted or name.startswith("head.")), name
    again = new_policy(dataset, DatasetRows(dataset, FRAMES), noise=0.05).eval()
    assert load_adapter(again, tmp_path / "run" / "adapter") == OPTIONS
    merged = load_policy(folder)
    assert isinstance(merged, SmallVla)
    torch.testing.assert_close(answer(merged, dataset), answer(again, dataset), atol=1e-5, rtol=1e-5)


def test_merged_weights_answer_like_the_adapters(dataset: Dataset) -> None:
    policy = policy_of(dataset)
    plain = answer(policy, dataset)
    choose_trained(policy, "lora", OPTIONS)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if ".lora_" in name:
                parameter.normal_(0.0, 0.2)
    adapted = answer(policy, dataset)
    assert (adapted - plain).abs().max() > 1e-2
    merged = without_adapters(policy, merged_state(policy)).eval()
    assert isinstance(merged, SmallVla)
    torch.testing.assert_close(answer(merged, dataset), adapted, atol=1e-5, rtol=1e-5)
    assert not any(".lora_" in name or "base_layer" in name for name in merged.state_dict())


def test_head_only_and_full(dataset: Dataset) -> None:
    policy = policy_of(dataset)
    choose_trained(policy, "head", OPTIONS)
    assert {n for n, p in policy.named_parameters() if p.requires_grad} == set(policy.head_parameters())
    choose_trained(policy, "full", OPTIONS)
    assert all(p.requires_grad for p in policy.parameters())


def test_what_cannot_be_adapted_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="must be one of full, lora, head, got 'half'"):
        choose_trained(policy_of(dataset), "half", OPTIONS)  # type: ignore[arg-type]
    with pytest.raises(TrainingError, match="Linear does not say what of it is head"):
        choose_trained(nn.Linear(2, 2), "full", OPTIONS)
    with pytest.raises(TrainingError, match="no usable adapter"):
        load_adapter(policy_of(dataset), tmp_path)
