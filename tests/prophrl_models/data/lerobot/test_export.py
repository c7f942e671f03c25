"""Exporting: whole or not at all, resumed where it stopped, the same in parallel, wrong wishes refused at once."""

from __future__ import annotations

import fcntl
import filecmp
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from calibration.action_frame import render_action_frames
from calibration.poses import from_euler, integrate
from prophrl_models.data.dataset import Dataset, DatasetError, DatasetHeader, DatasetWriter
from prophrl_models.data.image import policy_camera
from prophrl_models.data.lerobot import export as export_module
from prophrl_models.data.lerobot.export import export_dataset
from prophrl_models.data.lerobot.extras import calibration_name
from prophrl_models.data.lerobot.format import LeRobotError
from prophrl_models.data.lerobot.reader import LeRobotReader
from prophrl_models.data.lerobot.stage import StagePlan
from prophrl_models.data.lerobot.video import VideoCodec
from prophrl_models.data.synchronise import SyncSpec
from tests.helpers.numbered_episodes import CONVENTION, LENGTHS, make_episode, psnr_db, write_dataset
from tests.helpers.reaches import camera

FAST = VideoCodec("h264")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Three episodes without depth and calibration; do not write to it."""
    return write_dataset(tmp_path_factory.mktemp("plain") / "dataset", depth=False)


def same_files(a: Path, b: Path) -> bool:
    """Same files with the same bytes."""
    names = [sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()) for root in (a, b)]
    return names[0] == names[1] and not any(filecmp.cmpfiles(a, b, names[0], shallow=False)[1:])


def test_an_interrupted_export_leaves_nothing_that_looks_finished_and_is_taken_up(
    plain: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[int] = []
    real = export_module.stage_episode

    def interrupted(plan: StagePlan, position: int) -> None:
        if len(done) == 2:
            (plan.staging / ".partial-killed").mkdir()  # as a killed process leaves it
            raise KeyboardInterrupt
        done.append(position)
        real(plan, position)

    monkeypatch.setattr(export_module, "stage_episode", interrupted)
    out = tmp_path / "v3"
    with pytest.raises(KeyboardInterrupt):
        export_dataset(plain.folder, out, codec=FAST, progress=False)
    assert not out.exists()
    monkeypatch.setattr(export_module, "stage_episode", lambda plan, i: (done.append(i), real(plan, i)))
    report = export_dataset(plain.folder, out, codec=FAST, progress=False)
    assert done == [0, 1, 2] and report.resumed == 2, "what was encoded is not encoded again"
    assert [p.name for p in tmp_path.iterdir()] == ["v3"], "nothing is left beside it"
    export_dataset(plain.folder, tmp_path / "at_once", codec=FAST, progress=False)
    assert same_files(out, tmp_path / "at_once")


def test_a_crash_while_the_folder_is_put_together_leaves_no_folder(
    plain: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object) -> None:
        raise OSError("disk full")

    out = tmp_path / "v3"
    with monkeypatch.context() as patched:
        patched.setattr(export_module, "write_side_rows", crash)
        with pytest.raises(OSError, match="disk full"):
            export_dataset(plain.folder, out, codec=FAST, progress=False)
    assert not out.exists()
    assert export_dataset(plain.folder, out, codec=FAST, progress=False).resumed == len(LENGTHS)
    assert len(LeRobotReader(out)) == len(LENGTHS)


def test_episodes_encoded_by_another_codec_are_not_taken_up(
    plain: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "v3"
    with monkeypatch.context() as patched:
        patched.setattr(export_module, "_assemble", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            export_dataset(plain.folder, out, codec=FAST, progress=False)
    report = export_dataset(plain.folder, out, codec=VideoCodec("h264", crf=35), progress=False)
    assert report.resumed == 0


def test_processes_side_by_side_write_the_same_bytes(dataset: Dataset, exported: Path, tmp_path: Path) -> None:
    out = tmp_path / "parallel"
    export_dataset(dataset.folder, out, camera="front", depth=True, action_frames=True, workers=2, progress=False)
    assert same_files(out, exported)


def test_an_empty_folder_is_filled_and_others_are_left_alone(plain: Dataset, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert export_dataset(plain.folder, tmp_path / "empty", codec=FAST, progress=False).episodes == 3
    for taken in ("empty", "file"):
        if taken == "file":
            (tmp_path / taken).write_text("mine")
        with pytest.raises(LeRobotError, match="is not an empty folder; choose another"):
            export_dataset(plain.folder, tmp_path / taken, codec=FAST, progress=False)
    assert (tmp_path / "file").read_text() == "mine"


def test_two_exports_to_one_place_do_not_meet(plain: Dataset, tmp_path: Path) -> None:
    staging = tmp_path / ".v3.export"
    staging.mkdir()
    with (staging / ".lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(LeRobotError, match="in use by another export"):
            export_dataset(plain.folder, tmp_path / "v3", codec=FAST, progress=False)


@pytest.mark.parametrize(
    ("wish", "reason"),
    [
        ({"depth": True}, "has no depth; build it with"),
        ({"action_frames": True}, "'e0' was recorded without a camera calibration"),
        ({"camera": "a/b"}, "camera 'a/b': a name has letters"),
        ({"camera": "action_frame"}, "is not action_frame"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_encoded(
    plain: Dataset, tmp_path: Path, wish: dict[str, bool | str], reason: str
) -> None:
    with pytest.raises(LeRobotError, match=reason):
        export_dataset(plain.folder, tmp_path / "v3", progress=False, **wish)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_a_broken_rate_is_refused(tmp_path: Path) -> None:
    episode = make_episode(0, 3, depth=False)
    writer = DatasetWriter(tmp_path / "ours", DatasetHeader(CONVENTION, SyncSpec(control_rate_hz=7.5)))
    writer.add(replace(episode, control_rate_hz=7.5), "0" * 64)
    writer.finish()
    with pytest.raises(LeRobotError, match=r"whole frames per second only, the dataset has 7\.5 Hz"):
        export_dataset(tmp_path / "ours", tmp_path / "v3", progress=False)


def test_a_damaged_picture_is_noticed(plain: Dataset, tmp_path: Path) -> None:
    own = shutil.copytree(plain.folder, tmp_path / "own")
    path = own / "episodes/000001/color_T240x320x3.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(DatasetError, match="000001: color_T240x320x3 hashes to"):
        export_dataset(own, tmp_path / "v3", codec=FAST, progress=False)
    assert not (tmp_path / "v3").exists()


def test_action_frames_show_what_integrating_the_actions_gives(dataset: Dataset, exported: Path) -> None:
    """Drawn here from the first state and the actions alone, which is what a policy's rollout has."""
    reader = LeRobotReader(exported)
    for number, episode in enumerate(dataset):
        T, opening = from_euler(episode.state_T7[0, :6]), float(episode.state_T7[0, 6])
        seen = reader.pictures(number, "observation.images.action_frame")
        for step in range(len(episode)):
            drawn = render_action_frames(T[None], [opening], policy_camera(camera()))[0]
            assert drawn.any(), "the tool is in the picture"
            assert psnr_db(seen[step], drawn) > 30.0
            T = integrate(T, episode.action_T7[step], CONVENTION)
            opening = float(episode.action_T7[step, 6])


def test_calibrations_are_copied_beside_once(dataset: Dataset, exported: Path, calibration_yaml: str) -> None:
    (file,) = (exported / "meta/prophrl/calibrations").iterdir()
    assert file.read_text() == calibration_yaml
    names = {calibration_name("cal/../x", "one"), calibration_name("cal/../x", "two")}
    assert len(names) == 2 and not any(".." in name or name.count("/") != 3 for name in names)


def test_episode_rows_carry_identity_outcome_and_quality(dataset: Dataset, exported: Path) -> None:
    for row, entry in zip(dataset.table, LeRobotReader(exported).episodes, strict=True):
        said = {key.removeprefix("prophrl/"): v for key, v in entry.columns.items() if key.startswith("prophrl/")}
        assert (said["episode_id"], said["outcome"], said["task"]) == (row.episode_id, row.outcome, row.task)
        assert (said["calibration_id"], said["valid_steps"]) == (row.calibration_id, row.valid_steps)
        assert (said["convention"], said["control_rate_hz"]) == (CONVENTION.name, 10.0)
        assert '"stale_ticks": 0' in said["quality"]
    assert np.unique([entry.columns["prophrl/outcome"] for entry in LeRobotReader(exported).episodes]).size == 2
