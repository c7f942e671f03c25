"""Batches of clips: what is drawn, how it is packed, and that a batch depends on its number only."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from calibration.action_frame import render_action_frames
from calibration.poses import ActionConvention, from_euler
from prophrl_models.data.dataset import Dataset
from prophrl_models.data.latents import LatentCache, LatentSpec
from prophrl_models.data.latents_build import build_latents
from prophrl_models.data.mixture import Mixture
from prophrl_models.data.mixture_config import MixtureConfig, SourceConfig
from prophrl_models.data.windows import WindowRule
from prophrl_models.policies.interface import Scaling
from prophrl_models.prophet.clips import CachedClips, ClipBatch, ReadAhead, pack_actions, vary
from prophrl_models.prophet.clips_mixture import MixtureClips, mixture_action_frames
from prophrl_models.prophet.config import ProphetConfig, preset
from prophrl_models.prophet.train_settings import ClipOptions
from prophrl_models.training.settings import TrainingError
from tests.helpers.prophet_data import NARROW, new_codec, write_reaches
from tests.helpers.reaches import camera

RULE = WindowRule(history=60, actions=20, min_actions=4)
SCALING = Scaling((0.01, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0), (0.1, 0.2, 0.3, 1.0, 1.0, 1.0, 1.0))


def world(**network: object) -> ProphetConfig:
    base = preset("tiny")
    changed = dataclasses.replace(base.network, **network)  # type: ignore[arg-type]
    return dataclasses.replace(base, network=changed, codec=NARROW, action_scaling=SCALING)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return Dataset(write_reaches(tmp_path_factory.mktemp("reaches") / "dataset", 3))


@pytest.fixture(scope="module")
def cache(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> LatentCache:
    spec = LatentSpec(32, 48, "codec", True, RULE)
    return build_latents(dataset, new_codec(), spec, tmp_path_factory.mktemp("latents"), cameras=[camera()] * 3)


def same(a: ClipBatch, b: ClipBatch) -> bool:
    pairs = [(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(ClipBatch)]
    return all(torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y for x, y in pairs)


def test_actions_are_scaled_and_padded_as_the_network_takes_them() -> None:
    actions = torch.rand(2, 3, 1, 7)
    packed = pack_actions(actions, SCALING, 14)
    by_hand = (actions[:, :, 0].numpy() - np.array(SCALING.offset)) / np.array(SCALING.scale)
    np.testing.assert_allclose(packed[..., :7], by_hand, rtol=1e-5)
    assert not packed[..., 7:].any()
    two = pack_actions(torch.ones(1, 3, 2, 7), SCALING, 14, torch.tensor([[True, False]]))
    assert two[..., :7].all() and not two[..., 7:].any()  # an arm that is absent is zero, not the scaled zero
    with pytest.raises(TrainingError, match="actions of 14 numbers, the network takes 7"):
        pack_actions(torch.ones(1, 3, 2, 7), SCALING, 7)


def test_a_batch_depends_on_its_number_only(cache: LatentCache) -> None:
    options = ClipOptions(event_share=0.5)
    a = CachedClips([cache], world(), options, batch_size=3, seed=1)
    ahead = ReadAhead(CachedClips([cache], world(), options, batch_size=3, seed=1), 2)
    for number in (0, 1, 2, 7, 3):
        assert same(a.batch(number), ahead.batch(number))
    ahead.close()
    assert not same(a.batch(0), a.batch(1))
    assert not same(a.batch(0), CachedClips([cache], world(), options, batch_size=3, seed=2).batch(0))


def test_the_share_of_event_windows_is_what_was_asked_for(cache: LatentCache) -> None:
    plain = float(cache.event_N.mean())
    for share in (0.0, 0.6):
        clips = CachedClips([cache], world(), ClipOptions(event_share=share), batch_size=500)
        drawn = np.concatenate([clips.draws(n) for n in range(8)])
        expected = share + (1.0 - share) * plain
        assert abs(cache.event_N[drawn].mean() - expected) < 4 * np.sqrt(expected * (1 - expected) / 4000) + 1e-9


def test_held_out_episodes_are_never_drawn_and_two_datasets_both_are(cache: LatentCache) -> None:
    clips = CachedClips([cache, cache], world(), ClipOptions(), batch_size=400, left_out=[(0, 2), ()])
    drawn = np.array(clips.draws(0))
    first = drawn[drawn < len(cache)]
    assert set(cache.window_NI[first, 0]) == {1}
    assert set(cache.window_NI[drawn[drawn >= len(cache)] - len(cache), 0]) == {0, 1, 2}
    with pytest.raises(TrainingError, match="every episode is held out"):
        CachedClips([cache], world(), ClipOptions(), batch_size=1, left_out=[(0, 1, 2)])


def test_windows_are_drawn_as_often_as_their_dataset_weighs(cache: LatentCache) -> None:
    def second_share(options: ClipOptions) -> float:
        clips = CachedClips([cache, cache], world(), options, batch_size=500, left_out=[(0,), ()])
        return float(np.mean(np.concatenate([clips.draws(n) for n in range(8)]) >= len(cache)))

    kept = float(np.mean(cache.window_NI[:, 0] != 0))  # of the first of the two
    for weights, expected in (((), 1 / (1 + kept)), ((1.0, 3.0), 3 / (3 + kept)), ((2.0, 1.0), 1 / (1 + 2 * kept))):
        for events in (0.0, 0.5):
            share = second_share(ClipOptions(weights=weights, event_share=events))
            if not events:
                assert abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / 4000)
            else:
                near = [int((cache.event_N & keep).sum()) for keep in (cache.window_NI[:, 0] != 0, np.True_)]
                a, b = weights or (1.0, 1.0)
                of_events = b * near[1] / (a * near[0] + b * near[1])
                assert abs(share - (expected + of_events) / 2) < 4 * np.sqrt(0.25 / 4000)
    with pytest.raises(TrainingError, match="1 numbers for 2 datasets"):
        second_share(ClipOptions(weights=(2.0,)))
    for wrong in ((1.0, 0.0), (1.0, float("inf")), 3.0):
        with pytest.raises(TrainingError, match="must be a list of positive numbers"):
            ClipOptions(weights=wrong)  # type: ignore[arg-type]


def test_draws_without_weights_are_what_they_always_were(cache: LatentCache) -> None:
    clips = CachedClips([cache], world(), ClipOptions(event_share=0.5), batch_size=6, seed=4)
    rng = np.random.default_rng((4, 9))
    anywhere, near = rng.choice(np.arange(len(cache)), 6), rng.choice(np.flatnonzero(cache.event_N), 6)
    assert clips.draws(9) == np.where(rng.random(6) < 0.5, near, anywhere).tolist()


def test_streams_that_the_network_lacks_are_left_out(cache: LatentCache) -> None:
    full = CachedClips([cache], world(), ClipOptions(), batch_size=2).batch(0)
    assert full.history_BCMHW is not None and full.frame_latent_BCLHW is not None and full.actions_BAX is not None
    assert tuple(full.history_BCMHW.shape) == (2, 16, 15, 4, 6) and tuple(full.actions_BAX.shape) == (2, 20, 14)
    assert not full.valid_BL[:, 0].any()
    bare = CachedClips(
        [cache], world(memory=None, action_frames="none", scalar_actions=False), ClipOptions(), batch_size=2
    ).batch(0)
    assert bare.history_BCMHW is None and bare.frame_latent_BCLHW is None and bare.actions_BAX is None


def test_variation_leaves_the_target_and_touches_what_it_should(cache: LatentCache) -> None:
    batch = CachedClips([cache], world(), ClipOptions(), batch_size=64).batch(0).to(torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    assert same(vary(batch, ClipOptions(), generator), batch)
    noisy = vary(batch, ClipOptions(context_noise=0.5), generator)
    torch.testing.assert_close(noisy.latent_BCLHW[:, :, 1:], batch.latent_BCLHW[:, :, 1:], atol=0, rtol=0)
    assert noisy.history_BCMHW is not None and batch.history_BCMHW is not None
    size = (noisy.history_BCMHW - batch.history_BCMHW).std(dim=(1, 2, 3, 4))
    assert size.max() < 0.55 and size.min() < 0.1 < size.mean()  # uniform in 0 .. 0.5, row by row
    assert (noisy.latent_BCLHW[:, :, 0] - batch.latent_BCLHW[:, :, 0]).abs().max() > 0.1
    dropped = vary(batch, ClipOptions(drop_history=0.5, drop_actions=0.5, drop_frames=0.5), generator)
    assert dropped.history_BCMHW is not None and dropped.actions_BAX is not None
    still = (dropped.history_BCMHW == batch.latent_BCLHW[:, :, :1]).flatten(1).all(dim=1)
    assert 16 < int(still.sum()) < 48
    silent = (dropped.actions_BAX == 0).flatten(1).all(dim=1)
    assert 16 < int(silent.sum()) < 48
    assert dropped.frame_latent_BCLHW is not None
    blind = (dropped.frame_latent_BCLHW == 0).flatten(1).all(dim=1)
    assert int(blind.sum()) > 32 and bool(blind[silent].all())  # without actions there are no action frames either


def test_short_clips_are_the_beginning_of_whole_ones_and_as_frequent_as_asked(cache: LatentCache) -> None:
    batch = CachedClips([cache], world(), ClipOptions(), batch_size=2).batch(0).to(torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    cut = [vary(batch, ClipOptions(short_share=0.5), generator) for _ in range(200)]
    lengths = [clip.latent_BCLHW.shape[2] for clip in cut]
    assert set(lengths) == {2, 3, 4, 5, 6} and 70 < sum(n < 6 for n in lengths) < 130
    short = next(clip for clip in cut if clip.latent_BCLHW.shape[2] == 3)
    assert torch.equal(short.latent_BCLHW, batch.latent_BCLHW[:, :, :3])
    assert short.frame_latent_BCLHW is not None and batch.frame_latent_BCLHW is not None
    assert torch.equal(short.frame_latent_BCLHW, batch.frame_latent_BCLHW[:, :, :3])
    assert torch.equal(short.valid_BL, batch.valid_BL[:, :3]) and short.actions_BAX is batch.actions_BAX


def test_a_mixture_gives_the_clips_that_the_cache_gives(dataset: Dataset, cache: LatentCache) -> None:
    """The same dataset read as a mixture's source; pictures at 240 x 320 there, so shrink them here first."""
    source = SourceConfig("reaches", "own_robot", dataset.folder)
    rule = WindowRule(history=60, actions=20)
    mixture = Mixture(MixtureConfig((source,), window=rule, batch_size=2))
    config = dataclasses.replace(world(), image_height=240, image_width=320)
    clips = MixtureClips(mixture, new_codec(), config)
    batch, pictures = clips.batch(3), mixture.batch(3)
    assert tuple(batch.latent_BCLHW.shape) == (2, 16, 6, 30, 40)
    codec = new_codec()
    for row in range(2):
        position = [entry.episode_id for entry in dataset.table].index(pictures.episode_id[row])
        anchor = int(pictures.anchor_B[row])
        member = np.clip(np.arange(anchor - 63, anchor + 1), 0, None)  # the history's 60 and the known group
        frames = torch.from_numpy(np.array(dataset[position].color_THW3[member]))[None]
        groups = codec.encode_history(frames)[0]
        assert batch.history_BCMHW is not None
        torch.testing.assert_close(batch.latent_BCLHW[row, :, :1], groups[:, 15:], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(batch.history_BCMHW[row, :, 1:], groups[:, 1:15], atol=1e-4, rtol=1e-4)
        index = int(np.flatnonzero((cache.window_NI == (position, anchor)).all(axis=1))[0])
        cached = CachedClips([cache], config, ClipOptions(), batch_size=1).rows([index])
        assert batch.actions_BAX is not None and cached.actions_BAX is not None
        torch.testing.assert_close(batch.actions_BAX[row], cached.actions_BAX[0], atol=1e-5, rtol=1e-5)
        assert batch.valid_BL[row].tolist() == [False] + [True] * 5
    drawn, view = mixture_action_frames(pictures), camera()  # its calibration lies beside each episode
    assert drawn is not None and batch.frame_latent_BCLHW is not None
    blind = dataclasses.replace(pictures, camera=None)
    assert mixture_action_frames(blind) is None and clips.encoded(blind).frame_latent_BCLHW is None
    for row in range(2):
        poses = np.stack([from_euler(state[0, :6]) for state in pictures.state_BTN7[row, 60:].double().numpy()])
        opening = [float(pictures.state_BTN7[row, 60, 0, 6]), *pictures.action_BTN7[row, :, 0, 6].tolist()]
        expected = render_action_frames(poses, opening, view)
        assert expected.any() and np.abs(drawn[row].numpy().astype(int) - expected).mean() < 0.01
    later, again = clips.batch(4), MixtureClips(mixture, new_codec(), config).batch(4)
    assert same(later, again)  # a resumed run asks for a number in the middle first
    clips.close()


def test_mixtures_that_do_not_fit_are_refused(dataset: Dataset) -> None:
    source = SourceConfig("reaches", "own_robot", dataset.folder)
    short = Mixture(MixtureConfig((source,), window=WindowRule(history=20, actions=20), batch_size=2))
    with pytest.raises(TrainingError, match="20 past frames and 20 actions, the world model takes 60 and 20"):
        MixtureClips(short, new_codec(), world())
    mixture = Mixture(MixtureConfig((source,), window=WindowRule(history=60, actions=20), batch_size=2))
    other = dataclasses.replace(world(), convention=ActionConvention.LOCAL_FRAME_DELTA)
    with pytest.raises(TrainingError, match="ABSOLUTE_POSE_DIFFERENCE, the world model reads LOCAL_FRAME_DELTA"):
        MixtureClips(mixture, new_codec(), other)


def test_batches_of_clips_need_gripper_motion_for_event_shares(tmp_path: Path, cache: LatentCache) -> None:
    quiet = dataclasses.replace(ClipOptions(), event_share=0.1)
    still = LatentCache(cache.folder, rule=RULE)
    object.__setattr__(still, "event_N", np.zeros(len(still), bool))
    with pytest.raises(TrainingError, match="moves in none"):
        CachedClips([still], world(), quiet, batch_size=1)
    with pytest.raises(TrainingError, match=r"clips\.event_share must lie in 0\.\.1, got 1\.5"):
        ClipOptions(event_share=1.5)
