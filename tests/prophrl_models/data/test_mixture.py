"""Batches hold one dataset each, drawn as often as asked, every window once per epoch; wrong mixtures are refused."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from calibration.poses import ActionConvention
from prophrl_models.data.dataset import Dataset
from prophrl_models.data.lerobot.export import export_dataset
from prophrl_models.data.lerobot.video import VideoCodec
from prophrl_models.data.mixture import Mixture
from prophrl_models.data.mixture_batch import MixtureBatch, collate
from prophrl_models.data.mixture_config import MixtureError, SourceConfig, load_mixture, mixture_from
from prophrl_models.data.mixture_index import EffectorStatistics, scan
from prophrl_models.data.mixture_weights import BLOCK, SourceChoice, WindowOrder, probabilities
from prophrl_models.data.registry.errors import RegistryError, UnknownDatasetError
from prophrl_models.data.registry.raw import RawEpisode
from prophrl_models.data.registry.sources import RegisteredDataset
from prophrl_models.data.registry.specs import SPECS
from prophrl_models.data.windows import WindowRule, cut
from tests.helpers.mixtures import Published, publish
from tests.helpers.numbered_episodes import write_dataset

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    return publish(tmp_path_factory.mktemp("published"))


def rows(batch: MixtureBatch) -> list[tuple[str, str, int]]:
    """Which window each row is."""
    return [(batch.source, e, int(a)) for e, a in zip(batch.episode_id, batch.anchor_B, strict=True)]


def test_every_batch_is_what_its_one_dataset_stores(published: Published) -> None:
    mixture = Mixture(published.mixture("austin_sailor", "libero", "bridge", "agibot"))
    seen = set()
    for number in range(24):
        batch = mixture.batch(number)
        seen.add(batch.source)
        dataset = RegisteredDataset(batch.source, getattr(published, batch.source))
        episodes = {episode.episode_id: episode for episode in dataset}
        assert batch.convention is dataset.spec.convention and batch.dataset == batch.source
        assert batch.rate_hz == dataset.rate_hz and batch.number == number and batch.history == 3
        size = (dataset.spec.resolution.height, dataset.spec.resolution.width)
        assert batch.images_BTHW3.shape == (3, 8, *size, 3) and batch.images_BTHW3.dtype == torch.uint8
        assert batch.action_BTN7.shape == (3, 4, 2, 7) and batch.state_BTN7.shape == (3, 8, 2, 7)
        assert batch.camera is None
        for row in range(3):
            episode, anchor = episodes[batch.episode_id[row]], int(batch.anchor_B[row])
            frames = [max(anchor + k, 0) for k in range(-3, 5)]
            assert batch.instruction[row] == episode.instruction
            assert np.array_equal(batch.state_BTN7[row], episode.state_TN7[frames])
            assert np.array_equal(batch.action_BTN7[row], episode.action_TN7[anchor : anchor + 4])
            assert anchor + 4 <= episode.actions_known and batch.action_valid_BT[row].all()
            assert batch.frame_valid_BT[row].tolist() == [anchor + k >= 0 for k in range(-3, 5)]
            assert batch.effector_mask_BN[row].tolist() == [True, batch.source == "agibot"]
            assert np.array_equal(batch.images_BTHW3[row, 3], episode.images_THW3[anchor])
            assert np.array_equal(batch.images_BTHW3[row, 0], episode.images_THW3[frames[0]])
    assert seen == {"austin_sailor", "libero", "bridge", "agibot"}


def test_sources_come_as_often_as_their_weights_say(published: Published) -> None:
    weights = {"austin_sailor": 1.0, "libero": 3.0, "bridge": 0.5}
    sources = tuple(published.source(name, weight=weight) for name, weight in weights.items())
    mixture = Mixture(published.mixture(sources=sources))
    draws = 20000
    counts = Counter(mixture.source_of(number).label for number in range(draws))
    expected = {name: draws * weight / 4.5 for name, weight in weights.items()}
    statistic = sum((counts[name] - expected[name]) ** 2 / expected[name] for name in weights)
    assert statistic < chi2.ppf(0.999, df=2)
    assert mixture.weighting == "weights as configured"


def test_without_weights_sizes_decide_and_temperature_levels(published: Published) -> None:
    mixture = Mixture(published.mixture())
    sizes = np.array([source.windows for source in mixture.sources])
    # frames minus 4 in each episode
    assert sizes.tolist() == [4 + 6 + 2, 5 + 3, 4 + 2 + 3 + 5]
    assert np.allclose([source.share for source in mixture.sources], sizes / sizes.sum())
    level = Mixture(published.mixture(temperature=2.0))
    assert np.allclose([source.share for source in level.sources], np.sqrt(sizes) / np.sqrt(sizes).sum())
    assert np.allclose(probabilities([10, 10**8], [None, None], 1e9), 0.5)
    assert np.allclose(probabilities([10, 10**8], [None, None], 1e-3), [0, 1])


def test_each_epoch_has_every_window_once_in_another_order(published: Published) -> None:
    mixture = Mixture(published.mixture("austin_sailor", batch_size=4))
    epochs = [[row for n in range(3 * e, 3 * e + 3) for row in rows(mixture.batch(n))] for e in range(3)]
    assert all(len(set(epoch)) == 12 for epoch in epochs)
    assert set(epochs[0]) == set(epochs[1]) == set(epochs[2])
    assert epochs[0] != epochs[1] != epochs[2]
    assert Mixture(published.mixture("austin_sailor", batch_size=4, seed=6)).draws(0) != mixture.draws(0)


def test_the_order_of_a_large_source_is_a_shuffle_within_groups() -> None:
    windows = np.random.default_rng(0).integers(0, 9, 500)
    order = WindowOrder(windows, 20, 3, "large")
    drawn = [order.draw(number) for number in range(order.windows)]
    assert len(set(drawn)) == order.windows == windows.sum()
    assert all(window < windows[episode] for episode, window in drawn)
    first = Counter(episode for episode, _ in drawn[:60])
    assert len(first) <= 20 and max(first.values()) < 9, "several episodes at a time, but no more than a group"
    assert [order.draw(n) for n in reversed(range(order.windows))] == drawn[::-1], "any order of asking"
    second = [order.draw(order.windows + number)[0] for number in range(60)]
    assert len(set(second) & set(first)) < 10, "the episodes that come first are others in the next epoch"


def test_a_draws_place_in_its_source_is_the_count_of_earlier_ones() -> None:
    choice = SourceChoice(np.array([0.2, 0.5, 0.3]), 1)
    placed = [choice.locate(number) for number in range(3 * BLOCK + 100)]
    for source in range(3):
        mine = [place for chosen, place in placed if chosen == source]
        assert mine == list(range(len(mine)))
        assert choice.drawn(3 * BLOCK + 100)[source] == len(mine)
    assert SourceChoice(np.array([0.2, 0.5, 0.3]), 1).locate(3 * BLOCK + 99) == placed[-1], "asked for directly"


def test_another_source_beside_it_does_not_change_a_sources_order(published: Published) -> None:
    alone = Mixture(published.mixture("bridge"))
    both = Mixture(published.mixture("libero", "bridge"))
    numbers = [n for n in range(40) if both.source_of(n).label == "bridge"][:5]
    assert [both.draws(n) for n in numbers] == [alone.draws(n) for n in range(5)]


def test_processes_can_work_on_the_same_dataset_at_a_time(published: Published) -> None:
    mixture = Mixture(published.mixture(run_length=4))
    labels = [mixture.source_of(number).label for number in range(80)]
    assert all(len(set(labels[n : n + 4])) == 1 for n in range(0, 80, 4)) and len(set(labels)) == 3
    drawn = Counter((labels[n], *draw) for n in range(80) for draw in mixture.draws(n))
    for source in mixture.sources:
        epochs, rest = divmod(labels.count(source.label) * 3, source.windows)
        found = {count for (label, *_), count in drawn.items() if label == source.label}
        assert found <= {epochs, epochs + 1}, "run length does not skip or repeat windows"
        assert mixture.positions(80)[source.label] == {"epoch": epochs, "position": rest}


def test_skipped_frames_bring_sources_to_one_rate(published: Published) -> None:
    sources = (published.source("austin_sailor", stride=2), published.source("agibot", stride=3))
    mixture = Mixture(published.mixture(sources=sources, rates="same", window=WindowRule(2, 2)))
    assert {mixture.batch(n).rate_hz for n in range(6)} == {10.0}
    with pytest.raises(
        MixtureError, match=r"different control rates: austin_sailor 20 Hz, bridge 5 Hz.*stride.*native"
    ):
        Mixture(published.mixture("austin_sailor", "bridge", rates="same"))


def test_another_convention_can_be_asked_for_per_source(published: Published) -> None:
    source = published.source("libero", convention=ActionConvention.LOCAL_FRAME_DELTA)
    batch = Mixture(published.mixture(sources=(source,))).batch(0)
    assert batch.convention is ActionConvention.LOCAL_FRAME_DELTA


def test_conventions_cannot_meet_in_a_batch(published: Published) -> None:
    rule = WindowRule(1, 2)
    servo = RegisteredDataset("libero", published.libero)[0]
    local = RegisteredDataset("libero", published.libero, convention=ActionConvention.LOCAL_FRAME_DELTA)[1]
    entries = [(episode, cut(episode, 1, rule)) for episode in (servo, local)]
    with pytest.raises(MixtureError, match="LOCAL_FRAME_DELTA, the batch is libero in CONTROLLER_SERVO"):
        collate(entries, source="x", convention=servo.convention, rate_hz=20.0, history=1, number=0)


def test_statistics_are_of_all_known_actions_of_each_arm(published: Published) -> None:
    sources = (published.source("agibot", stride=2), published.source("bridge"))
    mixture = Mixture(published.mixture(sources=sources), statistics=True)
    assert [len(mixture.statistics[label]) for label in ("agibot", "bridge")] == [2, 1]
    dataset = RegisteredDataset("bridge", published.bridge)
    actions = np.concatenate([episode.action_TN7[: episode.actions_known, 0] for episode in dataset])
    states = np.concatenate([episode.state_TN7[:, 0] for episode in dataset])
    found = mixture.statistics["bridge"][0]
    assert found.action.count == len(actions) and np.allclose(found.action.mean, actions.mean(0), atol=1e-6)
    assert np.allclose(found.state.std, states.std(0), atol=1e-6)
    arm = mixture.statistics["agibot"][1]
    both = RegisteredDataset("agibot", published.agibot)
    spans = np.concatenate([e.state_TN7[2:, 1, :3] - e.state_TN7[:-2, 1, :3] for e in both])
    assert arm.action.count == len(spans)
    # local motions are those of the base frame, turned: their lengths agree
    variance = np.square(arm.action.std[:3]) + np.square(arm.action.mean[:3])
    assert np.isclose(variance.sum(), np.square(spans).sum(axis=1).mean(), rtol=1e-4)
    assert arm.dataset_hash == mixture.sources[0].index.content
    with pytest.raises(MixtureError, match="statistics=True"):
        _ = Mixture(published.mixture("bridge")).statistics


def test_lengths_are_read_once_when_an_index_is_kept(published: Published, tmp_path: Path) -> None:
    told: list[str] = []
    config = published.mixture("bridge", "libero", index=tmp_path)
    first = Mixture(config, progress=lambda label, done, total: told.append(label))
    assert Counter(told) == {"bridge": 4, "libero": 2}
    again = Mixture(config, progress=lambda label, done, total: told.append(label))
    assert len(told) == 6 and again.plan() == first.plan()
    file = tmp_path / "bridge.json"
    raw = json.loads(file.read_text())
    raw["frames"] = [frames + 1 for frames in raw["frames"]]
    file.write_text(json.dumps(raw))
    stale = Mixture(published.mixture("bridge", index=tmp_path))
    with pytest.raises(MixtureError, match="the dataset changed, delete its index"):
        stale.batch(0)
    file.write_text("{")
    with pytest.raises(MixtureError, match=r"damaged.*delete it"):
        Mixture(config)


def test_lengths_from_tables_and_headers_are_those_of_the_episodes(
    published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dataset(tmp_path / "own", (6, 5, 9), depth=False)
    export_dataset(tmp_path / "own", tmp_path / "lerobot", codec=VideoCodec("h264"), progress=False)
    datasets = [
        RegisteredDataset(name, getattr(published, name)) for name in ("austin_sailor", "libero", "bridge", "agibot")
    ]
    datasets += [RegisteredDataset("own_robot", tmp_path / name) for name in ("own", "lerobot")]
    read: list[int] = []
    plain = RegisteredDataset.raw

    def counted(self: RegisteredDataset, index: int) -> RawEpisode:
        read.append(index)
        return plain(self, index)

    monkeypatch.setattr(RegisteredDataset, "raw", counted)
    for dataset in datasets:
        in_full = scan(dataset, "x", statistics=EffectorStatistics(1))
        assert read == list(range(len(dataset)))
        read.clear()
        found = scan(dataset, "x")
        assert found.frames_E.tolist() == in_full.frames_E.tolist() == [len(episode) for episode in dataset]
        assert found.content == in_full.content, "saved indices and runs stay valid"
        del read[-len(dataset) :]
        known = [dataset.frames(number) for number in range(len(dataset))]
        if dataset.source.format == "rlds":
            assert known == [None] * len(dataset) and read == list(range(len(dataset)))
        else:
            assert known == found.frames_E.tolist() and read == [0], "the first episode is looked at in full"
        read.clear()
    assert sum(dataset.source.format == "rlds" for dataset in datasets) == 2
    ours = [row.episode_id for row in Dataset(tmp_path / "own").table]
    for dataset in datasets[-2:]:
        assert [dataset.lasting_name(number) for number in range(3)] == ours, "an export keeps its episodes' names"
    assert datasets[0].lasting_name(0) == f"{datasets[0].spec.name}/{datasets[0][0].episode_id}"


def test_headers_show_what_is_damaged_or_missing(published: Published, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "bridge"
    shutil.copytree(published.bridge, folder)
    files = sorted(folder.rglob("*.parquet"))
    shutil.copy(files[2], files[1])
    source = replace(published.source("bridge"), folder=folder)
    with pytest.raises(MixtureError, match=r"source 'bridge', episode 1: .* rows, the episode table says"):
        Mixture(published.mixture(sources=(source,)))
    files[1].unlink()
    with pytest.raises(MixtureError, match=r"source 'bridge', episode 1: no .*fetch the dataset's data folder"):
        Mixture(published.mixture(sources=(source,)))


def test_damaged_episodes_are_refused_or_listed(published: Published, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "bridge"
    shutil.copytree(published.bridge, folder)
    sorted(folder.rglob("*.parquet"))[1].write_bytes(b"no parquet")
    source = replace(published.source("bridge"), folder=folder)
    with pytest.raises(MixtureError, match=r"source 'bridge', episode 1: .*leave_out_damaged: true"):
        Mixture(published.mixture(sources=(source,)))
    mixture = Mixture(published.mixture(sources=(replace(source, leave_out_damaged=True),)))
    ((number, reason),) = mixture.sources[0].index.left_out
    assert number == 1 and "parquet" in reason
    assert {episode for n in range(12) for episode, _ in mixture.draws(n)} == {0, 2, 3}


def test_wrong_mixtures_are_refused(published: Published, tmp_path: Path) -> None:
    with pytest.raises(UnknownDatasetError, match=r"'bridgee'; did you mean 'bridge'.*Valid names"):
        Mixture(published.mixture(sources=(SourceConfig("b", "bridgee", published.bridge),)))
    with pytest.raises(RegistryError, match="no folder"):
        Mixture(published.mixture(sources=(published.source("bridge", folder=tmp_path / "absent"),)))
    with pytest.raises(MixtureError, match=r"every episode of libero \(longest episode 9 frames, 10 needed\)"):
        Mixture(published.mixture("austin_sailor", "libero", window=WindowRule(0, 9)))
    for weight in (0.0, -1.0, float("nan")):
        with pytest.raises(MixtureError, match="source 'bridge': weight must be a positive number"):
            published.source("bridge", weight=weight)
    with pytest.raises(MixtureError, match="without a weight: libero; give all sources one, or none"):
        published.mixture(sources=(published.source("bridge", weight=1.0), published.source("libero")))
    with pytest.raises(MixtureError, match="at least one source"):
        published.mixture(sources=())
    with pytest.raises(MixtureError, match="numbered from 0"):
        Mixture(published.mixture("bridge")).batch(-1)
    info = published.bridge / "meta/info.json"
    empty = tmp_path / "empty"
    (empty / "meta").mkdir(parents=True)
    (empty / "meta/info.json").write_text(info.read_text())
    (empty / "meta/episodes.jsonl").write_text("")
    (empty / "meta/tasks.jsonl").write_text("")
    with pytest.raises(MixtureError, match="holds no episodes"):
        Mixture(published.mixture(sources=(published.source("bridge", folder=empty),)))


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({}, "sources must be a mapping"),
        ({"sources": {"droid": {}}}, "sources.droid: no 'folder'"),
        ({"sources": {"droid": {"folder": "d", "wieght": 1}}}, "unknown key 'wieght'.*did you mean 'weight'"),
        ({"sources": {"droid": {"folder": "d", "weight": "1"}}}, "sources.droid.weight must be a number, got '1'"),
        ({"sources": {"droid": {"folder": "d", "convention": "delta"}}}, "must be one of local_frame_delta"),
        ({"sources": {"droid": {"folder": "d"}}, "window": {"actions": 0}}, "window: actions must be at least 1"),
        ({"sources": {"droid": {"folder": "d"}}, "rates": "any"}, "rates must be 'same' or 'native'"),
        ({"sources": {"droid": {"folder": "d"}}, "temperature": 0}, "temperature must be a positive number"),
        ({"sources": {"droid": {"folder": "d", "weight": 1}}, "temperature": 2}, "temperature only acts"),
        ({"sources": {"droid": {"folder": "d"}}, "batch_size": True}, "batch_size must be a whole number"),
    ],
)
def test_wrong_configurations_name_the_key(raw: dict[str, object], words: str) -> None:
    with pytest.raises(MixtureError, match=words):
        mixture_from(raw)


def test_the_papers_configuration_is_the_papers(tmp_path: Path) -> None:
    config = load_mixture(ROOT / "config/train/mixture_paper.yaml")
    datasets = {source.dataset for source in config.sources}
    assert datasets == set(SPECS) - {"bridge", "own_robot"}, "those are held out"
    assert (config.window.history, config.window.actions, config.batch_size) == (60, 20, 16)
    assert all(source.weight is None and source.folder.parts[0] == "data" for source in config.sources)
    with pytest.raises(MixtureError, match="no mixture configuration"):
        load_mixture(tmp_path / "absent.yaml")
