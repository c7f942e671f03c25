"""Datasets on disk: what goes in comes out, damage is noticed, an interrupted build goes on."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from calibration.poses import ActionConvention
from prophrl_models.data import build as build_module
from prophrl_models.data.bag import Bag
from prophrl_models.data.convert import convert_bag
from prophrl_models.data.dataset import Dataset, DatasetError, DatasetHeader, DatasetWriter, build_dataset
from prophrl_models.data.dataset_format import DATASET_FILE, is_complete
from prophrl_models.data.normalise import Normalisation, NormalisationError
from prophrl_models.data.synchronise import SyncSpec
from tests.helpers.recording import COLOR, Recording, record


def small(name: str, seed: int = 0, **said: str) -> Recording:
    return replace(record(1.5, seed=seed, width=64, height=48), episode_id=name, **said)


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three successes and one failure; do not write to it."""
    root = tmp_path_factory.mktemp("bags")
    for k in range(3):
        small(f"e{k}", seed=k).write(root)
    small("e3", seed=3, outcome="failure").write(root)
    return root


@pytest.fixture(scope="module")
def built(bags: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of them; do not write to it."""
    folder = tmp_path_factory.mktemp("datasets") / "built"
    build_dataset([bags], folder, progress=False)
    return folder


@pytest.fixture
def own(built: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return shutil.copytree(built, tmp_path / "own")


def test_episodes_come_back_as_they_were_converted(bags: Path, built: Path) -> None:
    dataset = Dataset(built)
    assert [row.episode_id for row in dataset.table] == ["e0", "e1", "e2"]
    for row, episode in zip(dataset.table, dataset, strict=True):
        original = convert_bag(Bag(bags / "place_cube" / row.episode_id))
        for name in ("color_THW3", "state_T7", "action_T7", "stamp_ns_T", "valid_T", "moving_T"):
            stored, wanted = getattr(episode, name), getattr(original, name)
            assert stored.dtype == wanted.dtype and (stored == wanted).all(), name
        for stream, stamps in original.source_stamp_ns_T.items():
            assert (episode.source_stamp_ns_T[stream] == stamps).all()
        assert episode.metadata == replace(original.metadata, extra=episode.metadata.extra)
        assert (episode.final.image_HW3 == original.final.image_HW3).all()
        assert episode.final.state_7.tolist() == original.final.state_7.tolist()
        assert row.steps == len(original) and row.calibration_id == "none"
    assert isinstance(dataset[0].color_THW3, np.memmap), "images stay on disk until they are looked at"


def test_only_successes_are_taken_unless_failures_are_asked_for(bags: Path, built: Path, tmp_path: Path) -> None:
    (left_out,) = Dataset(built).left_out
    assert left_out.source == "e3" and "outcome is 'failure'" in left_out.reason
    report = build_dataset([bags], tmp_path / "all", outcomes=("success", "failure"), progress=False)
    assert report.converted == 4
    assert [row.outcome for row in Dataset(tmp_path / "all").table] == ["success"] * 3 + ["failure"]


def test_episodes_that_were_not_accepted_or_belong_to_other_tasks_are_left_out(tmp_path: Path) -> None:
    small("good").write(tmp_path / "bags")
    refused = small("refused").write(tmp_path / "bags")
    sidecar = json.loads((refused / "episode.json").read_text())
    (refused / "episode.json").write_text(json.dumps({**sidecar, "accepted": False}))
    small("other", task="pull_tissue").write(tmp_path / "bags")
    report = build_dataset([tmp_path / "bags"], tmp_path / "out", tasks=["place_cube"], progress=False)
    assert {entry.source: entry.reason.split()[0] for entry in report.left_out} == {"refused": "not", "other": "task"}


def test_a_broken_bag_is_reported_and_the_others_are_converted(tmp_path: Path) -> None:
    small("good").write(tmp_path / "bags")
    small("blind").without(lambda s: s.topic == COLOR).write(tmp_path / "bags")
    cut = next(small("cut").write(tmp_path / "bags").glob("*.mcap"))
    cut.write_bytes(cut.read_bytes()[:5000])
    report = build_dataset([tmp_path / "bags"], tmp_path / "out", progress=False)
    assert report.converted == 1
    reasons = {entry.source: entry.reason for entry in report.left_out}
    assert "'camera/color/image_raw' is missing" in reasons["blind"]
    assert "prophrl bag recover" in reasons["cut"]
    assert not list((tmp_path / "out").rglob(".partial*"))


def test_nothing_to_take_is_an_error_with_the_reasons(tmp_path: Path) -> None:
    small("e", outcome="failure").write(tmp_path / "bags")
    with pytest.raises(DatasetError, match="no episodes: e: outcome is 'failure', wanted success"):
        build_dataset([tmp_path / "bags"], tmp_path / "out", progress=False)


def test_an_unknown_outcome_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'succes', choose among success, failure, unknown"):
        build_dataset([tmp_path], tmp_path / "out", outcomes=("succes",))


def test_an_interrupted_build_leaves_whole_episodes_and_is_resumed(
    bags: Path, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    real = build_module.convert_into

    def interrupted(folder, bag_path, header, topics):  # type: ignore[no-untyped-def]
        calls.append(bag_path.name)
        if len(calls) == 2:
            real(folder, bag_path, header, topics)
            (folder / "episode.json").unlink()  # as if killed before the last file was written
            raise KeyboardInterrupt
        return real(folder, bag_path, header, topics)

    monkeypatch.setattr(build_module, "convert_into", interrupted)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        build_dataset([bags], out, progress=False)
    assert [p.name for p in sorted((out / "episodes").iterdir()) if p.name[0] != "."] == ["000000"]
    with pytest.raises(DatasetError, match="unfinished; repeat the build"):
        Dataset(out)
    calls[:] = ["again"] * 2
    report = build_dataset([bags], out, progress=False)
    assert (report.resumed, report.converted) == (1, 2)
    assert calls[2:] == ["e1", "e2"], "what was done is not done again"
    assert Dataset(out).content_hash == Dataset(built).content_hash
    assert not list(out.rglob(".partial*"))


def test_repeating_a_build_converts_nothing_and_new_bags_are_added(bags: Path, own: Path, tmp_path: Path) -> None:
    before = Dataset(own).content_hash
    report = build_dataset([bags], own, progress=False)
    assert (report.converted, report.resumed, report.content_hash) == (0, 3, before)
    small("late", seed=9).write(tmp_path / "more")
    report = build_dataset([bags, tmp_path / "more"], own, progress=False)
    assert (report.converted, report.resumed) == (1, 3)
    assert report.content_hash != before
    assert Dataset(own).normalisation().dataset_hash == report.content_hash


def test_a_relabelled_bag_does_not_enter_a_dataset_twice(bags: Path, own: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(bags / "place_cube" / "e0", tmp_path / "bags" / "e0")
    sidecar = json.loads((copy / "episode.json").read_text())
    (copy / "episode.json").write_text(json.dumps({**sidecar, "note": "seen again"}))
    report = build_dataset([tmp_path / "bags"], own, progress=False)
    assert report.converted == 0
    assert "another version" in report.left_out[0].reason


def test_parallel_workers_build_the_same_dataset(bags: Path, built: Path, tmp_path: Path) -> None:
    report = build_dataset([bags], tmp_path / "out", workers=2, progress=False)
    assert report.content_hash == Dataset(built).content_hash
    Dataset(tmp_path / "out").verify()


def test_two_builds_cannot_write_the_same_folder_at_once(bags: Path, own: Path) -> None:
    first = DatasetWriter(own)
    with pytest.raises(DatasetError, match="being written by another build"):
        build_dataset([bags], own, progress=False)
    first.finish()
    assert build_dataset([bags], own, progress=False).resumed == 3


def test_building_with_another_convention_into_the_same_folder_is_refused(bags: Path, own: Path) -> None:
    header = DatasetHeader(convention=ActionConvention.LOCAL_FRAME_DELTA)
    with pytest.raises(DatasetError, match="choose another folder"):
        build_dataset([bags], own, header=header, progress=False)


def test_a_folder_with_other_things_in_it_is_not_written_to(bags: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(DatasetError, match="not empty"):
        build_dataset([bags], tmp_path, progress=False)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def change_json(path: Path, **changes: object) -> None:
    raw = json.loads(path.read_text())
    path.write_text(json.dumps({**raw, **changes}))


@pytest.mark.parametrize("convention", [None, "RELATIVE"])
def test_a_dataset_without_a_known_convention_is_refused(own: Path, convention: str | None) -> None:
    change_json(own / "dataset.json", convention=convention)
    with pytest.raises(DatasetError, match="LOCAL_FRAME_DELTA, ABSOLUTE_POSE_DIFFERENCE, CONTROLLER_SERVO"):
        Dataset(own)


def test_a_table_changed_by_hand_is_refused(own: Path) -> None:
    rows = json.loads((own / "dataset.json").read_text())["episodes"]
    change_json(own / "dataset.json", episodes=rows[:2])
    with pytest.raises(DatasetError, match="changed by hand"):
        Dataset(own)


def test_changed_actions_are_noticed_when_the_episode_is_read(own: Path) -> None:
    path = own / "episodes" / "000001" / "steps.npz"
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in stored.files}
    arrays["action_T7"][3, 0] += 0.001
    np.savez(path, **arrays)
    dataset = Dataset(own)
    assert len(dataset[0]) > 0
    with pytest.raises(DatasetError, match="000001: action_T7 hashes to"):
        dataset[1]


def test_a_changed_pixel_is_noticed_by_verification(own: Path) -> None:
    color = np.load(own / "episodes" / "000002" / "color_T240x320x3.npy", mmap_mode="r+")
    color[5, 7, 9, 1] ^= 1
    color.flush()
    with pytest.raises(DatasetError, match="000002: color_T240x320x3 hashes to"):
        Dataset(own).verify()


def test_a_relabelled_episode_is_noticed(own: Path) -> None:
    path = own / "episodes" / "000000" / "episode.json"
    record_ = json.loads(path.read_text())
    change_json(path, metadata={**record_["metadata"], "instruction": "do something else"})
    with pytest.raises(DatasetError, match="does not match the hash"):
        Dataset(own)[0]


def test_statistics_of_another_dataset_are_refused(own: Path) -> None:
    statistics = Normalisation.load(own)
    replace(statistics, dataset_hash="0" * 64).save(own)
    with pytest.raises(NormalisationError, match="belongs to dataset 000000000000"):
        Dataset(own).normalisation()


def test_no_dataset_names_the_command_that_builds_one(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="prophrl dataset build"):
        Dataset(tmp_path)


def test_windows_stay_inside_an_episode_and_avoid_steps_that_are_not_valid(tmp_path: Path) -> None:
    silent = small("gap").without(lambda s: s.topic == COLOR and 20 <= s.message.data[0] < 32)
    silent.write(tmp_path / "bags")
    small("whole").write(tmp_path / "bags")
    build_dataset([tmp_path / "bags"], tmp_path / "out", progress=False)
    dataset = Dataset(tmp_path / "out")
    windows = dataset.windows(4)
    assert {int(position) for position, _ in windows} == {0, 1}
    expected = [
        (position, step)
        for position, episode in enumerate(dataset)
        for step in range(len(episode) - 3)
        if episode.valid_T[step : step + 4].all()
    ]
    assert windows.tolist() == [list(pair) for pair in expected]
    assert not dataset[0].valid_T.all()
    moving = {tuple(pair) for pair in dataset.windows(2, moving_only=True).tolist()}
    still = {tuple(pair) for pair in dataset.windows(2).tolist()} - moving
    assert still and not any(dataset[p].moving_T[s : s + 2].any() for p, s in still)
    assert len(dataset.windows(10_000)) == 0


def test_an_episode_in_memory_can_be_added(built: Path, tmp_path: Path) -> None:
    episode = Dataset(built)[1]
    writer = DatasetWriter(tmp_path / "out")
    writer.add(episode, "fast-lane/1")
    writer.finish()
    again = Dataset(tmp_path / "out")[0]
    assert (again.action_T7 == episode.action_T7).all() and (again.color_THW3 == episode.color_THW3).all()


def test_an_episode_made_at_another_rate_cannot_be_added(built: Path, tmp_path: Path) -> None:
    writer = DatasetWriter(tmp_path / "out", DatasetHeader(sync=SyncSpec(control_rate_hz=5.0)))
    with pytest.raises(DatasetError, match="the dataset is"):
        writer.add(Dataset(built)[0], "x")


def test_the_calibration_in_force_is_kept_with_the_episode(tmp_path: Path) -> None:
    calibration = tmp_path / "camera.yaml"
    calibration.write_text("id: front-3\nfx: 212.0\n")
    small("e").write(tmp_path / "bags", calibration)
    build_dataset([tmp_path / "bags"], tmp_path / "out", progress=False)
    assert (tmp_path / "out/episodes/000000/calibration.yaml").read_text() == calibration.read_text()
    assert Dataset(tmp_path / "out").table[0].calibration_id == "front-3"


def test_the_progress_bar_counts_the_bytes_of_the_bags(
    bags: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build_dataset([bags], tmp_path / "out", progress=True)
    shown = capsys.readouterr().err
    assert "100%" in shown and "3 episodes" in shown


def test_a_dataset_counts_as_complete_when_it_is_written_to_its_end(built: Path, tmp_path: Path) -> None:
    assert is_complete(built)
    assert not is_complete(tmp_path)
    (tmp_path / DATASET_FILE).write_text(json.dumps({"complete": False}))
    assert not is_complete(tmp_path)
