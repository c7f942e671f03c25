"""Settings by name: every shipped file is found, and a plan is not taken for settings."""

from __future__ import annotations

from pathlib import Path

import pytest
from prophrl_nodes.cli.presets import NO_PRESETS, PresetError, plan_file, preset_file

CONFIG = Path(__file__).parents[3] / "config"


@pytest.mark.parametrize("kind", ["prophet", "rl", "train"])
def test_every_shipped_file_is_found_by_its_name(kind: str) -> None:
    names = sorted(file.stem for file in (CONFIG / kind).glob("*.yaml"))
    assert names
    for name in names:
        found = plan_file(kind, name) if name in NO_PRESETS else preset_file(kind, name)
        assert found.read_bytes() == (CONFIG / kind / f"{name}.yaml").read_bytes()


def test_what_is_no_preset_is_refused_with_those_there_are() -> None:
    with pytest.raises(PresetError, match=r"no preset 'ablation'; choose one of .*small.*, or give a file"):
        preset_file("rl", "ablation")
    with pytest.raises(PresetError, match=r"config/rl has no plan\.yaml"):
        plan_file("rl", "plan")
