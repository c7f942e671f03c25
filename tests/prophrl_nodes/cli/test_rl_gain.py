"""``prophrl rl gain``: what does not go together is refused before anything is begun."""

from __future__ import annotations

from pathlib import Path

import pytest
from prophrl_nodes.cli.main import main


def test_a_judge_of_videos_has_no_use_for_planned_attempts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["rl", "gain", str(tmp_path), str(out), "--judge", "video", "--planned", "8"]) == 1
    assert "--planned 8" in capsys.readouterr().err and not out.exists()
