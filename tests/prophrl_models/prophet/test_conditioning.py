"""The action streams and the configuration around them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from calibration.poses import ActionConvention
from prophrl_models.policies.interface import Scaling
from prophrl_models.prophet.codec_config import CodecConfig
from prophrl_models.prophet.conditioning import (
    PatchActionFrames,
    PooledActionFrames,
    ScalarActions,
    temporal_code,
)
from prophrl_models.prophet.config import PRESETS, NetworkConfig, ProphetConfig, preset


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def stir(module: torch.nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))


def test_scalar_actions_keep_the_order_of_steps_and_channels() -> None:
    stream = ScalarActions(20, 14, 32)
    actions = torch.randn(3, 20, 14)
    assert all(out.abs().max() == 0 for out in stream(actions))
    stir(stream)
    to_time, to_adaln = stream(actions)
    assert to_time.shape == (3, 1, 32) and to_adaln.shape == (3, 1, 96)
    # Weight column 14 s + x of the first layer belongs to step s, channel x (the flat vector of NVIDIA's network).
    w = stream.to_time.fc1.weight.detach().double().numpy()
    hidden = np.einsum("hsx,bsx->bh", w.reshape(128, 20, 14), actions.double().numpy())
    hidden = hidden + stream.to_time.fc1.bias.detach().double().numpy()
    gelu = 0.5 * hidden * (1 + np.tanh(math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden**3)))
    out = gelu @ stream.to_time.fc2.weight.detach().double().numpy().T + stream.to_time.fc2.bias.detach().numpy()
    np.testing.assert_allclose(to_time[:, 0].detach().numpy(), out, atol=1e-4)


def test_pooled_frames_see_places_only_through_their_neighbours() -> None:
    """A picture moved inside the borders has the same pooled vector: the paper's stream is not pixel-aligned."""
    stream = PooledActionFrames(16, 32)
    latent = torch.zeros(1, 16, 6, 12, 16)
    latent[:, :, :, 3:6, 3:6] = torch.randn(1, 16, 6, 3, 3)
    condition = torch.tensor([1.0, 0, 0, 0, 0, 0])
    assert all(out.abs().max() == 0 for out in stream(latent, condition))
    stir(stream)
    there = torch.roll(latent, (4, 6), dims=(3, 4))
    for a, b in zip(stream(latent, condition), stream(there, condition), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    # The condition frame contributes nothing but its temporal code, the others do.
    changed = latent + torch.randn_like(latent)
    difference = (stream(changed, condition)[0] - stream(latent, condition)[0]).abs().amax(dim=(0, 2))
    assert difference[0] == 0.0 and difference[1:].min() > 1e-4


def test_temporal_code_is_the_usual_sinusoid() -> None:
    code = temporal_code(6, 32, torch.device("cpu")).numpy()
    for place in range(6):
        for i in range(16):
            angle = place / 10000 ** (2 * i / 32)
            np.testing.assert_allclose(code[place, 2 * i : 2 * i + 2], [math.sin(angle), math.cos(angle)], atol=1e-6)


def test_patch_frames_reach_the_token_at_their_place() -> None:
    stream = PatchActionFrames(16, (1, 2, 2), 32)
    latent = torch.zeros(1, 16, 6, 4, 6)
    assert stream(torch.randn_like(latent)).abs().max() == 0
    stir(stream)
    latent[0, 5, 3, 1, 4] = 2.0  # row 1, column 4 of latent frame 3: token (3, 0, 2), place (1, 0) of its patch
    out = stream(latent).view(6, 2, 3, 32)
    touched = out.abs().amax(-1).nonzero().tolist()
    assert touched == [[3, 0, 2]]
    column = 5 * 4 + 1 * 2 + 0
    torch.testing.assert_close(out[3, 0, 2], 2.0 * stream.proj.weight[:, column])


@pytest.mark.parametrize("name", PRESETS)
def test_presets_go_through_json_unchanged(name: str) -> None:
    config = preset(name)
    assert ProphetConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
    assert ProphetConfig.from_json(config.to_json()) == config
    assert config.latent_frames == 6
    odd = replace(
        config,
        network=replace(config.network, memory=None),
        convention=ActionConvention.CONTROLLER_SERVO,
        action_scaling=Scaling((0.1,) * 7, (-2.0,) * 7),
    )
    assert ProphetConfig.from_json(json.loads(json.dumps(odd.to_json()))) == odd


def test_presets_pool_the_whole_latent_image() -> None:
    """The released strides cut the lower edge; ours, trained from scratch, do not."""
    for name in ("tiny", "small", "base"):
        config = preset(name)
        height, width = config.latent_size
        assert config.network.memory is not None
        assert all(height % rows == 0 and width % columns == 0 for _, rows, columns in config.network.memory.strides)


def changed(path: str, value: Any) -> dict[str, Any]:
    raw: dict[str, Any] = json.loads(json.dumps(preset("tiny").to_json()))
    *parents, leaf = path.split(".")
    place = raw
    for parent in parents:
        place = place[parent]
    if value is ...:
        del place[leaf]
    else:
        place[leaf] = value
    return raw


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("image_width", ..., "ProphetConfig lacks image_width"),
        ("colour", "red", "ProphetConfig has no field colour"),
        ("network.width", 60, r"width must be heads \* head_dim"),
        ("network.blocks", 0, "blocks must be positive"),
        ("network.blocks", ..., "NetworkConfig lacks blocks"),
        ("network.action_frames", "pool", "choose one of none, pooled, patch"),
        ("network.patch", [2, 2, 2], "a patch spans one latent frame"),
        ("network.memory", 3, "MemoryConfig must be an object"),
        ("network.memory.order", "new", "unknown memory order"),
        ("network.memory.strides", [[1, 8, 8]], "larger than the latent image of 4 x 6"),
        ("network.latent_channels", 8, "must agree on latent_channels"),
        ("convention", "LOCAL", "choose one of LOCAL_FRAME_DELTA"),
        ("image_height", 40, "image_height must be a multiple of 16, got 40"),
        ("control_rate_hz", 0, "control_rate_hz must be positive"),
        ("action_scaling.scale", [1.0], "one scale other than 0"),
    ],
)
def test_unusable_configurations_are_refused(path: str, value: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ProphetConfig.from_json(changed(path, value))


def test_other_refusals() -> None:
    with pytest.raises(ValueError, match="unknown preset 'huge'; choose one of tiny, small, base, 2b"):
        preset("huge")
    with pytest.raises(ValueError, match="head_dim must be even and at least 12"):
        NetworkConfig(width=20, heads=2, head_dim=10)
    with pytest.raises(ValueError, match="action_scaling needs 7 channels"):
        replace(preset("tiny"), action_scaling=Scaling((0.0,), (1.0,)))
    with pytest.raises(ValueError, match="exceed max_size"):
        ProphetConfig("x", NetworkConfig(max_size=(128, 8, 8), memory=None), CodecConfig(), 240, 320)
