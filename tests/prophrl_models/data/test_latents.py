"""Latents on disk are what encoding a window's own pictures gives, whatever interrupts their making."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from calibration.action_frame import PLUMB_STYLE, render_action_frames
from calibration.poses import from_euler
from prophrl_models.data.dataset import Dataset
from prophrl_models.data.latents import LatentCache, LatentError, LatentSpec
from prophrl_models.data.latents_build import build_latents, episode_action_frames
from prophrl_models.data.windows import WindowRule
from prophrl_models.prophet.codec import Codec
from prophrl_models.training.state_source import IntegratedState
from tests.helpers.prophet_data import new_codec, write_reaches
from tests.helpers.reaches import camera

RULE = WindowRule(history=8, actions=8, min_actions=4)
SPEC = LatentSpec(32, 48, "codec", True, RULE)
CLOSE = {"rtol": 2e-3, "atol": 2e-3}  # latents are kept in float16


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return Dataset(write_reaches(tmp_path_factory.mktemp("reaches") / "dataset", 3, gap=True))


@pytest.fixture(scope="module")
def cache(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> LatentCache:
    folder = tmp_path_factory.mktemp("latents")
    return build_latents(dataset, new_codec(), SPEC, folder, cameras=[camera()] * len(dataset))


class ByWindow:
    """The small codec, presented as one that sees whole clips."""

    groupwise = False

    def __init__(self) -> None:
        self.codec = new_codec()

    def encode(self, frames_BTHW3: Tensor) -> Tensor:
        return self.codec.encode(frames_BTHW3)

    def encode_history(self, frames_BTHW3: Tensor) -> Tensor:
        return self.codec.encode_history(frames_BTHW3)

    def encode_groups(self, frames_B4HW3: Tensor) -> Tensor:
        raise AssertionError("a codec of clips has no groups")

    def parameters(self) -> object:
        return self.codec.parameters()


def pictures(dataset: Dataset, position: int, frames: list[int]) -> Tensor:
    """Frames of an episode at 32 x 48, by the area rule written out: each pixel the mean of those it covers."""
    episode = dataset[position]
    every = np.concatenate([episode.color_THW3, episode.final.image_HW3[None]])
    chosen = every[np.clip(frames, 0, len(every) - 1)].astype(np.float64)
    # 240 / 32 = 7.5 rows and 320 / 48 = 6.67 columns: average after repeating each pixel to a common grid.
    small = chosen.repeat(2, axis=1).repeat(3, axis=2).reshape(len(frames), 32, 15, 48, 20, 3).mean(axis=(2, 4))
    return torch.from_numpy(np.rint(small).astype(np.uint8))[None]


@pytest.mark.parametrize("which", [0, 5, 11, -1])
def test_a_window_is_what_its_pictures_encode_to(dataset: Dataset, cache: LatentCache, which: int) -> None:
    codec = new_codec()
    window = cache.window(which % len(cache))
    position, anchor = (int(value) for value in cache.window_NI[which])
    # One row of groups: the known one ends with the known frame, the history lies before it.
    groups = codec.encode_history(pictures(dataset, position, list(range(anchor - 11, anchor + 9))))[0].numpy()
    past, clip = groups[:, :2], groups[:, 2:]
    # Rounding half-way pixels may differ by one grey level between two area averages.
    np.testing.assert_allclose(window.clip_CLhw, clip, rtol=0.02, atol=0.03)
    np.testing.assert_allclose(window.history_CMhw, past, rtol=0.02, atol=0.03)


def test_action_frames_show_the_poses_that_the_actions_lead_to(dataset: Dataset, cache: LatentCache) -> None:
    episode, codec = dataset[1], new_codec()
    state = IntegratedState(dataset.convention)
    state.start(episode.state_T7[0])
    states = [state.state_7]
    for action in episode.action_T7:
        state.advance(action)
        states.append(state.state_7)
    index = int(np.flatnonzero((cache.window_NI == (1, 9)).all(axis=1))[0])
    chosen = np.stack(states)[9:18].astype(np.float64)
    poses = np.stack([from_euler(s[:6]) for s in chosen])
    drawn = render_action_frames(poses, chosen[:, 6], camera().resized(48, 32))
    latent = codec.encode(torch.from_numpy(drawn)[None])[0].numpy()
    found = cache.window(index).frame_CLhw
    assert found is not None
    np.testing.assert_allclose(found, latent, rtol=0.02, atol=0.03)


def test_a_plumb_line_is_in_the_action_frames_and_nowhere_else(
    dataset: Dataset, cache: LatentCache, tmp_path: Path
) -> None:
    spec, codec = replace(SPEC, plumb_line=True), new_codec()
    plumb = build_latents(dataset, codec, spec, tmp_path, cameras=[camera()] * len(dataset))
    drawn = episode_action_frames(dataset[0], camera().resized(48, 32), PLUMB_STYLE)
    expected = codec.encode(torch.from_numpy(drawn[:9])[None])[0].numpy()
    index = int(np.flatnonzero((cache.window_NI == (0, 0)).all(axis=1))[0])
    plain, marked = cache.window(index), plumb.window(index)
    np.testing.assert_array_equal(marked.clip_CLhw, plain.clip_CLhw)
    assert marked.frame_CLhw is not None and plain.frame_CLhw is not None
    np.testing.assert_allclose(marked.frame_CLhw, expected, rtol=0.02, atol=0.03)
    assert np.abs(marked.frame_CLhw - plain.frame_CLhw).max() > 0.1
    assert LatentCache(plumb.folder).spec == spec != cache.spec


def test_holds_follow_an_episode_and_are_marked(dataset: Dataset, cache: LatentCache) -> None:
    steps = dataset.table[2].steps
    window = cache.window(int(np.flatnonzero((cache.window_NI == (2, steps - 5)).all(axis=1))[0]))
    assert window.action_valid_A.tolist() == [True] * 5 + [False] * 3
    assert window.latent_valid_L.tolist() == [True, True, False]  # the third latent is of frames 5 .. 8
    np.testing.assert_array_equal(window.action_A7[:5], dataset[2].action_T7[-5:])
    assert not window.action_A7[5:, :6].any()
    assert (window.action_A7[5:, 6] == dataset[2].action_T7[-1, 6]).all()


def test_windows_avoid_actions_that_are_not_to_be_trusted(dataset: Dataset, cache: LatentCache) -> None:
    anchors = set(cache.window_NI[cache.window_NI[:, 0] == 0][:, 1].tolist())
    steps = dataset.table[0].steps
    assert anchors == {t for t in range(steps - 3) if not t <= 10 < t + 8}


def test_event_windows_are_those_in_which_the_command_changes(dataset: Dataset, cache: LatentCache) -> None:
    for index, event in enumerate(cache.event_N):
        window = cache.window(index)
        position, anchor = cache.window_NI[index]
        before = dataset[int(position)].action_T7[max(int(anchor) - 1, 0), 6]
        openings = np.concatenate([[before], window.action_A7[window.action_valid_A, 6]])
        assert bool(event) == bool((np.abs(np.diff(openings)) > 0.05).any())
    assert cache.event_N.any() and not cache.event_N.all()


def test_a_codec_of_whole_clips_sees_the_known_frame_alone_and_the_history_before_it(
    dataset: Dataset, cache: LatentCache, tmp_path: Path
) -> None:
    by_window = build_latents(dataset, ByWindow(), SPEC, tmp_path, cameras=[camera()] * len(dataset))  # type: ignore[arg-type]
    assert not by_window.groupwise
    np.testing.assert_array_equal(by_window.window_NI, cache.window_NI)
    a, b = by_window.windows([0, 7, len(cache) - 1]), cache.windows([0, 7, len(cache) - 1])
    assert a.frame_CLhw is not None and b.frame_CLhw is not None
    np.testing.assert_allclose(a.clip_CLhw[:, :, 1:], b.clip_CLhw[:, :, 1:], **CLOSE)
    np.testing.assert_allclose(a.frame_CLhw, b.frame_CLhw, **CLOSE)
    position, anchor = (int(value) for value in cache.window_NI[7])
    known = new_codec().encode(pictures(dataset, position, [anchor]))[0].numpy()
    before = new_codec().encode_history(pictures(dataset, position, list(range(anchor - 8, anchor))))[0].numpy()
    np.testing.assert_allclose(a.clip_CLhw[1, :, :1], known, rtol=0.02, atol=0.03)
    np.testing.assert_allclose(a.history_CMhw[1], before, rtol=0.02, atol=0.03)
    with pytest.raises(LatentError, match="holds windows of"):
        LatentCache(by_window.folder, rule=replace(RULE, step=2))
    with pytest.raises(LatentError, match="whole windows only"):
        by_window.at(position, anchor)


def test_a_window_may_be_had_where_the_rule_has_none(cache: LatentCache) -> None:
    by_number = cache.window(7)
    position, anchor = (int(value) for value in cache.window_NI[7])
    by_place = cache.at(position, anchor)
    np.testing.assert_array_equal(by_place.clip_CLhw, by_number.clip_CLhw)
    last = int(cache.window_NI[cache.window_NI[:, 0] == 0, 1].max())
    late = cache.at(0, last + 1)  # one action fewer than the rule asks for
    assert int(late.action_valid_A.sum()) == RULE.real_actions - 1
    np.testing.assert_array_equal(late.clip_CLhw[:, 1], cache.at(0, last + 1 - 4).clip_CLhw[:, 2])


def test_bfloat16_gives_nearly_the_same_latents(dataset: Dataset, cache: LatentCache, tmp_path: Path) -> None:
    cameras = [camera()] * len(dataset)
    half = build_latents(dataset, new_codec(), SPEC, tmp_path, cameras=cameras, bfloat16=True)
    assert half.folder.name == cache.folder.name, "the same cache, however it was computed"
    a, b = half.window(3).clip_CLhw, cache.window(3).clip_CLhw
    assert a.dtype == b.dtype
    assert 0.0 < float(np.abs(a - b).mean()) < 0.02 * float(b.std())


def test_an_interrupted_build_goes_on_and_ends_the_same(dataset: Dataset, cache: LatentCache, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    codec, encoded = new_codec(), []
    with pytest.raises(KeyboardInterrupt):
        build_latents(dataset, codec, SPEC, tmp_path, cameras=[camera()] * len(dataset), tell=stop)
    [home] = tmp_path.iterdir()
    with pytest.raises(LatentError, match="cannot be read"):
        LatentCache(home)

    class Counting(ByWindow):
        groupwise = True  # type: ignore[assignment]

        def encode_groups(self, frames_B4HW3: Tensor) -> Tensor:
            encoded.append(len(frames_B4HW3))
            return self.codec.encode_groups(frames_B4HW3)

    again = build_latents(dataset, Counting(), SPEC, tmp_path, cameras=[camera()] * len(dataset))  # type: ignore[arg-type]
    assert sum(encoded) == 2 * (dataset.table[2].steps + 1 + 3)  # only the third episode: pictures and action frames
    assert again.folder.name == cache.folder.name
    for index in range(0, len(cache), 5):
        np.testing.assert_array_equal(again.window(index).clip_CLhw, cache.window(index).clip_CLhw)


def test_other_codecs_cameras_and_sizes_get_folders_of_their_own(dataset: Dataset, tmp_path: Path) -> None:
    moved = replace(camera(), cx=150.0)
    names = set()
    for spec, view in (
        (SPEC, camera()),
        (SPEC, moved),
        (replace(SPEC, codec_hash="another"), camera()),
        (replace(SPEC, image_height=48), camera()),
        (replace(SPEC, action_frames=False), camera()),
        (replace(SPEC, rule=replace(RULE, step=3)), camera()),  # rows of a group-wise cache serve every rule
    ):
        names.add(build_latents(dataset, new_codec(), spec, tmp_path, cameras=[view] * len(dataset)).folder.name)
    assert len(names) == 5


def test_missing_cameras_and_broken_codecs_are_refused(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(LatentError, match=r"1 of 3 episodes .* give a calibration with --camera"):
        build_latents(dataset, new_codec(), SPEC, tmp_path, cameras=[camera(), None, camera()])
    broken: Codec = new_codec()
    with torch.no_grad():
        next(broken.parameters()).fill_(float("nan"))
    with pytest.raises(LatentError, match="NaN"):
        build_latents(dataset, broken, SPEC, tmp_path, cameras=[camera()] * 3)


def test_changed_latents_are_refused(dataset: Dataset, tmp_path: Path) -> None:
    made = build_latents(dataset, new_codec(), SPEC, tmp_path, cameras=[camera()] * 3)
    file = made.folder / "episodes" / "000001" / "image_group_GChw.npy"
    array = np.load(file)
    array[3, 0, 0, 0] += 1.0
    np.save(file, array)
    with pytest.raises(LatentError, match="image_group_GChw was changed"):
        LatentCache(made.folder)
