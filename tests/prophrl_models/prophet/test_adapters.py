"""LoRA and new modules: what trains, what is stored, and that merging changes no answer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from prophrl_models.prophet.adapters import add_adapters, load_adapters, merged, save_adapters
from prophrl_models.prophet.config import preset
from prophrl_models.prophet.network import Prophet
from prophrl_models.training.lora import LoraOptions
from prophrl_models.training.settings import TrainingError

TINY = replace(preset("tiny").network, text=True)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def base_network() -> Prophet:
    network = Prophet(TINY)
    generator = torch.Generator().manual_seed(3)
    network.init_weights(generator)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return network


def inputs() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(4)
    return {
        "latent_BCLHW": torch.randn(2, 16, 6, 4, 6, generator=generator),
        "t_BL": torch.rand(2, 6, generator=generator),
        "actions_BAX": torch.randn(2, 20, 14, generator=generator),
        "frame_latent_BCLHW": torch.randn(2, 16, 6, 4, 6, generator=generator),
        "history_BCMHW": torch.randn(2, 16, 15, 4, 6, generator=generator),
    }


def train(network: Prophet, steps: int = 3) -> None:
    optimiser = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(steps):
        optimiser.zero_grad()
        network(**inputs()).square().mean().backward()
        optimiser.step()


def test_adapters_start_without_effect_and_train_with_the_new_modules_alone() -> None:
    network = base_network()
    before, new = network(**inputs()), set(network.new_parameters())
    base = {name: value.clone() for name, value in network.state_dict().items()}
    add_adapters(network)
    torch.testing.assert_close(network(**inputs()), before, atol=1e-6, rtol=1e-6)
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
    assert {name for name in trained if ".lora_" not in name} == new
    D = TINY.width
    count = sum(p.numel() for name, p in trained.items() if ".lora_" in name)
    assert count == TINY.blocks * 16 * (4 * (D + D) + 2 * (D + 4 * D))
    train(network)
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in trained.values())
    for name, value in network.state_dict().items():
        plain = name.replace(".base_layer.", ".")
        if plain in base and plain not in new:
            assert torch.equal(value, base[plain]), name


def test_round_trip_through_a_folder_and_merging_keep_the_answer(tmp_path: Path) -> None:
    network = base_network()
    add_adapters(network)
    train(network)
    expected = network(**inputs())
    assert (expected - base_network()(**inputs())).abs().max() > 1e-2
    save_adapters(tmp_path, network, {"weights": "base"})
    other = base_network()
    assert load_adapters(other, tmp_path) == LoraOptions(rank=16, alpha=16)
    assert torch.equal(other(**inputs()), expected)
    plain = merged(other)
    assert set(plain.state_dict()) == set(base_network().state_dict())
    torch.testing.assert_close(plain(**inputs()), expected, atol=1e-5, rtol=1e-4)


def test_adapters_of_another_architecture_are_refused(tmp_path: Path) -> None:
    network = base_network()
    add_adapters(network)
    save_adapters(tmp_path, network, {})
    with pytest.raises(TrainingError, match="another architecture"):
        load_adapters(Prophet(replace(TINY, blocks=1)), tmp_path)
    with pytest.raises(TrainingError, match="no usable adapter"):
        load_adapters(base_network(), tmp_path / "absent")
    with pytest.raises(TrainingError, match="no head parameters"):
        add_adapters(Prophet(replace(TINY, scalar_actions=False, action_frames="none", memory=None)))
