"""World models that are given away in half precision."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from prophrl_models.prophet.checkpoint import Sampling, load_prophet, read_sampling, save_prophet
from prophrl_models.prophet.codec import build_codec
from prophrl_models.prophet.config import preset
from prophrl_models.prophet.network import Prophet
from prophrl_models.prophet.pack import pack_prophet
from prophrl_models.training.checkpoint import CheckpointError


@pytest.fixture
def original(tmp_path: Path) -> Path:
    config = preset("tiny")
    network = Prophet(config.network)
    network.init_weights(torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    codec = build_codec(config.codec)
    said = {"dataset_hashes": ["d"], "calibration_ids": ["c"], "training": {"steps": 3}}
    return save_prophet(tmp_path / "original", network, codec, config, said, sampling=Sampling(steps=4, solver="euler"))


def test_a_packed_world_is_half_as_large_and_computes_nearly_the_same(original: Path, tmp_path: Path) -> None:
    packed = pack_prophet(original, tmp_path / "packed", notes={"rebuild": "make it so"})
    for name in ("model.safetensors", "codec.safetensors"):
        assert (packed / name).stat().st_size < 0.6 * (original / name).stat().st_size
    (a, codec_a, config, _), (b, codec_b, again, said) = load_prophet(original), load_prophet(packed)
    assert again == config and read_sampling(packed) == read_sampling(original)
    for module, other in ((a, b), (codec_a, codec_b)):
        for name, value in module.state_dict().items():
            unpacked = other.state_dict()[name]
            assert unpacked.dtype is value.dtype, name
            torch.testing.assert_close(unpacked, value, rtol=1e-3, atol=1e-6)
    assert said["packed"] == "float16" and said["rebuild"] == "make it so" and said["training"] == {"steps": 3}


def test_notes_add_to_the_provenance_and_replace_nothing(original: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="says training itself"):
        pack_prophet(original, tmp_path / "packed", notes={"training": "none"})
    assert not (tmp_path / "packed").exists()


def test_it_is_never_written_over_something_else(original: Path, tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match="choose another folder"):
        pack_prophet(original, original)


def test_weights_too_large_for_half_precision_are_refused(original: Path, tmp_path: Path) -> None:
    network, codec, config, said = load_prophet(original)
    with torch.no_grad():
        network.proj_out.weight[0, 0] = 1.0e5
    folder = save_prophet(tmp_path / "wild", network, codec, config, {**said})
    with pytest.raises(CheckpointError, match=r"proj_out\.weight reaches 1e\+05"):
        pack_prophet(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
