"""``prophrl dataset mixture`` draws what the configuration asks for and says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from prophrl_nodes.cli.main import main

from prophrl_models.data.normalise import Normalisation
from tests.helpers.mixtures import publish


@pytest.fixture
def config(tmp_path: Path) -> Path:
    published = publish(tmp_path)
    file = tmp_path / "mixture.yaml"
    file.write_text(f"""
rates: native
batch_size: 2
window: {{history: 2, actions: 3}}
sources:
  spatial: {{dataset: libero, folder: {published.libero}}}
  bridge: {{folder: {published.bridge}}}
""")
    return file


def test_what_was_drawn_is_printed(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dataset", "mixture", str(config), "--batches", "8"]) == 0
    out = capsys.readouterr().out
    assert "2x6x256x256x3" in out and "CONTROLLER_SERVO" in out and "proportional to windows" in out
    assert "8 batches of 2, 18.9 MB of pictures" in out and "MB/s with 0 workers" in out


def test_scripts_get_counts_and_statistics_are_written(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "statistics"
    words = ["dataset", "mixture", str(config), "--batches", "6", "--json", "--statistics", str(out)]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert [source["source"] for source in found["sources"]] == ["spatial", "bridge"]
    assert sum(source["drawn"] for source in found["sources"]) == 6 == found["batches"]
    assert [source["windows"] for source in found["sources"]] == [6 + 4, 5 + 3 + 4 + 6]
    assert Normalisation.load(out / "bridge/effector_0").action.count == 7 + 5 + 6 + 8


def test_a_wrong_configuration_is_explained(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.write_text(config.read_text().replace("native", "same"))
    assert main(["dataset", "mixture", str(config)]) == 1
    assert "different control rates: spatial 20 Hz, bridge 5 Hz" in capsys.readouterr().err
    assert main(["dataset", "mixture", str(config.parent / "none.yaml")]) == 1
    assert "no mixture configuration" in capsys.readouterr().err
    assert main(["dataset", "mixture", str(config), "--batches", "-1"]) == 1
