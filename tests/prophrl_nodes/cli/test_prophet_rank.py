"""``prophrl prophet rank``: a genuine world model, classifier, dataset and policies, at their smallest."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from prophrl_nodes.cli import prophet_rank
from prophrl_nodes.studies.fast_summary import PolicyResult, Summary
from prophrl_nodes.studies.fast_trials import Contender, FastTrial, StudyError, TrialSettings, identified
from prophrl_nodes.studies.world_ranking import ImaginationSettings, unseen_starts

from calibration.storage import save_camera
from prophrl_models.data.dataset import Dataset, DatasetHeader, DatasetWriter
from prophrl_models.data.split import held_out
from prophrl_models.prophet.checkpoint import Sampling, save_prophet
from prophrl_models.prophet.codec import build_codec
from prophrl_models.prophet.config import preset
from prophrl_models.prophet.network import Prophet
from prophrl_models.prophet.trained_on import CODEC_RECORD, RECORD, TrainedOn
from prophrl_models.reward.calibration import Decision
from prophrl_models.reward.classifier import ClassifierConfig, SuccessClassifier
from prophrl_models.reward.classifier_files import save_classifier
from robot_bridge.twin.tasks import get_task
from tests.helpers.reaches import CONVENTION, camera, places, reach
from tests.helpers.twin_policies import write_untrained

TASK = "place_cube"
INSTRUCTION = get_task(TASK).instruction


def parsed(*words: str | Path) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    prophet_rank.register(parser)
    return parser.parse_args([str(word) for word in words])


def write_dataset(folder: Path, count: int) -> Dataset:
    writer = DatasetWriter(folder, DatasetHeader(convention=CONVENTION))
    for number, place in enumerate(places(count, 0)):
        episode = reach(place, number)
        writer.add(replace(episode, metadata=replace(episode.metadata, instruction=INSTRUCTION)), f"episode-{number}")
    writer.finish()
    for row in Dataset(folder).table:
        save_camera(folder / row.folder / "calibration.yaml", camera(), serial="drawn")
    return Dataset(folder)


def write_world(folder: Path, hashes: list[str], **said: object) -> Path:
    torch.manual_seed(0)
    config = preset("tiny")
    made_of = {"dataset_hashes": hashes, "calibration_ids": [], **said}
    network, codec = Prophet(config.network), build_codec(config.codec)
    return save_prophet(folder, network, codec, config, made_of, sampling=Sampling(steps=1, solver="euler"))


def write_trials(file: Path, checkpoints: list[Path], successes: list[int]) -> None:
    """As prophrl trials fast writes it."""
    settings = TrialSettings(TASK, 4)
    found = identified([Contender(folder.parent.name, folder) for folder in checkpoints], settings)
    rows = [
        PolicyResult(c, tuple(FastTrial(k, k < won, "", "", (), 9.0, 3, 0) for k in range(4)))
        for c, won in zip(found, successes, strict=True)
    ]
    file.write_text(json.dumps(Summary(settings, tuple(rows)).as_json()))


def test_policies_are_ranked_on_both_sides_and_verdicts_are_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_dataset(tmp_path / "data", 3)
    nothing = TrainedOn().to_json()
    world = write_world(tmp_path / "world", [], **{RECORD: nothing, CODEC_RECORD: nothing})
    looks = ClassifierConfig((INSTRUCTION,), frames=4, height=24, width=32, channels=(8, 8, 8, 8), token=16, heads=2)
    judge = save_classifier(tmp_path / "judge", SuccessClassifier(looks).eval(), Decision(), {"made_for": "a test"})
    policies = [write_untrained(tmp_path / name / "policy", TASK, seed) for seed, name in enumerate("abc")]
    write_trials(tmp_path / "twin.json", policies, [0, 2, 3])
    out = tmp_path / "ranking"
    words = (world, data.folder, *policies, "--judge", f"classifier:{judge}", "--task", TASK, "--out", out)
    brief = ("--seconds", "0.8", "--videos", "1", "--batch", "2", "--device", "cpu", "--trials", tmp_path / "twin.json")
    assert prophet_rank.run(parsed(*words, *brief, "--json")) == 0
    told = json.loads(capsys.readouterr().out)
    assert [p["name"] for p in told["policies"]] == ["a", "b", "c"]
    assert [p["twin"]["successes"] for p in told["policies"]] == [0, 2, 3]
    assert all(p["imagined"]["trials"] == 3 for p in told["policies"])
    assert "3 starts, of 3 in episodes that the world was not trained on (3 in all)." in told["notes"]
    assert Path(told["report"]).is_file() and len(list((out / "videos").glob("*.mp4"))) == 3
    kept = sorted((out / "imagined").glob("*.json"))
    changed = kept[0].stat().st_mtime_ns
    assert prophet_rank.run(parsed(*words, *brief)) == 0
    assert kept[0].stat().st_mtime_ns == changed  # nothing was imagined again
    assert "two-sided p" in capsys.readouterr().out
    write_trials(tmp_path / "twin.json", policies[:2], [0, 2])
    with pytest.raises(prophet_rank.UsageError, match=r"has no trials of c \(or of other weights\)"):
        prophet_rank.run(parsed(*words, *brief))


def test_only_starts_the_world_has_not_seen_are_used(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", 8)
    names = [f"reach-{k}" for k in range(8)]
    assert [row.episode_id for row in data.table] == names
    network, codec = TrainedOn.of(names[:5]).to_json(), TrainedOn.of(names[2:6]).to_json()
    # What counts are the episodes: the dataset was built anew since then, so its hash is another.
    world = write_world(tmp_path / "some", ["another"], **{RECORD: network, CODEC_RECORD: codec})
    starts, note = unseen_starts(data, world, INSTRUCTION)
    assert [start.source for start in starts] == names[6:]
    assert note == "2 starts, of 2 in episodes that the world was not trained on (8 in all)."
    (one,) = unseen_starts(data, world, INSTRUCTION, most=1)[0]
    assert one.source in names[6:]
    everything = {RECORD: TrainedOn.of(names).to_json(), CODEC_RECORD: codec}
    with pytest.raises(StudyError, match="was trained on all 8 episodes"):
        unseen_starts(data, write_world(tmp_path / "all", [], **everything), INSTRUCTION)


def test_starts_of_worlds_that_do_not_say_what_they_have_seen_are_used_with_a_note(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", 8)
    world = write_world(tmp_path / "old", [data.content_hash], held_out={"fraction": 0.4, "seed": 2})
    starts, note = unseen_starts(data, world, INSTRUCTION)
    expected = {data.table[p].episode_id for p in held_out(data, 0.4, 2).held_out}
    assert {start.source for start in starts} == expected and 0 < len(expected) < 8
    assert "does not say whether it was trained on them (old, the codec of old)" in note


def test_impossible_rankings_are_refused(tmp_path: Path) -> None:
    words = (tmp_path, tmp_path, "a", "b", "--judge", "classifier:x", "--task", TASK, "--out", tmp_path / "out")
    with pytest.raises(prophet_rank.UsageError, match="at least 3 policies, got 2"):
        prophet_rank.run(parsed(*words))
    with pytest.raises(prophet_rank.UsageError, match="is no world model's checkpoint folder"):
        prophet_rank.run(parsed(*words[:3], "c", *words[3:]))
    with pytest.raises(StudyError, match=r"got 8, 0, 16 and 12\.0"):
        ImaginationSettings(repeats=0)
    assert ImaginationSettings(execute_length=8, seconds=12.0).calls(10.0) == 15
