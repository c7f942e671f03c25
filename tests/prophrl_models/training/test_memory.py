"""The memory estimate counts without computing what a real pass keeps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from prophrl_models.data.dataset import Dataset
from prophrl_models.training.lora import LoraOptions, choose_trained
from prophrl_models.training.memory import count_activations, count_real_activations, estimate, try_activations
from prophrl_models.training.rows import DatasetRows
from prophrl_models.training.stream import BatchStream
from prophrl_models.training.vla import set_precision
from tests.helpers.small_runs import FRAMES, new_policy
from tests.helpers.small_vla import SmallVla


@pytest.fixture
def policy(dataset_folder: Path) -> SmallVla:
    dataset = Dataset(dataset_folder)
    return new_policy(dataset, DatasetRows(dataset, FRAMES))


def batch_of(policy: SmallVla, folder: Path, size: int = 4):  # type: ignore[no-untyped-def]
    rows = DatasetRows(Dataset(folder), FRAMES)
    return BatchStream(rows, policy, size, workers=0).batch(0)


def test_count_without_content_equals_that_of_a_real_pass(policy: SmallVla, dataset_folder: Path) -> None:
    batch = batch_of(policy, dataset_folder)
    real = count_real_activations(policy, policy.blocks(), batch)
    found = count_activations(policy, policy.blocks(), batch)
    # Attention without content keeps its row sums in a buffer of slightly another size.
    assert found.kept == pytest.approx(real.kept, rel=0.01)
    assert found.checkpointed == pytest.approx(real.checkpointed, rel=0.01)
    assert 0 < real.checkpointed < real.kept


def test_activations_grow_with_the_batch_and_weights_do_not_count(policy: SmallVla, dataset_folder: Path) -> None:
    few, many = (count_activations(policy, policy.blocks(), batch_of(policy, dataset_folder, n)) for n in (4, 8))
    assert many.kept == pytest.approx(2 * few.kept, rel=0.02)


def test_bytes_of_weights_gradients_and_optimiser(policy: SmallVla) -> None:
    total = sum(p.numel() for p in policy.parameters())
    full = estimate(policy, average=True)
    assert (full.weights, full.gradients, full.optimiser, full.average) == tuple(4 * total * k for k in (1, 1, 2, 1))
    choose_trained(policy, "lora", LoraOptions(rank=4))
    set_precision(policy, "bf16")
    trained = sum(p.numel() for p in policy.parameters() if p.requires_grad)
    frozen = [p for p in policy.parameters() if not p.requires_grad]
    lora = estimate(policy, average=False, world=2)
    vectors = sum(p.numel() for p in frozen if p.ndim < 2)
    weights = 4 * trained + 2 * (sum(p.numel() for p in frozen) - vectors) + 4 * vectors
    assert (lora.weights, lora.gradients, lora.average) == (weights // 2, 4 * trained // 2, 0)
    assert "does NOT fit" in lora.describe(10**9) and "fits" in lora.describe(80 * 10**9)


def test_policy_that_needs_values_gives_a_reason_instead_of_a_number(policy: SmallVla, dataset_folder: Path) -> None:
    batch = batch_of(policy, dataset_folder)

    def embed(inputs):  # type: ignore[no-untyped-def]
        return SmallVla.embed(policy, inputs) if inputs.state_B7.sum().item() else None

    policy.embed = embed  # type: ignore[method-assign]
    found, reason = try_activations(policy, policy.blocks(), batch, torch.autocast("cpu", enabled=False))
    assert found is None and reason
    assert "activations unknown" in estimate(policy, average=False, activations=None, reason=reason).describe()


def test_policy_without_storage_is_not_counted(policy: SmallVla, dataset_folder: Path) -> None:
    with torch.device("meta"):
        empty = SmallVla(policy.spec)
    with pytest.raises(RuntimeError, match="unfused attention"):
        count_activations(empty, empty.blocks(), batch_of(policy, dataset_folder))
