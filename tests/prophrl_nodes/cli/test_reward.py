"""``prophrl reward``: judges are trained, tested and asked from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from prophrl_nodes.cli.main import main

from prophrl_models.reward.calibration import Decision
from prophrl_models.reward.classifier import ClassifierConfig, SuccessClassifier
from prophrl_models.reward.classifier_files import save_classifier
from prophrl_models.reward.judge import Confusion
from prophrl_models.trials.video import write_video
from tests.helpers.aimed_reaches import write_aimed
from tests.helpers.chat_server import serving
from tests.helpers.drawn_videos import TASK, carry


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for name, moves in (("success", True), ("failure", False)):
        (folder / name).mkdir()
        for number in range(2):
            write_video(folder / name / f"{number}.mp4", carry(number, moves_cube=moves)[0], 10.0)
    return folder


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = SuccessClassifier(ClassifierConfig((TASK,), frames=4, height=24, width=32, channels=(8, 8, 8, 8)))
    names = {"training": ["success/0.mp4"], "validation": [], "test": ["success/1.mp4"]}
    return save_classifier(tmp_path / "classifier", model, Decision(threshold=0.4), {"videos": names})


def test_a_classifier_judges_a_folder_of_videos(
    videos: Path, classifier: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(["reward", "judge", str(videos), "--task", "place_cube", "--classifier", str(classifier), "--json"]) == 0
    )
    rows = json.loads(capsys.readouterr().out)
    assert [Path(row["video"]).name for row in rows] == ["0.mp4", "1.mp4"] * 2
    assert all(row["success"] is True and row["score"] == 0.5 for row in rows), "an untrained head says one half"


def test_videos_of_the_training_are_left_out_of_the_test(
    videos: Path, classifier: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["reward", "test", str(videos), "--task", TASK, "--classifier", str(classifier)]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["skipped"] == 1 and found["rates"]["all"]["true_success"] == 1
    assert found["rates"]["all"]["precision"] == pytest.approx(1 / 3)
    assert main([*words, "--seen"]) == 0
    said = capsys.readouterr().out
    assert "0.500" in said and "1.000" in said and "failure  whole" in said


def test_a_server_judges_and_a_missing_judgement_shows_in_the_exit_code(
    videos: Path, loopback_host: str, capsys: pytest.CaptureFixture[str]
) -> None:
    video = str(videos / "success" / "0.mp4")
    with serving(loopback_host, lambda h, n, r: h.say(r"It lies in the bowl. \box{Success}")) as server:
        words = ["reward", "judge", video, "--task", TASK, "--server", server.url, "--model", "qwen", "--votes", "3"]
        assert main([*words, "--needed", "2"]) == 0
    assert "3 of 3 votes" in capsys.readouterr().out
    with serving(loopback_host, lambda h, n, r: h.say("I'm sorry, I can't.")) as server:
        words[words.index("--server") + 1] = server.url
        assert main([*words, "--needed", "2"]) == 1
    assert "no judgement" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["judge", "{v}", "--task", TASK, "--server", "http://127.0.0.1:1/v1"], "--server needs --model"),
        (["judge", "{v}", "--task", TASK, "--classifier", "{v}"], "has no model.safetensors"),
        (["judge", "{v}/none", "--task", TASK, "--classifier", "{v}"], "has no model.safetensors"),
        (["test", "{v}", "--classifier", "{v}"], "has no"),
        (["train", "{v}/out", "{v}"], "give --task"),
    ],
)
def test_mistakes_are_explained(
    videos: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["reward", *(word.replace("{v}", str(videos)) for word in words)]) == 1
    assert message in capsys.readouterr().err


def test_a_judge_of_trajectories_is_trained_and_tested_on_datasets(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, new = write_aimed(tmp_path / "data", 8).folder, write_aimed(tmp_path / "new", 4, seed=3).folder
    train = ["reward", "train", str(tmp_path / "run"), str(data), "--kind", "trajectory", "--steps", "2"]
    assert main(train) == 0
    said = capsys.readouterr().out
    folder = tmp_path / "run" / "classifier"
    assert f"classifier: {folder}" in said and "threshold 0." in said
    words = ["reward", "test", str(data), str(new), "--trajectory", str(folder), "--json"]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    counted = sum(found["rates"]["all"][name] for name in Confusion.of([], []).__dict__)
    assert found["skipped"] >= 6 and counted == 12 - found["skipped"]
    assert main([*words, "--made", "--seen"]) == 0
    kinds = {row["kind"]: row["videos"] for row in json.loads(capsys.readouterr().out)["mistakes"]}
    assert kinds["moved"] == 6

    assert main(["reward", "judge", str(videos), "--task", TASK, "--trajectory", str(folder)]) != 0
    assert "a video does not say what was commanded" in capsys.readouterr().err
    assert main([*train[:3], str(videos), *train[4:]]) != 0
    assert "is no dataset: a judge of trajectories needs actions" in capsys.readouterr().err
