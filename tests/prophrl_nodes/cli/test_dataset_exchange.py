"""``prophrl dataset export`` and ``import`` as one calls them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from prophrl_nodes.cli.main import main

from prophrl_models.data.dataset import Dataset
from tests.helpers.numbered_episodes import write_dataset


def test_a_dataset_goes_out_and_comes_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours = write_dataset(tmp_path / "ours", (4, 3))
    words = [str(ours.folder), str(tmp_path / "v3"), "--codec", "h264", "--depth", "--json"]
    assert main(["dataset", "export", *words]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["episodes"], said["frames"], said["resumed"]) == (2, 7, 0)
    assert main(["dataset", "import", str(tmp_path / "v3"), str(tmp_path / "again")]) == 0
    assert "2 episodes (2 new), 7 steps" in capsys.readouterr().out
    assert (Dataset(tmp_path / "again")[1].action_T7 == ours[1].action_T7).all()


def test_a_wish_that_cannot_be_met_is_one_line_and_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = write_dataset(tmp_path / "ours", (3,), depth=False)
    assert main(["dataset", "export", str(ours.folder), str(tmp_path / "v3"), "--depth"]) == 1
    assert capsys.readouterr().err.startswith("error: ") and not (tmp_path / "v3").exists()
    assert main(["dataset", "import", str(tmp_path), str(tmp_path / "again")]) == 1
    assert "no meta/info.json" in capsys.readouterr().err


def test_help_does_not_load_what_only_the_work_needs() -> None:
    code = (
        "import sys, prophrl_nodes.cli.dataset\n"
        "print([name for name in ('pyarrow', 'av', 'numpy', 'cv2') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
