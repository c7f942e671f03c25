"""Published weights become a checkpoint that opens, and say what they did not hold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from prophrl_nodes.cli import prophet_convert
from prophrl_nodes.cli.main import main
from safetensors.torch import save_file

from calibration.poses import ActionConvention
from prophrl_models.prophet.checkpoint import load_prophet
from prophrl_models.prophet.codec_config import CodecConfig
from prophrl_models.prophet.codec_wan import WanCodec
from prophrl_models.prophet.config import MemoryConfig, NetworkConfig, preset
from prophrl_models.prophet.network import Prophet
from prophrl_models.prophet.weights import NVIDIA_ACTIONS, STREAMS

DOWN = {"width": 64, "heads": 2, "head_dim": 32, "blocks": 2, "adaln_lora_dim": 16, "text_dim": 24}


@pytest.fixture
def small_2b(monkeypatch: pytest.MonkeyPatch) -> NetworkConfig:
    """The preset "2b" with the network of a test."""
    full = preset("2b")
    config = replace(full, network=replace(full.network, **DOWN, memory=MemoryConfig(gated=True)))
    monkeypatch.setattr("prophrl_models.prophet.convert.preset", {"2b": config}.__getitem__)
    return config.network


@pytest.fixture
def vae(tmp_path: Path) -> Path:
    codec = WanCodec(CodecConfig(kind="wan", wan_base_dim=8, wan_dim_mult=(1, 1, 1, 1), wan_res_blocks=1))
    codec.vae.save_pretrained(tmp_path / "vae")
    return tmp_path / "vae"


def nvidia_file(path: Path) -> dict[str, torch.Tensor]:
    """A file of the action-conditioned layout's shapes, 12 actions of 7 numbers, under our names."""
    network = Prophet(replace(NVIDIA_ACTIONS, **DOWN))
    state = {name: torch.randn_like(value) for name, value in network.named_parameters()}
    save_file(state, path)
    return state


def test_streams_on_the_command_line_are_those_of_the_network() -> None:
    assert prophet_convert.STREAMS == STREAMS


def test_action_layers_of_another_arm_are_refused_with_the_way_out(
    tmp_path: Path, small_2b: NetworkConfig, vae: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nvidia_file(tmp_path / "action.safetensors")
    words = ["prophet", "convert", str(tmp_path / "action.safetensors"), str(tmp_path / "out"), "--vae", str(vae)]
    assert main(words) == 1
    said = capsys.readouterr().err
    assert "[256, 84] in the file, [256, 280] in the network" in said
    assert "--fresh scalar_actions" in said and not (tmp_path / "out").exists()


def test_the_base_of_an_action_conditioned_file_becomes_a_checkpoint(
    tmp_path: Path, small_2b: NetworkConfig, vae: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = nvidia_file(tmp_path / "action.safetensors")
    words = ["prophet", "convert", str(tmp_path / "action.safetensors"), str(tmp_path / "out"), "--vae", str(vae)]
    assert main([*words, "--fresh", "scalar_actions", "--rate", "15", "--convention", "LOCAL_FRAME_DELTA"]) == 0
    assert "to be trained: scalar_actions, action_frames, memory" in capsys.readouterr().out
    network, _, config, _ = load_prophet(tmp_path / "out")
    assert config.control_rate_hz == 15.0 and config.convention is ActionConvention.LOCAL_FRAME_DELTA
    weights = dict(network.named_parameters())
    taken = [name for name in state if not name.startswith("scalar_actions.")]
    assert taken and all(torch.equal(weights[n].float(), state[n].to(torch.bfloat16).float()) for n in taken)
