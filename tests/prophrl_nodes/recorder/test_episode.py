"""Where episodes live, what is written beside them, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from mcap.records import Metadata
from prophrl_nodes.recorder.episode import DiskFullError, EpisodeError, EpisodeInfo, EpisodeStore, open_episode
from prophrl_nodes.recorder.mcap_records import Damage, read_records
from prophrl_nodes.recorder.recording import Recording

from calibration.camera import PinholeCamera
from calibration.poses import transform
from calibration.storage import load_calibration, save_camera


@pytest.fixture
def store(tmp_path: Path) -> EpisodeStore:
    return EpisodeStore(tmp_path / "bags", reserve_bytes=0)


def test_an_episode_knows_its_circumstances_from_its_first_moment(store: EpisodeStore, tmp_path: Path) -> None:
    calibration = tmp_path / "camera.yaml"
    calibration.write_text("id: cell-7\nwidth: 424\n")
    info = EpisodeInfo(
        task="place_cube",
        instruction="place the cube in the bowl",
        operator="Ada",
        placement={"cube": [-0.6, 0.1, 0.0]},
        metadata={"attempt": 3},
        calibration_file=str(calibration),
    )
    folder = store.start(info)
    record = json.loads((folder.path / "episode.json").read_text())
    assert folder.path.parent == store.root / "incomplete"
    assert record["state"] == "recording" and record["outcome"] == "unknown" and record["accepted"] is None
    assert record["instruction"] == "place the cube in the bowl" and record["operator"] == "Ada"
    assert record["placement"] == {"cube": [-0.6, 0.1, 0.0]} and record["metadata"] == {"attempt": 3}
    assert record["calibration_id"] == "cell-7"
    assert (folder.path / "calibration.yaml").read_text() == calibration.read_text()
    assert record["episode_id"] == folder.path.name and record["episode_id"].endswith("-place_cube")
    assert len(record["git_revision"].removesuffix("+dirty")) == 40


def test_accepting_moves_the_whole_episode_under_its_task(store: EpisodeStore) -> None:
    folder = store.start(EpisodeInfo(task="place_cube"))
    (folder.path / "x.mcap").write_bytes(b"data")
    path = store.accept(folder, "success", "neat")
    assert path.parent == store.root / "place_cube"
    assert (path / "x.mcap").read_bytes() == b"data"
    record = open_episode(path).record
    assert (record["accepted"], record["outcome"], record["note"]) == (True, "success", "neat")
    assert list((store.root / "incomplete").iterdir()) == []


def test_discarding_keeps_everything_elsewhere(store: EpisodeStore) -> None:
    folder = store.start(EpisodeInfo(task="place_cube"))
    (folder.path / "x.mcap").write_bytes(b"data")
    path = store.discard(folder, "failure", "dropped it")
    assert path.parent == store.root / "discarded"
    assert (path / "x.mcap").read_bytes() == b"data"
    assert open_episode(path).record["accepted"] is False


def test_an_unknown_outcome_is_refused_and_nothing_moves(store: EpisodeStore) -> None:
    folder = store.start(EpisodeInfo(task="place_cube"))
    with pytest.raises(EpisodeError, match="'great'; choose one of success, failure, unknown"):
        store.accept(folder, "great")
    assert folder.path.is_dir()


def test_nothing_is_started_when_the_disk_is_nearly_full(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    store = EpisodeStore(tmp_path / "bags", reserve_bytes=free * 2)
    with pytest.raises(DiskFullError, match=r"GB left.*prophrl bag compress"):
        store.start(EpisodeInfo(task="place_cube"))
    assert not (tmp_path / "bags" / "incomplete").exists()


@pytest.mark.parametrize("task", ["", "../elsewhere", "a/b", ".hidden", "incomplete", "discarded"])
def test_tasks_that_cannot_name_a_folder_are_refused(store: EpisodeStore, task: str) -> None:
    with pytest.raises(EpisodeError, match="task"):
        store.start(EpisodeInfo(task=task))


def test_an_episode_name_is_used_once_wherever_the_first_one_ended(store: EpisodeStore) -> None:
    first = store.start(EpisodeInfo(task="place_cube", episode_id="one"))
    store.discard(first, "failure")
    with pytest.raises(EpisodeError, match=r"'one' exists already in .*discarded"):
        store.start(EpisodeInfo(task="place_cube", episode_id="one"))


def test_a_missing_calibration_file_stops_the_episode_before_it_has_a_folder(store: EpisodeStore) -> None:
    with pytest.raises(EpisodeError, match=r"cannot read the camera calibration /nowhere/c.yaml"):
        store.start(EpisodeInfo(task="place_cube", calibration_file="/nowhere/c.yaml"))
    assert not (store.root / "incomplete").exists()


def test_a_calibration_without_an_id_is_known_by_its_content(store: EpisodeStore, tmp_path: Path) -> None:
    ids = []
    for text in ("fx: 212.0\n", "fx: 212.0\n", "fx: 213.0\n"):
        (tmp_path / "c.yaml").write_text(text)
        folder = store.start(EpisodeInfo(task="place_cube", calibration_file=str(tmp_path / "c.yaml")))
        ids.append(folder.record["calibration_id"])
    assert ids[0] == ids[1] != ids[2]
    assert all(i.startswith("sha256-") for i in ids)


def camera_at(x_m: float) -> PinholeCamera:
    return PinholeCamera(212.0, 212.0, 211.5, 119.5, 424, 240, transform((x_m, 0.0, 0.0)))


def test_a_calibration_replaced_between_two_episodes_shows_in_the_next_one_inside_and_beside_the_bag(
    store: EpisodeStore, tmp_path: Path
) -> None:
    file = tmp_path / "camera.yaml"
    seen = []
    for x_m in (0.5, 0.5, 0.505):
        expected = save_camera(file, camera_at(x_m), serial="234322304889")
        text = file.read_text()
        recording = Recording(store, EpisodeInfo(task="place_cube", calibration_file=str(file)))
        save_camera(file, camera_at(9.0), serial="234322304889")  # too late for the episode that has begun
        recording.close("done", {})
        folder = recording.folder
        records = {r.name: r.metadata for r in read_records(recording.writer.path, Damage()) if isinstance(r, Metadata)}
        assert records["prophrl.episode"]["calibration_id"] == expected == folder.record["calibration_id"]
        assert records["calibration"] == {"id": expected, "calibration.yaml": text}
        assert (folder.path / "calibration.yaml").read_text() == text
        assert load_calibration(folder.path / "calibration.yaml").id == expected
        seen.append(expected)
    assert seen[0] == seen[1] != seen[2]


def test_a_calibration_edited_by_hand_is_not_recorded_under_the_id_it_had(store: EpisodeStore, tmp_path: Path) -> None:
    file = tmp_path / "camera.yaml"
    save_camera(file, camera_at(0.5), serial="1")
    file.write_text(file.read_text().replace("fx: 212.0", "fx: 214.0"))
    with pytest.raises(EpisodeError, match=r"wrong calibration.*was edited after calibration"):
        store.start(EpisodeInfo(task="place_cube", calibration_file=str(file)))


def test_a_folder_that_is_no_episode_is_named_as_such(tmp_path: Path) -> None:
    with pytest.raises(EpisodeError, match=r"holds no episode\.json"):
        open_episode(tmp_path)
    (tmp_path / "episode.json").write_text("{broken")
    with pytest.raises(EpisodeError, match=r"is not valid JSON.*prophrl bag recover"):
        open_episode(tmp_path)
