"""Sub-commands at work: launch, bag, trials, twin."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prophrl_nodes.cli.main import main
from prophrl_nodes.recorder.episode import EpisodeInfo, EpisodeStore
from prophrl_nodes.recorder.writer import BagWriter

from robot_bridge.twin.tasks import HELD_OUT_CLEARANCE_M


@pytest.fixture
def bags(tmp_path: Path) -> Path:
    """Two recorded episodes: a complete one, and one whose recorder was killed in ``incomplete/``."""
    store = EpisodeStore(tmp_path / "bags", 0)
    for name in ("whole", "cut"):
        folder = store.start(EpisodeInfo(task="place_cube", instruction="go", episode_id=name))
        writer = BagWriter(folder.path, name)
        topic = writer.add_topic("/joint_states", "sensor_msgs/msg/JointState")
        for k in range(2000):
            now = time.time_ns()
            writer.write(topic, b"\x00\x01\x00\x00" + bytes(3000), now, now, b"p", k)
        if name == "whole":
            folder.record["topics"] = writer.summary()
            writer.close()
            store.accept(folder, "success")
        else:
            writer.flush_if_due()
            writer._mcap.flush()
            copy = folder.path / "copy"
            shutil.copy(writer.path, copy)  # what a killed process leaves
            writer.close()
            writer.path.write_bytes(copy.read_bytes())
            copy.unlink()
            (folder.path / "metadata.yaml").unlink()
    return tmp_path / "bags"


def run_json(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Any]:
    capsys.readouterr()
    code = main(list(words))
    return code, json.loads(capsys.readouterr().out)


def test_launch_dry_run_prints_commands_and_starts_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["launch", "collect.launch.yaml", "--dry-run", "cell:=ur30e", "episodes:=3"]) == 0
    said = capsys.readouterr().out
    assert "-p episodes:=3" in said and "[lab" not in said
    assert [line.split("]")[0][1:] for line in said.splitlines()][-1].startswith("session-")


def test_launch_lists_and_describes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["launch"]) == 0
    names = {line.split()[0] for line in capsys.readouterr().out.splitlines()}
    assert {"cell", "collect", "policy", "evaluate"} <= names
    assert main(["launch", "collect", "--show-args"]) == 0
    assert "'episodes':\n        good demonstrations to collect\n        (default: '10')" in capsys.readouterr().out


def test_bag_info_finds_every_bag_below_a_folder(bags: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = run_json(capsys, "bag", "info", "--json", str(bags))
    assert code == 0 and len(found) == 2
    whole = next(bag for bag in found if bag["episode"]["episode_id"] == "whole")
    assert whole["messages"] == 2000 and whole["complete"]
    assert whole["topics"]["/joint_states"]["dropped"] == 0
    assert main(["bag", "info", str(bags)]) == 0
    assert "task           place_cube" in capsys.readouterr().out


def test_bag_check_fails_on_a_bag_that_is_not_fit_for_use(bags: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bag", "check", str(bags / "place_cube"), "--require", "joint_states"]) == 0
    assert main(["bag", "check", str(bags)]) == 1
    assert "prophrl bag recover" in capsys.readouterr().out
    assert main(["bag", "check", str(bags / "place_cube"), "--require", "camera/color/image_raw"]) == 1


def test_bag_recover_rebuilds_and_files_what_a_crash_left(bags: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, results = run_json(capsys, "bag", "recover", "--json", str(bags / "incomplete"), "--accept", "success")
    assert code == 0
    assert results[0]["status"] == "ok" and results[0]["messages"] == 2000
    assert Path(results[0]["path"]) == bags / "place_cube" / "cut"
    assert main(["bag", "check", str(bags)]) == 0


def test_bag_recover_reports_the_worst_result_as_its_exit_code(bags: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cut = next((bags / "incomplete" / "cut").glob("*.mcap"))
    cut.write_bytes(cut.read_bytes()[:-500_000])
    assert main(["bag", "recover", str(bags)]) == 3
    (bags / "nothing.mcap").write_bytes(b"")
    assert main(["bag", "recover", str(bags)]) == 1
    assert "holds no readable message" in capsys.readouterr().out


def test_bag_compress_packs_and_leaves_damaged_bags_alone(bags: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = run_json(capsys, "bag", "compress", "--json", str(bags))
    assert code == 1
    assert said["bags"][0]["after"] < said["bags"][0]["before"] / 10
    assert len(said["failures"]) == 1 and "cut" in said["failures"][0]
    assert main(["bag", "check", str(bags / "place_cube")]) == 0


def test_trials_are_planned_once_and_sealed_until_they_are_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(tmp_path / "trials")
    words = ["trials", "plan", folder, "--task", "place_cube", "--trials", "3", "--policy", "old", "--policy", "new"]
    code, plan = run_json(capsys, *words, "--json")
    assert code == 0 and plan["trials"] == 6
    assert main(words) == 1  # a plan is never overwritten
    assert "never overwritten" in capsys.readouterr().err
    code, status = run_json(capsys, "trials", "status", folder, "--json")
    assert status == {"task": "place_cube", "trials": 6, "done": 0, "void": 0, "next": "t001"}
    assert main(["trials", "report", folder]) == 1
    assert "results stay sealed until then" in capsys.readouterr().err


def test_a_plan_for_gathering_data_stays_away_from_the_held_out_places(tmp_path: Path) -> None:
    def primary(name: str) -> list[tuple[float, float]]:
        plan = json.loads((tmp_path / name / "plan.json").read_text())
        return [tuple(place["objects"]["bottle"][:2]) for place in plan["placements"]]

    words = ["--task", "grasp_bottle", "--trials", "20"]
    assert main(["trials", "plan", str(tmp_path / "held_out"), *words]) == 0
    assert main(["trials", "plan", str(tmp_path / "play"), *words, "--play", "--seed", "3"]) == 0
    distances = [math.dist(a, b) for a in primary("play") for b in primary("held_out")]
    assert min(distances) >= HELD_OUT_CLEARANCE_M - 1e-9


@pytest.fixture
def no_lab(loopback_host: str) -> Iterator[str]:
    """An address without a lab."""
    yield loopback_host
    shutil.rmtree(f"/dev/shm/prophrl-twin-{loopback_host}", ignore_errors=True)


def test_twin_faults_are_set_listed_and_cleared(no_lab: str, capsys: pytest.CaptureFixture[str]) -> None:
    def value(name: str) -> float:
        faults = run_json(capsys, "twin", "fault", "--json", "--host", no_lab)[1]
        return float(next(fault["value"] for fault in faults if fault["name"] == name))

    assert main(["twin", "fault", "rtde_drop", "0.25", "--host", no_lab]) == 0
    assert value("rtde_drop") == 0.25
    assert main(["twin", "fault", "rtde_drp", "--host", no_lab]) == 1
    assert "did you mean 'rtde_drop'?" in capsys.readouterr().err
    assert main(["twin", "fault", "rtde_drop", "much", "--host", no_lab]) == 1
    assert "a number, true or false, got 'much'" in capsys.readouterr().err
    assert main(["twin", "fault", "--clear", "--host", no_lab]) == 0
    assert value("rtde_drop") == 0.0


def test_asking_a_lab_that_is_not_there_says_how_to_start_it(no_lab: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["twin", "status", "--host", no_lab]) == 1
    assert "start the lab" in capsys.readouterr().err
