"""A window in the middle of an episode gives the world the real frames before it, as training does."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from prophrl_models.data.dataset import Dataset
from prophrl_models.prophet.codec import build_codec
from prophrl_models.prophet.config import preset
from prophrl_models.prophet.eval_data import Clip, ClipReader
from prophrl_models.prophet.network import Prophet
from prophrl_models.prophet.past import remembered_frames, with_past
from prophrl_models.prophet.playback import play
from prophrl_models.prophet.sampler import Sampler
from prophrl_models.prophet.worlds import ProphetState, ProphetWorld
from tests.helpers.drawn_world import DrawnWorld, write_dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_dataset(tmp_path_factory.mktemp("drawn"), (75,))


@pytest.fixture(scope="module")
def world() -> ProphetWorld:
    """The tiny architecture with random weights."""
    torch.manual_seed(0)
    config = preset("tiny")
    network, codec = Prophet(config.network), build_codec(config.codec)
    with torch.no_grad():
        for parameter in network.parameters():  # nothing may stay at zero, or conditions would not show
            parameter.add_(0.05 * torch.randn_like(parameter))
    return ProphetWorld(Sampler(network.eval(), steps=2), codec.eval(), config)


def begun(world: ProphetWorld, reader: ClipReader, clips: list[Clip]) -> ProphetState:
    first = torch.from_numpy(np.concatenate([reader.frames(clip, 0, 1) for clip in clips]))
    states = torch.from_numpy(np.stack([reader.state(clip) for clip in clips]))
    cameras = [reader.camera(clip) for clip in clips]
    return world.begin(first, states, cameras=cameras, seeds_B=range(len(clips)))


def test_the_history_is_that_of_the_real_frames(world: ProphetWorld, dataset: Dataset) -> None:
    reader = ClipReader(dataset, world.image_height, world.image_width)
    clips = [Clip(0, 66, 9), Clip(0, 10, 20)]
    frames = remembered_frames(world)
    past = torch.from_numpy(np.stack([reader.frames(clip, -frames, frames) for clip in clips]))
    assert frames == 63  # the network's 60, and the three that share a group with the known one
    assert (past[1, :54] == past[1, 0]).all() and not (past[1, 54] == past[1, 0]).all()  # repeated before the start
    state = with_past(world, begun(world, reader, clips), past)
    assert isinstance(state, ProphetState) and state.history is not None
    known = torch.from_numpy(np.concatenate([reader.frames(clip, 0, 1) for clip in clips]))
    groups = torch.cat([past, known[:, None]], dim=1).reshape(2 * 16, 4, *past.shape[2:])
    with torch.no_grad():
        wanted = world.codec.encode_groups(groups).unflatten(0, (2, 16)).transpose(1, 2)
    assert torch.allclose(state.history.latents(world.codec), wanted[:, :, :15], atol=1e-5)
    assert state.history.groups_BCNHW is not None
    assert torch.allclose(state.history.groups_BCNHW[:, :, -1:], wanted[:, :, 15:], atol=1e-5)


def test_play_gives_windows_their_past_and_starts_none(world: ProphetWorld, dataset: Dataset) -> None:
    reader = ClipReader(dataset, world.image_height, world.image_width)
    middle, start = Clip(0, 40, 20), Clip(0, 0, 20)
    for clip, equal in ((middle, False), (start, True)):
        played = next(play(world, reader, [clip], chunks=1, batch=1))
        actions = torch.from_numpy(reader.actions(clip, 0, world.actions))[None]
        forgetful = world.advance(begun(world, reader, [clip]), actions, world.actions)[1].numpy()
        assert np.array_equal(played.frames_BFHW3, forgetful) is equal


def test_a_wrong_past_is_refused(world: ProphetWorld, dataset: Dataset) -> None:
    reader = ClipReader(dataset, world.image_height, world.image_width)
    state = begun(world, reader, [Clip(0, 40, 20)])
    with pytest.raises(ValueError, match="the past must be uint8"):
        with_past(world, state, torch.zeros((1, 3, world.image_height, world.image_width, 3), dtype=torch.uint8))
    drawn = DrawnWorld()
    assert remembered_frames(drawn) == 0
    with pytest.raises(ValueError, match="remembers nothing"):
        with_past(drawn, state, torch.zeros(1))
