"""One demonstration, collected by our own launch file in our own runner, on the whole twin."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from prophrl_nodes.recorder.episode import open_episode
from prophrl_nodes.recorder.inspection import check_bag

REQUIRED = ["camera/color/image_raw", "joint_states", "tcp_pose_broadcaster/pose", "gripper/state"]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_collected_demonstration_is_complete_and_nothing_is_left_running(tmp_path: Path, loopback_host: str) -> None:
    domain = 50 + os.getpid() % 10
    words = [f"host:={loopback_host}", f"domain:={domain}", "episodes:=1", "seed:=2", f"output:={tmp_path}"]
    command = [sys.executable, "-m", "prophrl_nodes.cli.main", "launch", "--own-runner", "collect", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=360, check=False)
    assert done.returncode == 0, done.stdout[-5000:]
    [bag] = (tmp_path / "bags" / "place_cube").iterdir()
    found = check_bag(bag, required=REQUIRED, max_dropped=0)
    assert found.problems == []
    record = open_episode(bag).record
    assert record["accepted"] and record["outcome"] == "success"
    assert record["calibration_id"] and (bag / "calibration.yaml").is_file()
    assert record["placement"]["task"] == "place_cube"
    assert found.topics["/tf_static"]["count"] >= 1 and found.topics["/joint_states"]["rate_hz"] > 60.0
    left = [p for p in psutil.process_iter(["cmdline"]) if loopback_host in " ".join(p.info["cmdline"] or [])]
    assert left == []
    assert not Path(f"/dev/shm/prophrl-twin-{loopback_host}/world.bin").exists()
