"""A world model's checkpoint comes back as it was saved, or is refused by name."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from prophrl_models.data.dataset import Dataset
from prophrl_models.prophet.checkpoint import (
    Sampling,
    load_prophet,
    read_config,
    read_sampling,
    save_prophet,
    state_sha256,
)
from prophrl_models.prophet.config import ProphetConfig, preset
from prophrl_models.prophet.network import Prophet
from prophrl_models.training.checkpoint import CheckpointError, sha256
from tests.helpers.prophet_data import NARROW, new_codec, write_reaches

PROVENANCE = {"dataset_hashes": ["abc"], "calibration_ids": []}
SAMPLING = Sampling(3, "euler", (0.99, 0.8, 0.5))


@pytest.fixture(scope="module")
def network() -> Prophet:
    torch.manual_seed(0)
    network = Prophet(preset("tiny").network)
    network.init_weights()
    return network


@pytest.fixture
def config() -> ProphetConfig:
    return dataclasses.replace(preset("tiny"), codec=NARROW)


@pytest.fixture
def folder(network: Prophet, config: ProphetConfig, tmp_path: Path) -> Path:
    return save_prophet(tmp_path / "world", network, new_codec(), config, PROVENANCE, sampling=SAMPLING)


def rewrite(folder: Path, name: str, **changes: object) -> None:
    """Change a JSON file of a checkpoint and the hash that covers it."""
    value = json.loads((folder / name).read_text())
    value.update(changes)
    (folder / name).write_text(json.dumps(value))
    if name != "provenance.json":
        record = json.loads((folder / "provenance.json").read_text())
        record["sha256"][name] = sha256(folder / name)
        (folder / "provenance.json").write_text(json.dumps(record))


def test_everything_comes_back(folder: Path, network: Prophet, config: ProphetConfig) -> None:
    loaded, codec, found, provenance = load_prophet(folder)
    assert found == config == read_config(folder)
    assert read_sampling(folder) == SAMPLING
    assert state_sha256(loaded.state_dict()) == state_sha256(network.state_dict())
    assert provenance["codec_hash"] == state_sha256(codec.state_dict()) == state_sha256(new_codec().state_dict())
    assert provenance["dataset_hashes"] == ["abc"] and provenance["git_revision"]
    latent, t = torch.randn(1, 16, 6, 4, 6), torch.full((1, 6), 0.5)
    with torch.no_grad():
        torch.testing.assert_close(loaded(latent, t), network.eval()(latent, t), atol=0, rtol=0)


def test_statistics_of_the_data_travel_along(network: Prophet, config: ProphetConfig, tmp_path: Path) -> None:
    dataset = Dataset(write_reaches(tmp_path / "dataset", 1))
    normalisation = dataset.normalisation()
    folder = save_prophet(tmp_path / "w", network, new_codec(), config, PROVENANCE, normalisation=normalisation)
    assert type(normalisation).load(folder) == normalisation
    (folder / "normalisation.json").unlink()
    with pytest.raises(CheckpointError, match=r"normalisation\.json is not the file that was saved"):
        load_prophet(folder)


def test_saving_again_replaces_and_leaves_nothing_behind(folder: Path, network: Prophet, config: ProphetConfig) -> None:
    save_prophet(folder, network, new_codec(1), config, PROVENANCE)
    assert read_sampling(folder) == Sampling()
    assert state_sha256(load_prophet(folder)[1].state_dict()) == state_sha256(new_codec(1).state_dict())
    assert [path.name for path in folder.parent.iterdir()] == ["world"]


def test_nan_weights_are_not_saved(network: Prophet, config: ProphetConfig, tmp_path: Path) -> None:
    state = {name: value.clone() for name, value in network.state_dict().items()}
    state["proj_out.weight"][0, 0] = float("nan")
    with pytest.raises(CheckpointError, match=r"proj_out\.weight holds NaN"):
        save_prophet(tmp_path / "w", network, new_codec(), config, PROVENANCE, state=state)
    assert not (tmp_path / "w").exists()


def test_weights_must_fit_their_configuration(network: Prophet, config: ProphetConfig, tmp_path: Path) -> None:
    other = dataclasses.replace(config, network=dataclasses.replace(config.network, blocks=3))
    with pytest.raises(CheckpointError, match="do not fit the configuration"):
        save_prophet(tmp_path / "w", network, new_codec(), other, PROVENANCE)
    with pytest.raises(CheckpointError, match="dataset_hashes"):
        save_prophet(tmp_path / "w", network, new_codec(), config, {"calibration_ids": []})


def test_altered_files_are_refused(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["proj_out.weight"][0, 0] += 1.0
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors is not the file that was saved"):
        load_prophet(folder)
    (folder / "codec.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"has no codec\.safetensors"):
        load_prophet(folder)


def test_unknown_formats_conventions_and_fields_are_refused(folder: Path) -> None:
    good = json.loads((folder / "config.json").read_text())
    rewrite(folder, "config.json", prophet={**good["prophet"], "convention": "SOMETHING"})
    with pytest.raises(CheckpointError, match="unknown action convention 'SOMETHING'"):
        load_prophet(folder)
    rewrite(folder, "config.json", prophet={**good["prophet"], "colour": 1})
    with pytest.raises(CheckpointError, match="colour"):
        load_prophet(folder)
    rewrite(folder, "config.json", prophet=good["prophet"], sampling={"steps": 4, "solver": "euler", "times": [0.5]})
    with pytest.raises(CheckpointError, match="4 falling numbers"):
        read_sampling(folder)
    rewrite(folder, "config.json", format=7)
    with pytest.raises(CheckpointError, match="format 7, this version reads 1"):
        read_config(folder)


@pytest.mark.parametrize("bad", [{"steps": 0}, {"solver": "magic"}, {"steps": 2, "times": (0.5, 0.9)}])
def test_sampling_that_cannot_be_is_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"sampling needs|falling"):
        Sampling(**bad)  # type: ignore[arg-type]
